#include "fpsa/ops/cuda_plan.h"

#include <c10/util/Exception.h>

#include <cstring>
#include <set>
#include <utility>
#include <vector>

#include "fpsa/ops/fork.h"

namespace fpsa::ops {
namespace {

namespace cuda = kernel::cuda;

// Never destroyed, so that graphs may be replayed while the process ends.
void keep_for_graphs(const std::shared_ptr<const void>& made) {
  static auto& kept = *new std::set<std::shared_ptr<const void>>;
  const auto lock = fork_safe_lock();
  kept.insert(made);
}

// The plan's object under a key, made by `make`, but not in a capture.
template <class T, class Make>
std::shared_ptr<const T> once(const Plan& plan, int key, int device, void* stream, const Make& make) {
  const bool capturing = cuda::is_capturing(stream);
  const auto made = plan.derived(key, [&]() -> std::shared_ptr<const void> {
    TORCH_CHECK_VALUE(!capturing, "attention: the plan of grid ", pattern::to_string(plan.order().grid()), ", tile ",
                      pattern::to_string(plan.order().tile()), " is not on cuda:", device,
                      " yet, and a graph is being captured, during which nothing can be uploaded; call attention once "
                      "with this grid, window and granularity before the capture");
    return std::make_shared<const T>(make());
  });
  if (capturing) keep_for_graphs(made);
  return std::static_pointer_cast<const T>(made);
}

}  // namespace

std::shared_ptr<const DevicePlan> plan_on_device(const Plan& plan, int device, void* stream) {
  return once<DevicePlan>(plan, 2 * device, device, stream, [&] {
    cuda::PlanImage image(plan.order(), plan.groups(), plan.mask());
    const auto bytes = static_cast<int64_t>(image.bytes().size());
    cuda::DeviceMemory memory(bytes);
    cuda::copy_to_device(memory.data(), image.bytes().data(), bytes);
    image.drop_bytes();
    return DevicePlan{std::move(image), std::move(memory)};
  });
}

std::shared_ptr<const DeviceKeyWork> key_work_on_device(const Plan& plan, int device, void* stream) {
  return once<DeviceKeyWork>(plan, 2 * device + 1, device, stream, [&] {
    const cuda::SegmentLayout layout(plan.order().tile_begin());
    const cuda::WorkList work(cuda::exchanged(plan.mask()), layout, layout);
    const size_t items = work.items.size() * sizeof work.items[0], entries = work.entries.size() * sizeof(int32_t);
    std::vector<std::byte> bytes(items + entries);
    std::memcpy(bytes.data(), work.items.data(), items);
    std::memcpy(bytes.data() + items, work.entries.data(), entries);
    cuda::DeviceMemory memory(static_cast<int64_t>(bytes.size()));
    cuda::copy_to_device(memory.data(), bytes.data(), static_cast<int64_t>(bytes.size()));
    return DeviceKeyWork{static_cast<int64_t>(work.items.size()), static_cast<int64_t>(items), std::move(memory)};
  });
}

}  // namespace fpsa::ops
