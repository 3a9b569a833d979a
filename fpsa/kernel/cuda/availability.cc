// What cuda.h says of devices, with and without the kernels in the build.
#include <algorithm>

#include "fpsa/base/check.h"
#include "fpsa/kernel/cuda/cuda.h"

namespace fpsa::kernel::cuda {
namespace {

constexpr char kNeeds[] = "the kernels run on compute capability 9.0 only (H100, H200, H20)";

std::string named(const DeviceInfo& device) {
  return join(device.name, " has ", device.major, '.', device.minor);
}

}  // namespace

std::string why_unavailable(const std::vector<DeviceInfo>& devices, int device) {
  if (devices.empty()) return "no CUDA device: this machine has no driver or no GPU; use --device cpu";
  if (device >= static_cast<int>(devices.size()))
    return join("no CUDA device ", device, ": this machine has ", devices.size());
  if (device >= 0) {
    const DeviceInfo& one = devices[static_cast<size_t>(device)];
    return one.runs_sm90a() ? std::string() : join(kNeeds, ", ", named(one), "; use the CPU or torch's dense attention");
  }
  if (std::ranges::any_of(devices, &DeviceInfo::runs_sm90a)) return {};
  std::string all;
  for (const DeviceInfo& one : devices)
    all += join(", ", named(one));
  return join(kNeeds, all, "; use --device cpu");
}

bool available() {
  return unavailable_reason().empty();
}

}  // namespace fpsa::kernel::cuda
