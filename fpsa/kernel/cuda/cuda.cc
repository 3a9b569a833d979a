// The symbols of cuda.h in a build with the sm_90a kernels.
#include "fpsa/kernel/cuda/cuda.h"

namespace fpsa::kernel::cuda {

bool built() {
  return true;
}

std::string_view unavailable_reason() {
  static const std::string reason = why_unavailable(devices(), -1);
  return reason;
}

std::string unavailable_reason(int device) {
  return why_unavailable(devices(), device);
}

}  // namespace fpsa::kernel::cuda
