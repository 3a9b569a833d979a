// The symbols of cuda.h in a build without CUDA kernels, so that callers need no #ifdef.
#include "fpsa/kernel/cuda/cuda.h"

namespace fpsa::kernel::cuda {

bool available() {
  return false;
}

std::string_view unavailable_reason() {
  return "the CUDA kernels are not in this build; use --device cpu";
}

}  // namespace fpsa::kernel::cuda
