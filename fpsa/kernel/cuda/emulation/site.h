// The place in a kernel's source from which an instruction was issued.
#pragma once

#include <source_location>

namespace fpsa::kernel::cuda::emulation {

struct Site {
  const char* file = "";
  int line = 0;

  static constexpr Site current(std::source_location at = std::source_location::current()) {
    return {at.file_name(), static_cast<int>(at.line())};
  }
};

}  // namespace fpsa::kernel::cuda::emulation
