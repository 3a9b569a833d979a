#include "fpsa/ops/cuda_plan.h"

#include <c10/util/Exception.h>

#include <cstring>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "fpsa/base/check.h"
#include "fpsa/ops/fork.h"
#include "fpsa/ops/recent.h"

namespace fpsa::ops {
namespace {

namespace cuda = kernel::cuda;

// As many as of plans (ops/plan.cc).
constexpr size_t kMaxCrossPlans = 32;

// Never destroyed, so that graphs may be replayed while the process ends.
void keep_for_graphs(const std::shared_ptr<const void>& made) {
  static auto& kept = *new std::set<std::shared_ptr<const void>>;
  const auto lock = fork_safe_lock();
  kept.insert(made);
}

// What is derived of a plan for a device.
enum class Part : int { kForward, kBackward };

// A part, made by `make`, but not in a capture. `what` names the plan in an error.
template <class T, class What, class Make>
std::shared_ptr<const T> once(const plan::Derived& derived, Part part, int device, void* stream, const What& what,
                              const Make& make) {
  const bool capturing = cuda::is_capturing(stream);
  const bool backward = part == Part::kBackward;
  const auto made = derived.get(2 * device + static_cast<int>(part), [&]() -> std::shared_ptr<const void> {
    TORCH_CHECK_VALUE(!capturing, "attention: the plan of ", what(), backward ? ", as its backward takes it," : "",
                      " is not on cuda:", device,
                      " yet, and a graph is being captured, during which nothing can be uploaded; call attention",
                      backward ? " and its backward" : "",
                      " once with this shape, window and granularity before the capture");
    return std::make_shared<const T>(make());
  });
  if (capturing) keep_for_graphs(made);
  return std::static_pointer_cast<const T>(made);
}

auto named(const Plan& plan) {
  return [&plan] {
    return join("grid ", pattern::to_string(plan.order().grid()), ", tile ", pattern::to_string(plan.order().tile()));
  };
}

DeviceWorkList uploaded(const cuda::WorkList& work) {
  const size_t items = work.items.size() * sizeof work.items[0], entries = work.entries.size() * sizeof(int32_t);
  std::vector<std::byte> bytes(items + entries);
  std::memcpy(bytes.data(), work.items.data(), items);
  std::memcpy(bytes.data() + items, work.entries.data(), entries);
  cuda::DeviceMemory memory(static_cast<int64_t>(bytes.size()));
  cuda::copy_to_device(memory.data(), bytes.data(), static_cast<int64_t>(bytes.size()));
  return {static_cast<int64_t>(work.items.size()), work.paired, static_cast<int64_t>(items), std::move(memory)};
}

}  // namespace

std::shared_ptr<const Plan> cuda_dense_plan(int64_t tokens) {
  const pattern::Grid tile = {1, 1, 512};
  return plan_for({1, 1, tokens}, tile, tile, "dense", tile);
}

std::shared_ptr<const CrossPlan> cuda_cross_plan(int64_t queries, int64_t keys) {
  static auto& recent = *new Recent<std::pair<int64_t, int64_t>, CrossPlan, kMaxCrossPlans>;
  return recent.get({queries, keys}, [&] {
    auto made = std::make_shared<CrossPlan>();
    made->queries = cuda_dense_plan(queries);
    made->keys = cuda_dense_plan(keys);
    const int64_t rows = made->queries->order().tile_count(), columns = made->keys->order().tile_count();
    made->mask = pattern::from_matrix(std::vector<uint8_t>(static_cast<size_t>(rows * columns), uint8_t{1}), 1, rows,
                                      columns);
    return made;
  });
}

std::shared_ptr<const DevicePlan> plan_on_device(const Plan& plan, int device, void* stream) {
  return once<DevicePlan>(plan.derived(), Part::kForward, device, stream, named(plan), [&] {
    cuda::PlanImage image(plan.order(), plan.groups(), plan.mask());
    const auto bytes = static_cast<int64_t>(image.bytes().size());
    cuda::DeviceMemory memory(bytes);
    cuda::copy_to_device(memory.data(), image.bytes().data(), bytes);
    image.drop_bytes();
    return DevicePlan{std::move(image), std::move(memory)};
  });
}

std::shared_ptr<const DeviceWorkList> key_work_on_device(const Plan& plan, int device, void* stream) {
  return once<DeviceWorkList>(plan.derived(), Part::kBackward, device, stream, named(plan), [&] {
    const cuda::SegmentLayout layout(plan.order().tile_begin());
    return uploaded({cuda::exchanged(plan.mask()), layout, layout});
  });
}

std::shared_ptr<const DeviceWorkList> cross_work_on_device(const CrossPlan& plan, bool of_keys, int device,
                                                           void* stream) {
  const auto what = [&] { return join(plan.queries->tokens(), " queries and ", plan.keys->tokens(), " keys"); };
  const Part part = of_keys ? Part::kBackward : Part::kForward;  // which alone takes rows of keys
  return once<DeviceWorkList>(plan.derived, part, device, stream, what, [&] {
    const cuda::SegmentLayout queries(plan.queries->order().tile_begin()), keys(plan.keys->order().tile_begin());
    return of_keys ? uploaded({cuda::exchanged(plan.mask), keys, queries}) : uploaded({plan.mask, queries, keys});
  });
}

}  // namespace fpsa::ops
