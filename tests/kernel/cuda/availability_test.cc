// What is said of devices, and that a build without the kernels refuses in words.
#include <gtest/gtest.h>

#include "fpsa/kernel/cuda/cuda.h"
#include "fpsa/kernel/cuda/launch.h"
#include "tests/error_of.h"

namespace fpsa::kernel::cuda {
namespace {

DeviceInfo device(int index, const char* name, int major, int minor) {
  DeviceInfo info;
  info.index = index;
  info.name = name;
  info.major = major;
  info.minor = minor;
  return info;
}

TEST(Availability, OneDeviceOfCapability90IsEnough) {
  const std::vector<DeviceInfo> both = {device(0, "NVIDIA A100", 8, 0), device(1, "NVIDIA H200", 9, 0)};
  EXPECT_EQ(why_unavailable(both, -1), "");
  EXPECT_EQ(why_unavailable(both, 1), "");
  EXPECT_EQ(why_unavailable(both, 0),
            "the kernels run on compute capability 9.0 only (H100, H200, H20), NVIDIA A100 has 8.0; use the CPU or "
            "torch's dense attention");
  EXPECT_EQ(why_unavailable(both, 2), "no CUDA device 2: this machine has 2");
}

TEST(Availability, OtherDevicesAreNamed) {
  const std::vector<DeviceInfo> others = {device(0, "NVIDIA A100", 8, 0), device(1, "NVIDIA B200", 10, 0)};
  EXPECT_EQ(why_unavailable(others, -1),
            "the kernels run on compute capability 9.0 only (H100, H200, H20), NVIDIA A100 has 8.0, NVIDIA B200 has "
            "10.0; use --device cpu");
  EXPECT_EQ(why_unavailable({}, -1),
            "no CUDA device: this machine has no driver or no GPU; use --device cpu");
}

TEST(Availability, WithoutADeviceLaunchesSayWhy) {
  if (available()) GTEST_SKIP() << "this machine has a device that runs the kernels";
  EXPECT_NE(error_of([] { DeviceMemory memory(1); }), "");
  AttentionFwdLaunch launch;
  launch.dim = 128;
  launch.batch = launch.heads = launch.item_count = 1;
  EXPECT_NE(error_of([&] { launch_attention_fwd_e4m3(launch, nullptr); }), "");
}

}  // namespace
}  // namespace fpsa::kernel::cuda
