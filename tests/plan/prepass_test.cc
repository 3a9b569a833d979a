// The pre-pass over whole samples against its steps done apart: prepared rows, then the quantise kernels.
#include "fpsa/plan/prepass.h"

#include <gtest/gtest.h>

#include <limits>

#include "fpsa/base/check.h"
#include "tests/plan/problem.h"

namespace fpsa::plan {
namespace {

using pattern::Grid;

constexpr int64_t kBatch = 2, kHeads = 3, kDim = 40, kWidth = kHeads * kDim;
constexpr Grid kGrid{5, 7, 9}, kTile{2, 3, 4};

// The three projections of two samples, with room between the rows.
struct Samples {
  Samples(kernel::Dtype dtype, int64_t tokens) : tokens(tokens) {
    std::mt19937_64 random(17);
    std::normal_distribution<float> normal;
    for (auto& x : rows) {
      x.resize(static_cast<size_t>(kBatch * tokens * kStride * element_bytes(dtype)));
      for (size_t i = 0; i < static_cast<size_t>(kBatch * tokens * kStride); ++i) {
        const float value = normal(random);
        const uint16_t bf16 = numeric::bf16_from_f32(value);
        const auto bytes = static_cast<size_t>(element_bytes(dtype));
        std::memcpy(x.data() + i * bytes, bytes == 4 ? static_cast<const void*>(&value) : &bf16, bytes);
      }
    }
    for (auto* weight : {&q_weight, &k_weight})
      for (int64_t i = 0; i < kWidth; ++i)
        weight->push_back(1.0f + 0.2f * normal(random));
    for (int64_t i = 0; i < tokens * kDim / 2; ++i) {
      const float angle = 3.0f * normal(random);
      turns.push_back(std::cos(angle));
      turns.push_back(std::sin(angle));
    }
    x.q = {rows[0].data(), tokens * kStride, kStride, q_weight.data()};
    x.k = {rows[1].data(), tokens * kStride, kStride, k_weight.data()};
    x.v = {rows[2].data(), tokens * kStride, kStride, nullptr};
    x.dtype = dtype;
    x.batch = kBatch;
    x.heads = kHeads;
    x.dim = kDim;
    x.eps = 1e-6f;
    x.turns = turns.data();
  }
  static constexpr int64_t kStride = kWidth + 8;
  int64_t tokens;
  std::vector<uint8_t> rows[3];
  std::vector<float> q_weight, k_weight, turns;
  Projections x;
};

struct Coded {
  explicit Coded(int64_t tokens) : v_scale(static_cast<size_t>(kBatch * kWidth), -1.0f) {
    for (auto& c : codes)
      c.assign(static_cast<size_t>(kBatch * tokens * kWidth), 0xa5);
    for (auto& s : scale)
      s.assign(static_cast<size_t>(kBatch * tokens * kHeads), -1.0f);
  }
  PrepassOutput output() {
    return {codes[0].data(), codes[1].data(), codes[2].data(), scale[0].data(), scale[1].data(), v_scale.data()};
  }
  bool operator==(const Coded&) const = default;
  std::vector<uint8_t> codes[3];
  std::vector<float> scale[2], v_scale;
};

struct Kind {
  kernel::Dtype codes = kernel::Dtype::kE4m3;
  bool smooth_keys = false;
};
constexpr Kind kKinds[] = {{kernel::Dtype::kE4m3, false},
                           {kernel::Dtype::kInt8, false},
                           {kernel::Dtype::kInt8, true},
                           {kernel::Dtype::kE4m3, true}};

Coded fused(const Geometry& geometry, const Samples& samples, ParallelRunner& runner, const Kind& kind = {}) {
  Coded result(samples.tokens);
  Projections x = samples.x;
  x.smooth_keys = kind.smooth_keys;
  Workspace workspace(prepass_workspace_bytes(geometry, kBatch, kHeads, kDim, kind.smooth_keys));
  prepass(kernel::prepass(kind.codes).kernel, geometry, x, result.output(), workspace.bytes(), runner);
  return result;
}

// Raster rows of Q or K, normed and rotated.
std::vector<uint8_t> prepared(const Samples& samples, const Projection& projection) {
  const int64_t element = element_bytes(samples.x.dtype), sample = samples.tokens * kWidth * element;
  std::vector<uint8_t> rows(static_cast<size_t>(kBatch * sample));
  kernel::PrepassInput in;
  in.dtype = samples.x.dtype;
  in.rows = samples.tokens;
  in.heads = kHeads;
  in.dim = kDim;
  in.weight = projection.weight;
  in.eps = samples.x.eps;
  in.turns = samples.x.turns;
  for (int64_t b = 0; b < kBatch; ++b) {
    in.x = {static_cast<const uint8_t*>(projection.data) + b * projection.batch * element, projection.token, nullptr};
    kernel::prepass(kernel::Dtype::kE4m3).kernel.prepare(in, 0, in.rows, rows.data() + b * sample);
  }
  return rows;
}

// The keys of one (sample, head) quantised less their mean.
void quantize_smoothed(const kernel::Quantize& kernel, const Geometry& geometry, const Samples& samples,
                       const std::vector<uint8_t>& rows, Coded& result) {
  const int64_t element = element_bytes(samples.x.dtype), tokens = samples.tokens;
  std::vector<float> group_scale(static_cast<size_t>(geometry.groups().count)), mean(kDim);
  for (int64_t b = 0; b < kBatch; ++b)
    for (int64_t h = 0; h < kHeads; ++h) {
      const auto* data = rows.data() + (b * tokens * kWidth + h * kDim) * element;
      kernel::QuantizeInput in{{data, kWidth, geometry.order().to_raster().data()}, samples.x.dtype, tokens, kDim};
      kernel::key_means(in, mean.data());
      in.mean = mean.data();
      const int64_t at = (b * kHeads + h) * tokens;
      kernel.tokens(in, geometry.groups().of_token.data(), geometry.groups().count, result.codes[1].data() + at * kDim,
                    group_scale.data(), result.scale[1].data() + at);
    }
}

Coded apart(const Geometry& geometry, const Samples& samples, const Kind& kind = {}) {
  Coded result(samples.tokens);
  SerialRunner runner;
  const auto& kernel = kernel::quantize(kind.codes).kernel;
  std::vector<float> group_scale(static_cast<size_t>(kBatch * kHeads * geometry.groups().count));
  const Projection* projections[] = {&samples.x.q, &samples.x.k};
  for (int i = 0; i < 2; ++i) {
    const auto rows = prepared(samples, *projections[i]);
    if (i == 1 && kind.smooth_keys) {
      quantize_smoothed(kernel, geometry, samples, rows, result);
      continue;
    }
    quantize_tokens(kernel, geometry,
                    {{rows.data(), samples.tokens * kWidth, kDim, kWidth}, samples.x.dtype, kBatch, kHeads, kDim},
                    result.codes[i].data(), group_scale.data(), result.scale[i].data(), runner);
  }
  quantize_channels(
      kernel, geometry,
      {{samples.x.v.data, samples.x.v.batch, kDim, samples.x.v.token}, samples.x.dtype, kBatch, kHeads, kDim},
      result.codes[2].data(), result.v_scale.data(), runner);
  return result;
}

Geometry geometry_of(const Grid& grid, const Grid& tile, const Grid& granularity) {
  return Geometry(grid, tile, granularity, pattern::sliding_tile(grid, tile, {1, 2, 1}));
}

TEST(Prepass, EqualsNormRotationAndQuantisationApart) {
  ThreadPool pool(3);
  SerialRunner serial;
  for (const auto dtype : {kernel::Dtype::kF32, kernel::Dtype::kBf16})
    for (const Grid& granularity : {kTile, Grid{1, 1, 1}, Grid{2, 1, 2}, Grid{4, 3, 4}, Grid{1, 6, 4}, Grid{4, 6, 8},
                                    Grid{8, 9, 12}}) {  // finer, coarser, both, and one group for all
      const Geometry geometry = geometry_of(kGrid, kTile, granularity);
      const Samples samples(dtype, geometry.tokens());
      for (const Kind& kind : kKinds) {
        const Coded expected = apart(geometry, samples, kind);
        const auto what = join(kernel::dtype_name(kind.codes), kind.smooth_keys ? " smoothed " : " ",
                               pattern::to_string(granularity));
        EXPECT_TRUE(fused(geometry, samples, serial, kind) == expected) << what;
        EXPECT_TRUE(fused(geometry, samples, pool, kind) == expected) << what << " three threads";
      }
    }
}

TEST(Prepass, TakesAnyGrid) {
  SerialRunner serial;
  for (const Grid& grid : {Grid{1, 1, 1}, Grid{1, 1, 5}, Grid{3, 1, 1}, Grid{4, 30, 41}}) {
    const Geometry geometry = geometry_of(grid, kTile, kTile);
    const Samples samples(kernel::Dtype::kBf16, geometry.tokens());
    for (const Kind& kind : kKinds)
      EXPECT_TRUE(fused(geometry, samples, serial, kind) == apart(geometry, samples, kind))
          << pattern::to_string(grid) << " " << kernel::dtype_name(kind.codes) << " " << kind.smooth_keys;
  }
}

TEST(Prepass, ABadValueReachesItsGroupAndNoOther) {
  SerialRunner serial;
  const Geometry geometry = geometry_of(kGrid, kTile, kTile);
  Samples samples(kernel::Dtype::kF32, geometry.tokens());
  const Coded good = fused(geometry, samples, serial);
  const int32_t bad = geometry.order().to_raster()[0];
  const float nan = std::nanf("");
  std::memcpy(samples.rows[1].data() + bad * Samples::kStride * 4, &nan, 4);
  const Coded got = fused(geometry, samples, serial);
  const auto tokens = static_cast<size_t>(geometry.tokens());
  for (size_t i = 0; i < got.scale[1].size(); ++i) {
    const bool first_sample = i < kHeads * tokens;
    EXPECT_EQ(std::isnan(got.scale[1][i]),
              first_sample && geometry.groups().of_token[i % tokens] == geometry.groups().of_token[0])
        << i;
  }
  EXPECT_EQ(got.codes[0], good.codes[0]);
}

// Its channel's mean is not finite, so every key of the sample loses it (kernel/smoothing.h).
TEST(Prepass, ABadValueOfSmoothedKeysReachesAllKeysOfItsHeadAndSample) {
  SerialRunner serial;
  const Geometry geometry = geometry_of(kGrid, kTile, kTile);
  const auto tokens = static_cast<size_t>(geometry.tokens());
  for (const Kind& kind : {Kind{kernel::Dtype::kE4m3, true}, Kind{kernel::Dtype::kInt8, true}})
    for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
      Samples samples(kernel::Dtype::kF32, geometry.tokens());
      samples.x.k.weight = nullptr;  // the norm would carry a NaN to the other heads
      const Coded good = fused(geometry, samples, serial, kind);
      std::memcpy(samples.rows[1].data() + 7 * Samples::kStride * 4, &bad, 4);
      const Coded got = fused(geometry, samples, serial, kind);
      for (size_t i = 0; i < got.codes[1].size(); ++i) {
        const float scale = got.scale[1][i / kDim];
        if (i >= tokens * kDim) {
          ASSERT_EQ(got.codes[1][i], good.codes[1][i]) << i;
          ASSERT_EQ(scale, good.scale[1][i / kDim]) << i;
        } else {
          ASSERT_FALSE(std::isfinite(scale)) << i;
        }
      }
      EXPECT_EQ(got.codes[0], good.codes[0]);
      EXPECT_EQ(got.codes[2], good.codes[2]);
    }
}

TEST(Prepass, FeedsRunCodesWithTheBytesOfRun) {
  SerialRunner serial;
  const auto geometry =
      std::make_shared<const Geometry>(kGrid, kTile, Grid{4, 3, 2}, pattern::sliding_tile(kGrid, kTile, {1, 2, 1}));
  const Samples samples(kernel::Dtype::kBf16, geometry->tokens());
  AttentionSpec spec;
  spec.heads = kHeads;
  spec.dim = kDim;
  spec.dtype = kernel::Dtype::kBf16;
  spec.precision = Precision::kE4m3;
  const AttentionPlan plan(geometry, spec);
  Workspace workspace(plan.workspace_bytes(kBatch, 1));
  const int64_t sample = samples.tokens * kWidth;
  const auto q = prepared(samples, samples.x.q), k = prepared(samples, samples.x.k);
  std::vector<uint16_t> expected(static_cast<size_t>(kBatch * sample)), got(expected.size());
  auto rows = [&](const void* x) { return Source{x, sample, kDim, kWidth}; };
  const Source v{samples.x.v.data, samples.x.v.batch, kDim, samples.x.v.token};
  run(plan, kBatch, {rows(q.data()), rows(k.data()), v}, 0.2f, {{expected.data(), sample, kDim, kWidth}},
      workspace.bytes(), serial);
  const Coded codes = fused(*geometry, samples, serial);
  auto source = [&](int i) { return Source{codes.codes[i].data(), sample, samples.tokens * kDim, kDim}; };
  run_codes(plan, kBatch,
            {source(0), source(1), source(2), codes.scale[0].data(), codes.scale[1].data(), codes.v_scale.data()}, 0.2f,
            {{got.data(), sample, kDim, kWidth}}, workspace.bytes(), serial);
  EXPECT_EQ(got, expected);
}

}  // namespace
}  // namespace fpsa::plan
