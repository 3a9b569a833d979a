#include "fpsa/plan/run.h"

#include <gtest/gtest.h>

#include <limits>
#include <thread>

#include "fpsa/base/check.h"
#include "tests/error_of.h"
#include "tests/plan/problem.h"

namespace fpsa::plan {
namespace {

using kernel::Dtype;
using pattern::Grid;
using testing_support::Layout;
using testing_support::Problem;
using testing_support::sliding;

AttentionSpec spec_of(int64_t heads, int64_t dim, Dtype dtype = Dtype::kBf16, Precision precision = Precision::kNone) {
  AttentionSpec spec;
  spec.heads = heads;
  spec.dim = dim;
  spec.dtype = dtype;
  spec.precision = precision;
  return spec;
}

// Per-head masks of very different cost, one of them with rows that see nothing.
std::shared_ptr<const Geometry> uneven(const Grid& grid, const Grid& tile, int64_t heads) {
  std::vector<pattern::BlockMask> masks;
  std::mt19937 random(5);
  const int64_t tiles = pattern::tiles_per_axis(grid, tile).volume();
  for (int64_t h = 0; h < heads; ++h) {
    std::vector<uint8_t> visible(static_cast<size_t>(tiles * tiles));
    for (auto& x : visible)
      x = random() % static_cast<uint32_t>(heads) < static_cast<uint32_t>(h);
    masks.push_back(pattern::from_matrix(visible, 1, tiles, tiles));
  }
  return std::make_shared<const Geometry>(grid, tile, tile, pattern::per_head(masks));
}

TEST(Run, GivesTheBytesOfTheKernelsOneByOneForAnyNumberOfWorkers) {
  const Grid grid{5, 8, 9}, tile{2, 4, 4};
  SerialRunner serial;
  ThreadPool two(2), seven(7);
  for (const auto dtype : {Dtype::kF32, Dtype::kBf16})
    for (const auto precision : {Precision::kNone, Precision::kE4m3, Precision::kInt8})
      for (const auto& geometry :
           {sliding(grid, tile, {1, 2, 1}), sliding(grid, tile, pattern::kFullWindow), uneven(grid, tile, 4)}) {
        const AttentionPlan plan(geometry, spec_of(4, 24, dtype, precision));
        const Problem problem(plan, 2, 11);
        const auto want = problem.one_by_one();
        for (ParallelRunner* runner : std::initializer_list<ParallelRunner*>{&serial, &two, &seven})
          EXPECT_TRUE(problem.run(*runner, runner == &two ? Layout::kHeadsFirst : Layout::kTokensFirst) == want)
              << kernel::dtype_name(dtype) << " precision " << static_cast<int>(precision) << " density "
              << geometry->density() << " workers " << runner->workers();
      }
}

TEST(Run, SmoothedKeysGiveTheBytesOfTheKernelsOneByOne) {
  SerialRunner serial;
  ThreadPool pool(3);
  for (const auto dtype : {Dtype::kF32, Dtype::kBf16})
    for (const auto precision : {Precision::kE4m3, Precision::kInt8}) {
      auto spec = spec_of(4, 24, dtype, precision);
      spec.smooth_keys = true;
      const AttentionPlan plan(uneven({5, 8, 9}, {2, 4, 4}, 4), spec);
      const Problem problem(plan, 2, 12);
      const auto want = problem.one_by_one();
      EXPECT_TRUE(problem.run(serial) == want);
      EXPECT_TRUE(problem.run(pool, Layout::kHeadsFirst) == want);
      spec.smooth_keys = false;
      const AttentionPlan plain(uneven({5, 8, 9}, {2, 4, 4}, 4), spec);
      EXPECT_FALSE(Problem(plain, 2, 12).run(serial) == want);
    }
}

TEST(Run, ARingWithFewerSlotsThanHeadsGivesTheSameBytes) {
  ThreadPool pool(5);
  const AttentionPlan plan(uneven({2, 4, 6}, {1, 2, 3}, 37), spec_of(37, 16, Dtype::kF32, Precision::kE4m3));
  const Problem problem(plan, 5, 3);
  ASSERT_LT(plan.slots(5), 37 * 5);
  const auto want = problem.one_by_one();
  for (int i = 0; i < 20; ++i)
    ASSERT_TRUE(problem.run(pool) == want) << "run " << i;
}

TEST(Run, AHeadOfManyChunksThroughTheSmallestRing) {
  // More than 8 MiB each: three slots for four heads.
  const AttentionPlan plan(sliding({1, 64, 80}, {1, 8, 8}, {1, 1, 1}), spec_of(4, 256, Dtype::kF32, Precision::kE4m3));
  ASSERT_EQ(plan.slots(1), 3);
  ThreadPool pool(3);
  const Problem problem(plan, 1, 8);
  EXPECT_TRUE(problem.run(pool) == problem.one_by_one());
}

TEST(Run, DenseProblemsOfAnyLengths) {
  ThreadPool pool(3);
  for (const auto& [queries, keys] :
       {std::pair<int64_t, int64_t>{150, 77}, {1, 1}, {96, 1025}, {5, 0}, {0, 5}, {0, 0}}) {
    const AttentionPlan plan(queries, keys, spec_of(3, 24));
    for (const int64_t batch : {2, 0}) {
      const Problem problem(plan, batch, 4);
      EXPECT_TRUE(problem.run(pool) == problem.one_by_one()) << queries << " " << keys << " " << batch;
    }
  }
}

TEST(Run, CodesGiveTheBytesOfWhatTheyWereMadeOf) {
  const Grid grid{3, 8, 10}, tile{3, 4, 4};
  const auto geometry =
      std::make_shared<const Geometry>(grid, tile, Grid{1, 2, 4}, pattern::sliding_tile(grid, tile, {1, 1, 2}));
  const AttentionPlan plan(geometry, spec_of(3, 32, Dtype::kBf16, Precision::kE4m3));
  const Problem problem(plan, 2, 21);
  ThreadPool pool(2);
  const int64_t tokens = plan.keys(), jobs = 2 * 3;
  std::vector<uint8_t> codes[3];
  std::vector<float> q_scale(static_cast<size_t>(jobs * tokens)), k_scale(q_scale), v_scale(jobs * 32);
  std::vector<float> group_scale(static_cast<size_t>(jobs * geometry->groups().count));
  for (auto& x : codes)
    x.resize(static_cast<size_t>(jobs * tokens * 32));
  auto from = [&](const std::vector<uint8_t>& x) {
    return QuantizeSource{problem.source(x, tokens, Layout::kTokensFirst), Dtype::kBf16, 2, 3, 32};
  };
  const auto& kernel = plan.quantizer()->kernel;
  quantize_tokens(kernel, *geometry, from(problem.q), codes[0].data(), group_scale.data(), q_scale.data(), pool);
  quantize_tokens(kernel, *geometry, from(problem.k), codes[1].data(), group_scale.data(), k_scale.data(), pool);
  quantize_channels(kernel, *geometry, from(problem.v), codes[2].data(), v_scale.data(), pool);

  auto result = problem.empty_result();
  Workspace workspace(plan.workspace_bytes(2, 2));
  auto view = [&](int i) { return problem.source(codes[i], tokens, Layout::kHeadsFirst); };
  run_codes(plan, 2, {view(0), view(1), view(2), q_scale.data(), k_scale.data(), v_scale.data()}, problem.scale,
            problem.output(result, Layout::kTokensFirst), workspace.bytes(), pool);
  EXPECT_TRUE(result == problem.run(pool));
}

TEST(Run, OnePlanServesManyThreadsAndAWorkspaceServesRunAfterRun) {
  const AttentionPlan plan(sliding({4, 8, 8}, {2, 4, 4}, {1, 2, 1}), spec_of(2, 64, Dtype::kF32, Precision::kE4m3));
  const Problem problem(plan, 1, 2);
  const auto want = problem.one_by_one();
  ThreadPool shared(2);
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      SerialRunner serial;
      ParallelRunner& runner = t % 2 == 0 ? static_cast<ParallelRunner&>(serial) : shared;
      Workspace workspace(plan.workspace_bytes(1, runner.workers()));
      for (int i = 0; i < 10; ++i)
        wrong += !(problem.run(runner, Layout::kTokensFirst, workspace.bytes()) == want);
    });
  for (auto& thread : threads)
    thread.join();
  EXPECT_EQ(wrong, 0);
}

