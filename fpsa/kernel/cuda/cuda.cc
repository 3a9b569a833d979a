// The symbols of cuda.h in a build with the sm_90a kernels. Until the operators call them, no device can be chosen.
#include "fpsa/kernel/cuda/cuda.h"

namespace fpsa::kernel::cuda {

bool available() {
  return false;
}

std::string_view unavailable_reason() {
  return "the sm_90a kernels are in this build, but the operators do not use them yet; use --device cpu";
}

}  // namespace fpsa::kernel::cuda
