// Whether the CUDA kernels can run here.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "fpsa/kernel/cuda/device.h"

namespace fpsa::kernel::cuda {

/// True when this build holds CUDA kernels, whether or not they can run here.
bool built();
/// True when it does and some device runs them. Asks the driver once (device.h).
bool available();
/// Why not, in words for an error message; empty when available.
std::string_view unavailable_reason();

/// The same for one device: why the kernels do not run there, empty when they do.
///   Errors    none: a device that does not exist is a reason as well
std::string unavailable_reason(int device);

/// The sentence for a list of devices, of which one is meant or, with -1, any. Pure, for tests.
std::string why_unavailable(const std::vector<DeviceInfo>& devices, int device);

}  // namespace fpsa::kernel::cuda
