// The C interface against the C++ one, which tests/plan holds against the kernels; and its errors.
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <thread>

#include "fpsa/base/check.h"
#include "fpsa/kernel/table.h"
#include "fpsa/pattern/radial.h"
#include "fpsa/plan/run.h"
#include "tests/capi/problem.h"

extern "C" const char* fpsa_test_c_program(void);

namespace fpsa::capi {
namespace {

using testing_support::kDim;
using testing_support::kGeometry;
using testing_support::kHeads;
using testing_support::kTokens;
using testing_support::kWindow;
using testing_support::PlanHolder;
using testing_support::Problem;
using testing_support::spec_of;
using testing_support::ThreadsHolder;

TEST(Capi, AStrictC99ProgramRuns) {
  const char* problem = fpsa_test_c_program();
  EXPECT_EQ(problem, nullptr) << problem;
}

// The results of a problem by the C++ interface, the gaps between batches as the problem had them.
struct Expected {
  std::vector<uint16_t> out;
  std::vector<float> lse, row_max;
};

Expected by_plan(const Problem& problem, const plan::AttentionPlan& planned) {
  Expected expected{std::vector<uint16_t>(problem.out.size(), 0xa5a5), std::vector<float>(problem.lse.size()), {}};
  expected.row_max = expected.lse;
  const int64_t batch = problem.args.batch;
  plan::Workspace workspace(planned.workspace_bytes(batch, 1));
  plan::SerialRunner serial;
  auto source = [](const fpsa_tensor& x) {
    return plan::Source{x.data, x.batch_stride, x.head_stride, x.token_stride};
  };
  const fpsa_output& to = problem.args.out;
  plan::run(planned, batch, {source(problem.args.q), source(problem.args.k), source(problem.args.v)},
            static_cast<float>(1.0 / std::sqrt(static_cast<double>(kDim))),
            {{expected.out.data(), to.batch_stride, to.head_stride, to.token_stride},
             expected.lse.data(),
             expected.row_max.data()},
            workspace.bytes(), serial);
  return expected;
}

// Two samples with strides of their own: tests/plan holds the C++ interface against the kernels in every layout.
TEST(Capi, GivesTheBytesOfTheCppInterface) {
  const pattern::Grid grid{4, 8, 8}, tile{2, 4, 4}, granularity{1, 4, 4};
  ThreadsHolder two(2);
  for (const fpsa_dtype dtype : {FPSA_F32, FPSA_BF16})
    for (const fpsa_precision precision : {FPSA_PRECISION_NONE, FPSA_PRECISION_E4M3, FPSA_PRECISION_INT8}) {
      fpsa_spec spec = spec_of(dtype, precision);
      spec.smooth_keys = precision == FPSA_PRECISION_INT8;
      plan::AttentionSpec attention;
      attention.heads = kHeads;
      attention.dim = kDim;
      attention.dtype = dtype == FPSA_F32 ? kernel::Dtype::kF32 : kernel::Dtype::kBf16;
      attention.precision = std::array{plan::Precision::kNone, plan::Precision::kE4m3,
                                       plan::Precision::kInt8}[static_cast<size_t>(precision)];
      attention.smooth_keys = precision == FPSA_PRECISION_INT8;
      const pattern::BlockMask masks[] = {
          pattern::sliding_tile(grid, tile, {1, 2, 1}), pattern::radial(grid, tile, {0.3, 16}),
          pattern::per_head({pattern::sliding_tile(grid, tile, {1, 1, 1}), pattern::dense(grid, tile),
                             pattern::sliding_tile(grid, tile, {2, 1, 1})})};
      PlanHolder plans[3];
      ASSERT_EQ(fpsa_plan_sliding_tile(&spec, &kGeometry, &kWindow, &plans[0].plan), FPSA_OK);
      ASSERT_EQ(fpsa_plan_radial(&spec, &kGeometry, 0.3, 16, &plans[1].plan), FPSA_OK);
      ASSERT_EQ(fpsa_plan_masked(&spec, &kGeometry, 3, masks[2].row_begin.data(), masks[2].col.data(), &plans[2].plan),
                FPSA_OK);
      for (int i = 0; i < 3; ++i) {
        const auto geometry = std::make_shared<const plan::Geometry>(grid, tile, granularity, masks[i]);
        const plan::AttentionPlan planned(geometry, attention);
        Problem problem(plans[i].plan, dtype, 2, 2);
        problem.args.threads = two.threads;
        ASSERT_EQ(fpsa_run(plans[i].plan, &problem.args), FPSA_OK) << fpsa_last_error();
        const Expected expected = by_plan(problem, planned);
        SCOPED_TRACE(join("mask ", i, " dtype ", dtype, " precision ", precision));
        EXPECT_EQ(problem.out, expected.out);
        EXPECT_EQ(problem.lse, expected.lse);
        EXPECT_EQ(problem.row_max, expected.row_max);
        EXPECT_EQ(fpsa_plan_density(plans[i].plan), planned.density());
        EXPECT_EQ(fpsa_plan_kernel(plans[i].plan), planned.entry().name);
      }
    }
}

TEST(Capi, AnUntouchedScaleIsTheInverseRootOfTheHeadDim) {
  PlanHolder holder;
  const fpsa_spec spec = spec_of();
  ASSERT_EQ(fpsa_plan_dense(&spec, kTokens, kTokens, &holder.plan), FPSA_OK);
  Problem problem(holder.plan);
  ASSERT_EQ(fpsa_run(holder.plan, &problem.args), FPSA_OK);
  const auto by_default = problem.out;
  problem.args.softmax_scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(kDim)));
  ASSERT_EQ(fpsa_run(holder.plan, &problem.args), FPSA_OK);
  EXPECT_EQ(problem.out, by_default);
  problem.args.softmax_scale = 1.0f;
  ASSERT_EQ(fpsa_run(holder.plan, &problem.args), FPSA_OK);
  EXPECT_NE(problem.out, by_default);
}

