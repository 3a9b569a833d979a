// A plan's arrays on a CUDA device.
#pragma once

#include <memory>

#include "fpsa/kernel/cuda/device.h"
#include "fpsa/kernel/cuda/tiling/plan_image.h"
#include "fpsa/ops/plan.h"

namespace fpsa::ops {

/// What the sm_90a kernels read of a plan, on one device. Offsets and counts are the image's; its bytes are gone.
struct DevicePlan {
  kernel::cuda::PlanImage image;
  kernel::cuda::DeviceMemory memory;

  template <class T>
  const T* at(int64_t offset) const {
    return reinterpret_cast<const T*>(static_cast<const std::byte*>(memory.data()) + offset);
  }
  /// The raster row at each slot.
  const int32_t* row_of_slot() const { return at<int32_t>(image.quantize); }
};

/// The work list of a plan's exchanged mask, for the backward: rows are keys.
struct DeviceKeyWork {
  int64_t item_count = 0, entries = 0;  // entries: where they begin, in bytes
  kernel::cuda::DeviceMemory memory;
};

/// The plan on a device: made and uploaded when first asked for, kept with the plan (and so in the cache of plans, which
/// is bounded). Where it is asked for in a capture it stays for the life of the process, since a graph holds addresses.
///   Requires  the device is current (kernel::cuda::DeviceScope)
///   Threads   safe; the upload waits for the copy, later calls wait for nothing
///   Errors    c10::Error: first asked for while `stream` is captured, when nothing may be allocated or uploaded
std::shared_ptr<const DevicePlan> plan_on_device(const Plan& plan, int device, void* stream);
std::shared_ptr<const DeviceKeyWork> key_work_on_device(const Plan& plan, int device, void* stream);

}  // namespace fpsa::ops
