#include "fpsa/ops/plan.h"

#include <algorithm>
#include <list>

#include "fpsa/ops/fork.h"
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
  static std::list<std::pair<Key, std::shared_ptr<const Plan>>> cache;  // most recently used first
  const Key key{grid, tile, granularity, window, pattern};
  {
    const auto lock = fork_safe_lock();
    const auto found = std::ranges::find_if(cache, [&](const auto& entry) { return entry.first == key; });
    if (found != cache.end()) {
      cache.splice(cache.begin(), cache, found);
      return found->second;
    }
  }
  // Outside the lock, since it takes long: two threads that both want a new plan make it twice.
  pattern::PatternParams params;
  params.window = window;
  auto plan = std::make_shared<const Plan>(grid, tile, granularity, pattern::make_pattern(pattern, grid, tile, params));
  const auto lock = fork_safe_lock();
  cache.emplace_front(key, plan);
  if (cache.size() > kMaxPlans) cache.pop_back();
  return plan;
}

}  // namespace fpsa::ops