TEST(Capi, ManyThreadsRunOnePlanEachWithItsWorkspace) {
  PlanHolder holder;
  const fpsa_spec spec = spec_of(FPSA_F32, FPSA_PRECISION_E4M3);
  ASSERT_EQ(fpsa_plan_sliding_tile(&spec, &kGeometry, &kWindow, &holder.plan), FPSA_OK);
  Problem first(holder.plan);
  ASSERT_EQ(fpsa_run(holder.plan, &first.args), FPSA_OK);
  ThreadsHolder pool(2);
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 6; ++t)
    threads.emplace_back([&, t] {
      Problem problem(holder.plan, FPSA_F32, 2);
      if (t % 2 == 0) problem.args.threads = pool.threads;
      for (int i = 0; i < 5; ++i) {
        std::ranges::fill(problem.out, 0xa5a5);
        wrong += fpsa_run(holder.plan, &problem.args) != FPSA_OK || problem.out != first.out;
      }
    });
  for (auto& thread : threads)
    thread.join();
  EXPECT_EQ(wrong, 0);
}

TEST(Capi, IsaLevelsCanBeNamedAndForced) {
  PlanHolder forced, named, automatic;
  ASSERT_EQ(fpsa_isa_force("reference"), FPSA_OK);
  EXPECT_STREQ(fpsa_isa_current(), "reference");
  fpsa_spec spec = spec_of(FPSA_BF16);
  ASSERT_EQ(fpsa_plan_dense(&spec, 4, 4, &forced.plan), FPSA_OK);
  spec.isa = "auto";
  ASSERT_EQ(fpsa_plan_dense(&spec, 4, 4, &automatic.plan), FPSA_OK) << fpsa_last_error();
  ASSERT_EQ(fpsa_isa_force("auto"), FPSA_OK);
  EXPECT_STREQ(fpsa_isa_current(), fpsa_isa_detected());
  spec.isa = "reference";
  ASSERT_EQ(fpsa_plan_dense(&spec, 4, 4, &named.plan), FPSA_OK);
  EXPECT_STREQ(fpsa_plan_kernel(forced.plan), "attention_fwd_bf16_reference");
  EXPECT_STREQ(fpsa_plan_kernel(automatic.plan), "attention_fwd_bf16_reference");
  EXPECT_STREQ(fpsa_plan_kernel(named.plan), "attention_fwd_bf16_reference");
  EXPECT_EQ(fpsa_isa_force("fast"), FPSA_INVALID_ARGUMENT);
  EXPECT_NE(std::string(fpsa_last_error()).find("isa: expected one of auto, reference, "), std::string::npos);
  EXPECT_EQ(fpsa_isa_force(nullptr), FPSA_INVALID_ARGUMENT);
  int32_t above = 0;
  for (int32_t i = 0; i < fpsa_isa_count(); ++i)
    if (kernel::all_isas()[static_cast<size_t>(i)] > kernel::detected_isa()) {
      EXPECT_EQ(fpsa_isa_force(fpsa_isa_name(i)), FPSA_UNSUPPORTED);
      EXPECT_NE(std::string(fpsa_last_error()).find("this machine does not support"), std::string::npos);
      ++above;
    }
  RecordProperty("levels_above_this_machine", above);
  EXPECT_EQ(fpsa_isa_name(-1), nullptr);
  EXPECT_STREQ(fpsa_isa_current(), fpsa_isa_detected());
}

