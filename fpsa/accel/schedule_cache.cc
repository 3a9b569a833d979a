#include "fpsa/accel/schedule_cache.h"

#include <string>
#include <utility>

#include "fpsa/base/check.h"
#include "fpsa/ops/recent.h"

namespace fpsa::accel {
namespace {

// A handful of schedules or masks is in use at a time; a mask and its plan may hold megabytes.
constexpr size_t kMaxSchedules = 32, kMaxMasks = 8;

struct MaskKey {
  pattern::Grid grid, tile, granularity;
  std::vector<int32_t> row_begin, col;
  bool operator==(const MaskKey&) const = default;
};

}  // namespace

std::shared_ptr<const schedule::Schedule> schedule_of(std::string_view text) {
  static auto& recent = *new ops::Recent<std::string, schedule::Schedule, kMaxSchedules>;
  return recent.get(std::string(text),
                    [&] { return std::make_shared<const schedule::Schedule>(schedule::parse_toml(text, "schedule")); });
}

std::shared_ptr<const ops::Plan> plan_of_mask(const pattern::Grid& grid, const pattern::Grid& tile,
                                              const pattern::Grid& granularity, std::vector<int32_t> row_begin,
                                              std::vector<int32_t> col) {
  static auto& recent = *new ops::Recent<MaskKey, ops::Plan, kMaxMasks>;
  const MaskKey key{grid, tile, granularity, std::move(row_begin), std::move(col)};
  return recent.get(key, [&] {
    const int64_t tiles = pattern::tiles_per_axis(grid, tile).volume();
    const auto entries = static_cast<int64_t>(key.row_begin.size());
    FPSA_CHECK(entries > 1 && (entries - 1) % tiles == 0, "row_begin: expected heads * ", tiles,
               " + 1 entries for the tiles of grid ", pattern::to_string(grid), ", got ", entries);
    return std::make_shared<const ops::Plan>(
        grid, tile, granularity, pattern::from_csr((entries - 1) / tiles, tiles, tiles, key.row_begin, key.col));
  });
}

}  // namespace fpsa::accel