TEST(Run, UsesAsManyWorkersAsTheWorkspaceHasRoomForAndWritesNoFurther) {
  struct Counting final : ParallelRunner {
    int workers() const override { return 8; }
    void run(int count, Function function, void* context) override {
      seen = count;
      for (int worker = 0; worker < count; ++worker)
        function(context, worker);
    }
    int seen = 0;
  } runner;
  const AttentionPlan plan(sliding({4, 16, 16}, {2, 4, 4}, {1, 2, 1}), spec_of(2, 64));
  const Problem problem(plan, 1, 2);
  const auto want = problem.one_by_one();
  for (const int threads : {1, 3, 8, 20}) {
    const auto bytes = static_cast<size_t>(plan.workspace_bytes(1, threads));
    Workspace workspace(static_cast<int64_t>(bytes) + 256);
    const auto all = workspace.bytes();
    std::ranges::fill(all, std::byte{0xa5});
    EXPECT_TRUE(problem.run(runner, Layout::kTokensFirst, all.first(bytes)) == want);
    EXPECT_EQ(runner.seen, std::min(threads, 8));
    for (size_t i = bytes; i < all.size(); ++i)
      ASSERT_EQ(all[i], std::byte{0xa5}) << "byte " << i - bytes << " behind the workspace";
  }
}

