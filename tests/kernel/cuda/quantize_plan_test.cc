// The order in which quantize_sm90a takes quads, and how it cuts its work.
#include "fpsa/kernel/cuda/tiling/quantize_plan.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "fpsa/kernel/cuda/tiling/pack.h"
#include "fpsa/kernel/cuda/tiling/quantize_tiling.h"
#include "fpsa/pattern/order.h"

namespace fpsa::kernel::cuda {
namespace {

using pattern::Grid;

struct Case {
  Case(const Grid& grid, const Grid& tile, const Grid& granularity, int64_t lag)
      : order(grid, tile, granularity),
        layout(order.tile_begin()),
        groups(pattern::token_groups(order)),
        plan(layout, order.to_raster(), groups.of_token, groups.count, lag),
        view(view_of(plan.words.data(), plan.slots)) {}
  pattern::TileOrder order;
  SegmentLayout layout;
  pattern::TokenGroups groups;
  QuantizePlan plan;
  QuantizePlanView view;
  int64_t quads() const { return plan.slots / kQuad; }
};

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const int64_t lag : {int64_t{0}, int64_t{5}, kQuadLag})
    for (const Grid& granularity : {Grid{2, 4, 8}, {1, 1, 1}, {1, 2, 4}, {4, 4, 16}, {4, 2, 8}, {100, 100, 96}})
      all.emplace_back(Grid{5, 9, 19}, Grid{2, 4, 8}, granularity, lag);
  all.emplace_back(Grid{21, 45, 80}, Grid{6, 8, 8}, Grid{6, 8, 8}, kQuadLag);
  return all;
}

TEST(QuantizePlan, EveryQuadHasItsMagnitudesThenItsCodesOnce) {
  for (const Case& x : cases()) {
    std::vector<int> seen(static_cast<size_t>(x.quads()));
    for (int64_t i = 0; i < 2 * x.quads(); ++i) {
      const int32_t task = x.view.tasks[i];
      int& count = seen[static_cast<size_t>(task_quad(task))];
      ASSERT_EQ(count++, task_has_codes(task) ? 1 : 0);
    }
    EXPECT_EQ(std::count(seen.begin(), seen.end(), 2), x.quads());
  }
}

TEST(QuantizePlan, AUnitsMagnitudesComeBeforeItsCodesAndNoGroupIsInTwo) {
  for (const Case& x : cases()) {
    std::map<int32_t, int> magnitudes;
    std::map<int32_t, std::set<int32_t>> units_of_group;
    for (int64_t i = 0; i < 2 * x.quads(); ++i) {
      const int32_t task = x.view.tasks[i], unit = x.view.unit_of_quad[task_quad(task)];
      if (!task_has_codes(task))
        ++magnitudes[unit];
      else
        ASSERT_EQ(magnitudes[unit], x.view.quads_of_unit[unit]);
    }
    EXPECT_EQ(static_cast<int64_t>(magnitudes.size()), x.plan.units);
    for (int64_t slot = 0; slot < x.plan.slots; ++slot)
      units_of_group[x.view.group_of_slot[slot]].insert(x.view.unit_of_quad[slot / kQuad]);
    EXPECT_EQ(static_cast<int64_t>(units_of_group.size()), x.plan.groups);
    for (const auto& [group, units] : units_of_group)
      EXPECT_EQ(units.size(), 1u) << group;
  }
}

TEST(QuantizePlan, SlotsHaveTheRowsAndGroupsOfTheLayout) {
  for (const Case& x : cases()) {
    std::vector<int32_t> rows(static_cast<size_t>(x.plan.slots));
    rows_of_slots(x.layout, x.order.to_raster(), rows.data());
    const auto positions = x.layout.position_of_slot();
    for (size_t slot = 0; slot < rows.size(); ++slot) {
      ASSERT_EQ(x.view.row_of_slot[slot], rows[slot]);
      const int32_t position = positions[slot] < 0 ? positions[slot / kSegment * kSegment] : positions[slot];
      ASSERT_EQ(x.view.group_of_slot[slot], x.groups.of_token[static_cast<size_t>(position)]);
    }
  }
}

