#include "fpsa/ops/cuda_plan.h"

#include <c10/util/Exception.h>

#include <set>
#include <utility>

#include "fpsa/ops/fork.h"

namespace fpsa::ops {
namespace {

// Never destroyed, so that graphs may be replayed while the process ends.
void keep_for_graphs(const std::shared_ptr<const DevicePlan>& plan) {
  static auto& kept = *new std::set<std::shared_ptr<const DevicePlan>>;
  const auto lock = fork_safe_lock();
  kept.insert(plan);
}

}  // namespace

std::shared_ptr<const DevicePlan> plan_on_device(const Plan& plan, int device, void* stream) {
  namespace cuda = kernel::cuda;
  const bool capturing = cuda::is_capturing(stream);
  const auto found = plan.derived(device, [&]() -> std::shared_ptr<const void> {
    TORCH_CHECK_VALUE(!capturing, "attention: the plan of grid ", pattern::to_string(plan.order().grid()), ", tile ",
                      pattern::to_string(plan.order().tile()), " is not on cuda:", device,
                      " yet, and a graph is being captured, during which nothing can be uploaded; call attention once "
                      "with this grid, window and granularity before the capture");
    cuda::PlanImage image(plan.order(), plan.groups(), plan.mask());
    cuda::DeviceMemory memory(static_cast<int64_t>(image.bytes().size()));
    cuda::copy_to_device(memory.data(), image.bytes().data(), static_cast<int64_t>(image.bytes().size()));
    image.drop_bytes();
    return std::make_shared<const DevicePlan>(DevicePlan{std::move(image), std::move(memory)});
  });
  auto made = std::static_pointer_cast<const DevicePlan>(found);
  if (capturing) keep_for_graphs(made);
  return made;
}

}  // namespace fpsa::ops