TEST(Run, ErrorsNameTheArgument) {
  const AttentionPlan plan(sliding({2, 4, 4}, {2, 4, 4}, {1, 1, 1}), spec_of(2, 16));
  const AttentionPlan e4m3(sliding({2, 4, 4}, {2, 4, 4}, {1, 1, 1}), spec_of(2, 16, Dtype::kBf16, Precision::kE4m3));
  const Problem problem(plan, 1, 2);
  SerialRunner serial;
  Workspace workspace(e4m3.workspace_bytes(1, 1));
  auto result = problem.empty_result();
  const auto layout = Layout::kTokensFirst;
  struct Arguments {
    int64_t batch = 1;
    Inputs inputs;
    float scale = 0.25f;
    Output output;
    std::span<std::byte> workspace;
  };
  auto says = [&](const std::string& text, auto change) {
    Arguments a;
    a.inputs = {problem.source(problem.q, 32, layout), problem.source(problem.k, 32, layout),
                problem.source(problem.v, 32, layout)};
    a.output = problem.output(result, layout);
    a.workspace = workspace.bytes();
    change(a);
    const auto message = error_of([&] { run(plan, a.batch, a.inputs, a.scale, a.output, a.workspace, serial); });
    EXPECT_NE(message.find(text), std::string::npos) << message;
  };
  says("no error", [](Arguments&) {});
  says("batch: expected 0 or more, got -1", [](Arguments& a) { a.batch = -1; });
  says("batch: expected at most ", [](Arguments& a) { a.batch = int64_t{1} << 62; });  // 2 heads: 2^63 jobs
  says("batch: expected at most ", [](Arguments& a) { a.batch = INT64_MAX; });
  says("q: expected a pointer", [](Arguments& a) { a.inputs.q.data = nullptr; });
  says("k: expected a pointer", [](Arguments& a) { a.inputs.k.data = nullptr; });
  says("v: expected a pointer", [](Arguments& a) { a.inputs.v.data = nullptr; });
  says("out: expected a pointer", [](Arguments& a) { a.output.out.data = nullptr; });
  says("out: must not share memory with q", [](Arguments& a) { a.inputs.q.data = a.output.out.data; });
  says("out: must not share memory with v", [](Arguments& a) { a.inputs.v.data = a.output.out.data; });
  says("softmax_scale: must be finite", [](Arguments& a) { a.scale = std::numeric_limits<float>::infinity(); });
  says("softmax_scale: must be finite", [](Arguments& a) { a.scale = std::numeric_limits<float>::quiet_NaN(); });
  says("workspace: expected at least", [](Arguments& a) { a.workspace = {}; });
  says("workspace: expected at least",
       [&](Arguments& a) { a.workspace = a.workspace.first(static_cast<size_t>(plan.workspace_bytes(1, 1)) - 1); });
  says("workspace: expected an address", [&](Arguments& a) { a.workspace = a.workspace.subspan(8); });
  says("workspace: expected an address", [](Arguments& a) {
    a.workspace = {static_cast<std::byte*>(nullptr), a.workspace.size()};
  });

  const float scales[64] = {};
  const Source codes = problem.source(problem.q, 32, layout);
  auto code_message = [&](const AttentionPlan& by, const Codes& input) {
    return error_of([&] { run_codes(by, 1, input, 0.25f, problem.output(result, layout), workspace.bytes(), serial); });
  };
  EXPECT_NE(code_message(plan, {codes, codes, codes, scales, scales, scales}).find("codes: the plan's precision"),
            std::string::npos);
  auto smoothing = e4m3.spec();
  smoothing.smooth_keys = true;
  const AttentionPlan smooth(sliding({2, 4, 4}, {2, 4, 4}, {1, 1, 1}), smoothing);
  EXPECT_NE(code_message(smooth, {codes, codes, codes, scales, scales, scales}).find("codes: the plan smooths keys"),
            std::string::npos);
  EXPECT_NE(code_message(e4m3, {codes, codes, codes, nullptr, scales, scales}).find("q_scale: expected a pointer"),
            std::string::npos);
  EXPECT_NE(code_message(e4m3, {codes, codes, codes, scales, nullptr, scales}).find("k_scale: expected a pointer"),
            std::string::npos);
  EXPECT_NE(code_message(e4m3, {codes, codes, codes, scales, scales, nullptr}).find("v_scale: expected a pointer"),
            std::string::npos);

  auto coded = e4m3.spec();
  coded.precision = Precision::kInt8;
  const AttentionPlan int8(sliding({2, 4, 4}, {2, 4, 4}, {1, 1, 1}), coded);
  std::vector<uint16_t> exact(2 * 32 * 16);
  auto output = problem.output(result, layout);
  output.exact = {exact.data(), 32 * 2 * 16, 16, 2 * 16};
  const Inputs inputs{problem.source(problem.q, 32, layout), problem.source(problem.k, 32, layout),
                      problem.source(problem.v, 32, layout)};
  Workspace larger(int8.workspace_bytes(1, 1));
  const auto message = error_of([&] { run(int8, 1, inputs, 0.25f, output, larger.bytes(), serial); });
  EXPECT_NE(message.find("exact: it is for the backward, which INT8 attention does not have"), std::string::npos)
      << message;
}

}  // namespace
}  // namespace fpsa::plan