class CapiErrors : public testing::Test {
 protected:
  void expect(fpsa_status status, const std::string& text) {
    EXPECT_EQ(status, FPSA_INVALID_ARGUMENT) << text;
    EXPECT_NE(std::string(fpsa_last_error()).find(text), std::string::npos) << fpsa_last_error();
    EXPECT_EQ(plan, nullptr) << text;
  }
  fpsa_plan* plan = nullptr;
};

TEST_F(CapiErrors, OfSpecs) {
  auto says = [&](const std::string& text, auto change) {
    fpsa_spec spec = spec_of();
    change(spec);
    expect(fpsa_plan_dense(&spec, 8, 8, &plan), text);
  };
  says("spec: expected struct_bytes", [](fpsa_spec& s) { s.struct_bytes = 0; });
  says("start from FPSA_SPEC_INIT", [](fpsa_spec& s) { s.struct_bytes += 8; });
  says("heads: expected 1 to 2^20, got 0", [](fpsa_spec& s) { s.heads = 0; });
  says("head_dim: expected a multiple of 8 from 8 to 256, got 20", [](fpsa_spec& s) { s.head_dim = 20; });
  says("dtype: expected FPSA_F32 (0) or FPSA_BF16 (1), got 9", [](fpsa_spec& s) { s.dtype = 9; });
  says("precision: expected FPSA_PRECISION_NONE", [](fpsa_spec& s) { s.precision = -1; });
  says("precision: quantisation needs a grid", [](fpsa_spec& s) { s.precision = FPSA_PRECISION_E4M3; });
  says("smooth_keys: expected 0 or 1, got 2", [](fpsa_spec& s) { s.smooth_keys = 2; });
  says("smooth_keys: expected false at precision none", [](fpsa_spec& s) { s.smooth_keys = 1; });
  says("isa: expected one of auto, reference, ", [](fpsa_spec& s) { s.isa = "mmx"; });
  const fpsa_spec good = spec_of();
  expect(fpsa_plan_dense(nullptr, 8, 8, &plan), "spec: expected a pointer");
  expect(fpsa_plan_dense(&good, -1, 8, &plan), "queries: expected 0 to 2^31 - 1, got -1");
  expect(fpsa_plan_dense(&good, 8, int64_t{1} << 40, &plan), "keys: expected");
  expect(fpsa_plan_dense(&good, 8, 8, nullptr), "plan: expected a pointer");
}

TEST_F(CapiErrors, OfGeometries) {
  const fpsa_spec spec = spec_of();
  auto says = [&](const std::string& text, auto change) {
    fpsa_geometry geometry = kGeometry;
    fpsa_grid window = kWindow;
    change(geometry, window);
    expect(fpsa_plan_sliding_tile(&spec, &geometry, &window, &plan), text);
  };
  says("grid 4x0x8: expected every extent", [](fpsa_geometry& g, fpsa_grid&) { g.grid.y = 0; });
  says("tile 2x4x-4: expected every extent", [](fpsa_geometry& g, fpsa_grid&) { g.tile.x = -4; });
  says("granularity x = 3: expected a multiple or a divisor",
       [](fpsa_geometry& g, fpsa_grid&) { g.granularity.x = 3; });
  says("window t = 0: expected at least 1 tile", [](fpsa_geometry&, fpsa_grid& w) { w.t = 0; });
  says("more than 2147483647 tokens", [](fpsa_geometry& g, fpsa_grid&) { g.grid = {1 << 20, 1 << 20, 1 << 20}; });
  says("more than 2147483647 tokens", [](fpsa_geometry& g, fpsa_grid&) {
    g.grid = {INT64_MAX, INT64_MAX, INT64_MAX};
    g.tile = {1, 1, 1};
  });
  expect(fpsa_plan_sliding_tile(&spec, nullptr, &kWindow, &plan), "geometry: expected a pointer");
  expect(fpsa_plan_sliding_tile(&spec, &kGeometry, nullptr, &plan), "window: expected a pointer");
  expect(fpsa_plan_sliding_tile(nullptr, &kGeometry, &kWindow, &plan), "spec: expected a pointer");
  expect(fpsa_plan_radial(&spec, &kGeometry, 0.0, 128, &plan), "decay");
  expect(fpsa_plan_radial(&spec, &kGeometry, std::nan(""), 128, &plan), "decay");
  expect(fpsa_plan_radial(&spec, &kGeometry, 0.2, 0, &plan), "min_band");
}

