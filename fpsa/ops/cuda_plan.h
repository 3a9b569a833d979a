// A plan's arrays on a CUDA device.
#pragma once

#include <cstddef>
#include <cstdint>
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

/// A work list beside those of plans: of a plan's exchanged mask (rows are keys, for the backward), or of a cross plan.
struct DeviceWorkList {
  int64_t item_count = 0, paired = 0;  // as of a WorkList
  int64_t entries_at = 0;              // where the entries begin, in bytes
  kernel::cuda::DeviceMemory memory;

  const kernel::cuda::WorkItem* items() const {
    return static_cast<const kernel::cuda::WorkItem*>(memory.data());
  }
  const int32_t* entries() const {
    return reinterpret_cast<const int32_t*>(static_cast<const std::byte*>(memory.data()) + entries_at);
  }
};

/// Dense attention of queries to keys of another number: the dense plan of each, and the mask from one's tiles to the
/// other's.
struct CrossPlan {
  std::shared_ptr<const Plan> queries, keys;
  pattern::BlockMask mask;
  plan::Derived derived;
};

/// The plan of dense attention over tokens without a grid: in a row, in tiles of 512.
std::shared_ptr<const Plan> cuda_dense_plan(int64_t tokens);
/// The same for queries and keys of their own numbers, each 1 or more, from a cache of the most recent ones.
std::shared_ptr<const CrossPlan> cuda_cross_plan(int64_t queries, int64_t keys);

/// The plan on a device: made and uploaded when first asked for, kept with the plan (and so in the cache of plans,
/// which is bounded). Where it is asked for in a capture it stays for the life of the process, since a graph holds
/// addresses.
///   Requires  the device is current (kernel::cuda::DeviceScope)
///   Threads   safe; the upload waits for the copy, later calls wait for nothing
///   Errors    c10::Error: first asked for while `stream` is captured, when nothing may be allocated or uploaded
std::shared_ptr<const DevicePlan> plan_on_device(const Plan& plan, int device, void* stream);
std::shared_ptr<const DeviceWorkList> key_work_on_device(const Plan& plan, int device, void* stream);
/// of_keys: rows are keys.
std::shared_ptr<const DeviceWorkList> cross_work_on_device(const CrossPlan& plan, bool of_keys, int device,
                                                           void* stream);

}  // namespace fpsa::ops
