// Whether the CUDA kernels are in this build.
#pragma once

#include <string_view>

namespace fpsa::kernel::cuda {

/// True when this build holds CUDA kernels.
bool available();
/// Why not, in words for an error message; empty when available.
std::string_view unavailable_reason();

}  // namespace fpsa::kernel::cuda
