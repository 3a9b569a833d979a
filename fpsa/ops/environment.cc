#include "fpsa/ops/environment.h"

#include <cstdlib>
#include <mutex>

#include "fpsa/base/check.h"
#include "fpsa/kernel/table.h"

namespace fpsa::ops {

void apply_environment() {
  static std::once_flag once;  // stays unset when the call throws
  std::call_once(once, [] {
    const char* name = std::getenv("FPSA_ISA");
    if (name == nullptr || *name == '\0') return;
    try {
      kernel::force_isa(name);
    } catch (const Error& error) {
      throw Error(join("FPSA_ISA: ", error.what()));
    }
  });
}

}  // namespace fpsa::ops