TEST_F(CapiErrors, OfMasks) {
  const fpsa_spec spec = spec_of();
  const auto good = pattern::dense({4, 8, 8}, {2, 4, 4});  // 8 x 8 tiles
  auto says = [&](const std::string& text, int64_t heads, auto change) {
    auto rows = good.row_begin, col = good.col;
    change(rows, col);
    expect(fpsa_plan_masked(&spec, &kGeometry, heads, rows.data(), col.data(), &plan), text);
  };
  using Entries = std::vector<int32_t>;
  says("mask_heads: expected 1 or the 3 heads of spec, got 2", 2, [](Entries&, Entries&) {});
  says("mask_heads: expected 1 or the 3 heads of spec, got -1", -1, [](Entries&, Entries&) {});
  says("row_begin: expected its last entry to be the length of col, got -5", 1,
       [](Entries& rows, Entries&) { rows.back() = -5; });
  says("row_begin falls from 16 to 7", 1, [](Entries& rows, Entries&) { rows[3] = 7; });
  says("row_begin: expected to run from 0", 1, [](Entries& rows, Entries&) { rows[0] = 1; });
  says("key tile 8 is outside [0, 8)", 1, [](Entries&, Entries& col) { col[5] = 8; });
  says("key tile 0 follows 1; expected strictly ascending", 1,
       [](Entries&, Entries& col) { std::swap(col[0], col[1]); });
  expect(fpsa_plan_masked(&spec, &kGeometry, 1, nullptr, good.col.data(), &plan), "row_begin: expected a pointer");
  // A spec with as many heads: the number of heads is wrong before it is the length of an array.
  for (const int64_t heads : {int64_t{-1}, int64_t{0}, int64_t{1} << 40, int64_t{1} << 62}) {
    fpsa_spec wrong = spec;
    wrong.heads = heads;
    expect(fpsa_plan_masked(&wrong, &kGeometry, heads, good.row_begin.data(), good.col.data(), &plan),
           join("heads: expected 1 to 2^20, got ", heads));
  }
  expect(fpsa_plan_masked(&spec, &kGeometry, 1, good.row_begin.data(), nullptr, &plan), "col: expected a pointer");
}

TEST_F(CapiErrors, OfQueriesAndThreads) {
  PlanHolder holder;
  const fpsa_spec spec = spec_of();
  ASSERT_EQ(fpsa_plan_dense(&spec, 8, 8, &holder.plan), FPSA_OK);
  int64_t flops = -7;
  size_t bytes = 7;
  expect(fpsa_plan_flops(nullptr, 1, &flops), "plan: expected a pointer");
  expect(fpsa_plan_flops(holder.plan, 1, nullptr), "flops: expected a pointer");
  expect(fpsa_plan_flops(holder.plan, -1, &flops), "batch: expected 0 or more, got -1");
  expect(fpsa_plan_workspace_bytes(nullptr, 1, 1, &bytes), "plan: expected a pointer");
  expect(fpsa_plan_workspace_bytes(holder.plan, 1, 1, nullptr), "bytes: expected a pointer");
  expect(fpsa_plan_workspace_bytes(holder.plan, -1, 1, &bytes), "batch: expected");
  expect(fpsa_plan_workspace_bytes(holder.plan, 1, 0, &bytes), "threads: expected 1 to 4096, got 0");
  expect(fpsa_plan_workspace_bytes(holder.plan, 1, INT32_MAX, &bytes), "threads: expected 1 to 4096, got 2147483647");
  const int64_t most = (int64_t{1} << 62) / (kHeads * (8 + 8 + 256));
  const auto too_many = join("batch: expected at most ", most, " for this plan, got ");
  for (const int64_t batch : {most + 1, int64_t{1} << 62, (int64_t{1} << 62) + 1, INT64_MAX})
    expect(fpsa_plan_workspace_bytes(holder.plan, batch, 1, &bytes), too_many + std::to_string(batch));
  EXPECT_EQ(flops, -7);
  EXPECT_EQ(bytes, 7u);
  EXPECT_EQ(fpsa_plan_workspace_bytes(holder.plan, most, 4096, &bytes), FPSA_OK) << fpsa_last_error();
  EXPECT_EQ(fpsa_plan_queries(nullptr), -1);
  EXPECT_EQ(fpsa_plan_keys(nullptr), -1);
  EXPECT_TRUE(std::isnan(fpsa_plan_density(nullptr)));
  EXPECT_EQ(fpsa_plan_kernel(nullptr), nullptr);
  fpsa_plan_destroy(nullptr);
  fpsa_threads* pool = nullptr;
  expect(fpsa_threads_create(0, &pool), "threads: expected 1 to 4096, got 0");
  expect(fpsa_threads_create(5000, &pool), "threads: expected 1 to 4096, got 5000");
  expect(fpsa_threads_create(1, nullptr), "pool: expected a pointer");
  EXPECT_EQ(pool, nullptr);
  fpsa_threads_destroy(nullptr);
}

