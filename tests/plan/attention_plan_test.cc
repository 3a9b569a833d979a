#include "fpsa/plan/attention_plan.h"

#include <gtest/gtest.h>

#include "tests/error_of.h"
#include "tests/plan/problem.h"

namespace fpsa::plan {
namespace {

using kernel::Dtype;
using pattern::Grid;

std::shared_ptr<const Geometry> geometry_of(pattern::BlockMask mask, const Grid& grid, const Grid& tile) {
  return std::make_shared<const Geometry>(grid, tile, tile, std::move(mask));
}

const Grid kGrid{2, 8, 8}, kTile{2, 4, 4};

TEST(AttentionPlan, HoldsTheEntriesThatServeWhenItIsMade) {
  const auto geometry = geometry_of(pattern::dense(kGrid, kTile), kGrid, kTile);
  AttentionSpec spec;
  spec.precision = Precision::kE4m3;
  for (const auto isa : kernel::all_isas()) {
    if (isa > kernel::detected_isa()) continue;
    kernel::force_isa(kernel::isa_name(isa));
    const AttentionPlan forced(geometry, spec);
    kernel::force_isa("auto");
    EXPECT_EQ(forced.entry().name, kernel::attention_fwd_at(Dtype::kE4m3, isa).name);
    EXPECT_EQ(forced.quantizer()->name, kernel::quantize_at(Dtype::kE4m3, isa).name);
    spec.isa = isa;
    EXPECT_EQ(AttentionPlan(geometry, spec).entry().name, forced.entry().name);
    spec.isa.reset();
  }
  spec.precision = Precision::kNone;
  spec.dtype = Dtype::kBf16;
  EXPECT_EQ(AttentionPlan(geometry, spec).entry().dtype, Dtype::kBf16);
  EXPECT_EQ(AttentionPlan(geometry, spec).quantizer(), nullptr);
}

TEST(AttentionPlan, CountsOperationsAndPairs) {
  AttentionSpec spec;
  spec.heads = 3;
  spec.dim = 32;
  const AttentionPlan sparse(geometry_of(pattern::sliding_tile(kGrid, kTile, {1, 1, 2}), kGrid, kTile), spec);
  EXPECT_EQ(sparse.density(), 0.5);
  EXPECT_EQ(sparse.flops(2), 2 * 3 * (128 * 128 / 2) * 4 * 32);
  const AttentionPlan cross(10, 7, spec);
  EXPECT_EQ(cross.density(), 1.0);
  EXPECT_EQ(cross.flops(2), 2 * 3 * 10 * 7 * 4 * 32);
  EXPECT_EQ(cross.flops(0), 0);
  EXPECT_THROW(cross.flops(-1), Error);
  EXPECT_THROW(cross.flops(int64_t{1} << 60), Error);
  EXPECT_THROW(AttentionPlan(96, pattern::kMaxTokens, spec).flops(int64_t{1} << 20), Error);
}

TEST(AttentionPlan, WorkspaceGrowsByScratchWithThreadsAndStopsGrowingWithBatch) {
  AttentionSpec spec;
  spec.heads = 4;
  const AttentionPlan plan(4096, 4096, spec);  // 2 MiB packed per head
  EXPECT_EQ(plan.workspace_bytes(1, 3) - plan.workspace_bytes(1, 2), plan.scratch_stride());
  EXPECT_LT(plan.workspace_bytes(1, 1), plan.workspace_bytes(2, 1));
  EXPECT_EQ(plan.workspace_bytes(1000, 1), plan.workspace_bytes(2000, 1));
  EXPECT_LT(plan.workspace_bytes(2000, 1), int64_t{40} << 20);
}

TEST(AttentionPlan, TheLargestBatchIsTheLastThatCanBeCounted) {
  AttentionSpec spec;
  spec.heads = 4;
  // Each of the three sums that the bound covers is the largest in one of these.
  for (const auto& [queries, keys] : {std::pair<int64_t, int64_t>{5, 4000}, {96, 10}, {0, 1}}) {
    const AttentionPlan plan(queries, keys, spec);
    const int64_t most = (int64_t{1} << 62) / (4 * (queries + keys + 256));
    EXPECT_EQ(plan.jobs(most), 4 * most);
    const int64_t units = plan.blocks_before(plan.jobs(most)), rows = std::max({queries, keys, spec.dim});
    EXPECT_LE(units, int64_t{1} << 62);
    EXPECT_LE(plan.jobs(most), (int64_t{1} << 62) / rows);
    EXPECT_LE(plan.jobs(most), ((int64_t{1} << 62) - units) / (plan.chunks() + 3));
    EXPECT_EQ(plan.workspace_bytes(most, 1), plan.workspace_bytes(1000, 1));
    for (const int64_t batch : {most + 1, int64_t{1} << 62, (int64_t{1} << 62) + 1, INT64_MAX}) {
      const auto text = join("batch: expected at most ", most, " for this plan, got ", batch);
      EXPECT_EQ(error_of([&] { plan.jobs(batch); }), text);
      EXPECT_EQ(error_of([&] { plan.workspace_bytes(batch, 1); }), text);
    }
  }
}

TEST(AttentionPlan, TheLargestWorkspaceCanBeCounted) {
  AttentionSpec spec;
  spec.dim = 256;
  spec.heads = int64_t{1} << 20;
  spec.isa = kernel::Isa::kReference;  // whose scratch grows with the keys
  const AttentionPlan plan(1, pattern::kMaxTokens, spec);
  EXPECT_GE(plan.workspace_bytes(64, 4096), 4096 * 4 * pattern::kMaxTokens);
}

TEST(AttentionPlan, ErrorsNameTheArgument) {
  const auto dense = geometry_of(pattern::dense(kGrid, kTile), kGrid, kTile);
  const auto two_heads =
      geometry_of(pattern::per_head({pattern::dense(kGrid, kTile), pattern::dense(kGrid, kTile)}), kGrid, kTile);
  auto says = [&](const std::string& text, const std::shared_ptr<const Geometry>& geometry, auto change) {
    AttentionSpec spec;
    change(spec);
    const auto message = error_of([&] { AttentionPlan(geometry, spec); });
    EXPECT_NE(message.find(text), std::string::npos) << message;
  };
  says("no error", dense, [](AttentionSpec&) {});
  says("heads: expected 1 to 2^20, got 0", dense, [](AttentionSpec& s) { s.heads = 0; });
  says("head_dim: expected a multiple of 8 from 8 to 256, got 12", dense, [](AttentionSpec& s) { s.dim = 12; });
  says("got 0", dense, [](AttentionSpec& s) { s.dim = 0; });
  says("got 264", dense, [](AttentionSpec& s) { s.dim = 264; });
  says("smooth_keys: expected false at precision none", dense, [](AttentionSpec& s) { s.smooth_keys = true; });
  says("dtype: expected f32 or bf16, got e4m3", dense, [](AttentionSpec& s) { s.dtype = Dtype::kE4m3; });
  says("geometry: expected one", nullptr, [](AttentionSpec&) {});
  says("one for each of 3 heads, got 2", two_heads, [](AttentionSpec& s) { s.heads = 3; });
  says("no error", two_heads, [](AttentionSpec& s) { s.heads = 2; });
  auto cross = [](int64_t queries, int64_t keys, Precision precision) {
    AttentionSpec spec;
    spec.precision = precision;
    return error_of([&] { AttentionPlan(queries, keys, spec); });
  };
  EXPECT_NE(cross(-1, 5, Precision::kNone).find("queries: expected 0 to 2^31 - 1, got -1"), std::string::npos);
  EXPECT_NE(cross(5, int64_t{1} << 31, Precision::kNone).find("keys: expected"), std::string::npos);
  EXPECT_NE(cross(5, 5, Precision::kE4m3).find("precision: quantisation needs a grid"), std::string::npos);
  const AttentionPlan plan(5, 5, {});
  EXPECT_NE(error_of([&] { plan.workspace_bytes(1, 0); }).find("threads: expected 1 to 4096, got 0"),
            std::string::npos);
  EXPECT_NE(error_of([&] { plan.workspace_bytes(1, 4097); }).find("threads: expected 1 to 4096, got 4097"),
            std::string::npos);
  EXPECT_NE(error_of([&] { plan.workspace_bytes(-1, 1); }).find("batch: expected"), std::string::npos);
}

}  // namespace
}  // namespace fpsa::plan
