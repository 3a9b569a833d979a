#include "fpsa/ops/compute_dtype.h"

#include "fpsa/kernel/table.h"

namespace fpsa::ops {

at::ScalarType fast_compute_dtype() {
  return kernel::detected_isa() >= kernel::Isa::kAvx512 ? at::kBFloat16 : at::kFloat;
}

}  // namespace fpsa::ops