TEST_F(CapiErrors, OfRuns) {
  PlanHolder holder;
  const fpsa_spec spec = spec_of();
  ASSERT_EQ(fpsa_plan_dense(&spec, kTokens, kTokens, &holder.plan), FPSA_OK);
  auto says = [&](const std::string& text, auto change) {
    Problem problem(holder.plan);
    const auto before = problem.out;
    change(problem.args);
    expect(fpsa_run(holder.plan, &problem.args), text);
    EXPECT_EQ(problem.out, before) << "written in spite of: " << text;
  };
  says("args: expected struct_bytes", [](fpsa_run_args& a) { a.struct_bytes = 4; });
  says("batch: expected 0 or more, got -2", [](fpsa_run_args& a) { a.batch = -2; });
  says("batch: expected at most ", [](fpsa_run_args& a) { a.batch = (int64_t{1} << 62) + 1; });
  says("q: expected a pointer", [](fpsa_run_args& a) { a.q.data = nullptr; });
  says("k: expected a pointer", [](fpsa_run_args& a) { a.k.data = nullptr; });
  says("v: expected a pointer", [](fpsa_run_args& a) { a.v.data = nullptr; });
  says("out: expected a pointer", [](fpsa_run_args& a) { a.out.data = nullptr; });
  says("out: must not share memory with k", [](fpsa_run_args& a) { a.k.data = a.out.data; });
  says("softmax_scale: must be finite",
       [](fpsa_run_args& a) { a.softmax_scale = -std::numeric_limits<float>::infinity(); });
  says("workspace: expected at least", [](fpsa_run_args& a) { a.workspace_bytes -= 1; });
  says("workspace: expected an address", [](fpsa_run_args& a) { a.workspace = nullptr; });
  says("workspace: expected an address that is a multiple of 64",
       [](fpsa_run_args& a) { a.workspace = static_cast<char*>(a.workspace) + 4; });
  // Four heads times 2^62 are 0 in 64 bits: nothing to do, as it would seem.
  PlanHolder four;
  fpsa_spec wide = spec;
  wide.heads = 4;
  ASSERT_EQ(fpsa_plan_dense(&wide, kTokens, kTokens, &four.plan), FPSA_OK);
  Problem problem(holder.plan);
  problem.args.batch = int64_t{1} << 62;
  expect(fpsa_run(four.plan, &problem.args), "batch: expected at most ");
  expect(fpsa_run(nullptr, nullptr), "plan: expected a pointer");
  expect(fpsa_run(holder.plan, nullptr), "args: expected a pointer");
}

TEST(Capi, MessagesBelongToTheirThread) {
  EXPECT_EQ(fpsa_isa_force("here"), FPSA_INVALID_ARGUMENT);
  std::thread other([] {
    EXPECT_STREQ(fpsa_last_error(), "");
    EXPECT_EQ(fpsa_isa_force("there"), FPSA_INVALID_ARGUMENT);
  });
  other.join();
  EXPECT_NE(std::string(fpsa_last_error()).find("'here'"), std::string::npos);
  EXPECT_EQ(fpsa_isa_force(std::string(5000, 'x').c_str()), FPSA_INVALID_ARGUMENT);
  EXPECT_EQ(std::strlen(fpsa_last_error()), 1023u);
}

}  // namespace
}  // namespace fpsa::capi