// What the comment at kQuadLag promises: that many tasks between a unit's last magnitudes and its first codes, and no
// more than this many rows that L2 must hold.
TEST(QuantizePlan, ThePaperCaseKeepsItsDistanceAndFitsL2) {
  const Case x({21, 45, 80}, {6, 8, 8}, {6, 8, 8}, kQuadLag);
  std::map<int32_t, int64_t> last_magnitudes, first_codes;
  int64_t ahead = 0, most = 0;
  for (int64_t i = 0; i < 2 * x.quads(); ++i) {
    const int32_t task = x.view.tasks[i], unit = x.view.unit_of_quad[task_quad(task)];
    if (task_has_codes(task))
      first_codes.emplace(unit, i);
    else
      last_magnitudes[unit] = i;
    ahead += task_has_codes(task) ? -1 : 1;
    most = std::max(most, ahead);
  }
  for (const auto& [unit, at] : first_codes)
    // The first units have no codes of others in between, the last ones nothing to wait for; ragged ones are small.
    if (unit + 8 < x.plan.units) {
      EXPECT_GE(at - last_magnitudes[unit], unit < 6 ? kQuadLag : kQuadLag * 3 / 2) << unit;
    }
  EXPECT_LE(most * kQuad * 5120 * 2, 25 << 20);
}

TEST(QuantizePlan, OneGroupOverTheGridIsOneUnit) {
  const Case x({5, 9, 19}, {2, 4, 8}, {6, 12, 24}, kQuadLag);
  EXPECT_EQ(x.plan.units, 1);
  EXPECT_EQ(x.plan.groups, 1);
}

TEST(QuantizeTiling, WarpsShareARowEvenlyAndTwoBlocksFitForWan) {
  EXPECT_EQ(quantize_warps(5120), 10);  // 14B: 20 spans
  EXPECT_EQ(quantize_warps(1536), 6);   // 1.3B: 6 spans
  EXPECT_EQ(quantize_warps(64), 1);
  for (int width = 64; width <= kMostQuantizeWidth; width += 64) {
    const int spans = (width + kSpanColumns - 1) / kSpanColumns, warps = quantize_warps(width);
    ASSERT_LE(warps, kMostQuantizeWarps);
    // No more rounds than the most warps would need.
    ASSERT_EQ((spans + warps - 1) / warps, (spans + kMostQuantizeWarps - 1) / kMostQuantizeWarps);
    for (const int dim : {64, 128})
      if (width % dim == 0) {
        ASSERT_LE(quantize_map(width / dim, dim, true, true).bytes, 227u * 1024);
      }
  }
  // With the kilobyte that each block costs.
  EXPECT_LE(2 * (quantize_map(40, 128, true, true).bytes + 1024), 228u * 1024);
}

TEST(QuantizeTiling, PartsOfSharedMemoryFollowOneAnother) {
  for (const bool norm : {false, true})
    for (const bool turn : {false, true}) {
      const QuantizeMap map = quantize_map(3, 64, norm, turn);
      EXPECT_EQ(map.turns % 16, 0u);
      EXPECT_EQ(map.quads, map.turns + (turn ? 4 * 64 * 4 : 0));
      EXPECT_EQ(map.quads % 16, 0u);
      EXPECT_GE(map.stage_bytes, map.factors + 4 * 3 * 8);
      EXPECT_EQ(map.stage_bytes % 128, 0u);
      EXPECT_EQ(map.barriers, map.weights + (norm ? 3 * 64 * 4 : 0));
      EXPECT_EQ(map.barriers % 8, 0u);
    }
}

TEST(QuantizeTiling, ValuesAreSharedOutAmongBlocksThatRunTogether) {
  // 14B on 132 multiprocessors: 5 chunks of 1024 channels for magnitudes, 40 blocks of 128 for codes.
  EXPECT_EQ(value_tiling(5120, 76128, 1, 132), (ValueTiling{5, 422, 40, 26}));
  EXPECT_EQ(value_tiling(64, 32, 1, 132), (ValueTiling{1, 1, 1, 1}));
  EXPECT_EQ(value_tiling(5120, 0, 1, 132), (ValueTiling{5, 1, 40, 1}));
}

}  // namespace
}  // namespace fpsa::kernel::cuda
