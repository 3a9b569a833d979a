#include "fpsa/ops/plan.h"

#include "fpsa/ops/recent.h"
#include "fpsa/pattern/registry.h"

namespace fpsa::ops {
namespace {

struct Key {
  pattern::Grid grid, tile, granularity, window;
  std::string pattern;
  bool operator==(const Key&) const = default;
};

// A run needs one plan per distinct setting of its schedule: few, but each may hold megabytes.
constexpr size_t kMaxPlans = 32;

}  // namespace

std::shared_ptr<const Plan> plan_for(const pattern::Grid& grid, const pattern::Grid& tile,
                                     const pattern::Grid& granularity, const std::string& pattern,
                                     const pattern::Grid& window) {
  static auto& recent = *new Recent<Key, Plan, kMaxPlans>;
  return recent.get({grid, tile, granularity, window, pattern}, [&] {
    pattern::PatternParams params;
    params.window = window;
    return std::make_shared<const Plan>(grid, tile, granularity, pattern::make_pattern(pattern, grid, tile, params));
  });
}

}  // namespace fpsa::ops
