#include "fpsa/ops/prepass.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include "fpsa/ops/plan.h"

namespace fpsa::ops {
namespace {

using pattern::Grid;

constexpr Grid kGrid{3, 5, 9}, kTile{2, 2, 4};
constexpr int64_t kHeads = 3;

// Thirds of one tensor, as a joint projection would give them.
Projected random_projected(at::ScalarType dtype, int64_t dim, int64_t batch = 2) {
  at::manual_seed(23);
  const int64_t tokens = kGrid.volume(), width = kHeads * dim;
  const auto parts = at::randn({batch, tokens, 3 * width}).to(dtype).chunk(3, -1);
  Projected x;
  x.q = parts[0];
  x.k = parts[1];
  x.v = parts[2];
  x.q_weight = (1.0 + 0.2 * at::randn({width})).to(dtype);
  x.k_weight = 1.0 + 0.2 * at::randn({width});
  x.eps = 1e-6;
  x.heads = kHeads;
  const auto angles = at::randn({tokens, 1, dim / 2});
  x.rope = at::polar(at::ones_like(angles), angles);
  return x;
}

AttentionResult apart(const Projected& x, const Plan& plan, Precision precision = Precision::kE4m3,
                      bool smooth_keys = false) {
  AttentionOptions options;
  options.precision = precision;
  options.smooth_keys = smooth_keys;
  return attention(prepare_heads(x.q, x.q_weight, x.eps, x.heads, x.rope),
                   prepare_heads(x.k, x.k_weight, x.eps, x.heads, x.rope), x.v.unflatten(2, {x.heads, -1}), plan,
                   options);
}

TEST(Prepass, PrepareHeadsIsRmsNormAndRotation) {
  for (const bool turned : {true, false}) {
    auto x = random_projected(at::kFloat, 24);
    if (!turned) x.rope = at::Tensor();
    const auto f = x.q.to(at::kDouble);
    auto expected = f * at::rsqrt(f.square().mean(-1, true) + x.eps) * x.q_weight.to(at::kDouble);
    expected = expected.unflatten(2, {kHeads, -1});
    if (turned) {
      const auto pairs = at::view_as_complex(expected.unflatten(3, {-1, 2}).contiguous());
      expected = at::view_as_real(pairs * x.rope).flatten(3);
    }
    const auto got = prepare_heads(x.q, x.q_weight, x.eps, kHeads, x.rope);
    EXPECT_EQ(got.sizes(), expected.sizes());
    // Sum and root 16 eps at most, then five roundings, on values up to 5 or so.
    EXPECT_LT((got - expected).abs().max().item<double>(), 5.0 * 24 * 0x1p-24);
  }
}

TEST(Prepass, FusedAttentionHasTheBitsOfTheSeparateSteps) {
  for (const auto dtype : {at::kFloat, at::kBFloat16})
    for (const int64_t dim : {8, 64, 128})
      for (const Grid& granularity : {kTile, Grid{1, 1, 2}, Grid{4, 6, 12}}) {
        const auto plan = plan_for(kGrid, kTile, granularity, "sta", {1, 2, 2});
        const auto x = random_projected(dtype, dim);
        for (const auto& [precision, codes, smooth_keys] : {std::tuple(Precision::kE4m3, kernel::Dtype::kE4m3, false),
                                                            {Precision::kInt8, kernel::Dtype::kInt8, false},
                                                            {Precision::kInt8, kernel::Dtype::kInt8, true},
                                                            {Precision::kE4m3, kernel::Dtype::kE4m3, true}}) {
          const auto fused = attention_of_projected(x, *plan, precision, smooth_keys),
                     expected = apart(x, *plan, precision, smooth_keys);
          EXPECT_TRUE(at::equal(fused.out, expected.out))
              << dtype << " " << dim << pattern::to_string(granularity) << kernel::dtype_name(codes) << smooth_keys;
          EXPECT_EQ(fused.kernel, expected.kernel);
          EXPECT_EQ(fused.coder, kernel::prepass(codes).name);
          EXPECT_EQ(expected.coder, kernel::quantize(codes).name);
        }
      }
}

TEST(Prepass, WithoutRotationToo) {
  const auto plan = plan_for(kGrid, kTile, kTile, "sta", {1, 2, 2});
  auto x = random_projected(at::kBFloat16, 32);
  x.rope = at::Tensor();
  EXPECT_TRUE(at::equal(attention_of_projected(x, *plan, Precision::kE4m3).out, apart(x, *plan).out));
}

TEST(Prepass, BytesDoNotDependOnThreads) {
  const auto plan = plan_for(kGrid, kTile, {4, 6, 12}, "sta", {1, 2, 2});
  const auto x = random_projected(at::kBFloat16, 32);
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const auto one = attention_of_projected(x, *plan, Precision::kE4m3).out;
  at::set_num_threads(3);
  const auto three = attention_of_projected(x, *plan, Precision::kE4m3).out;
  at::set_num_threads(threads);
  EXPECT_TRUE(at::equal(one, three));
}

TEST(Prepass, EmptyBatchGivesEmptyOutput) {
  const auto plan = plan_for(kGrid, kTile, kTile, "sta", {1, 2, 2});
  const auto x = random_projected(at::kFloat, 32, 0);
  EXPECT_EQ(attention_of_projected(x, *plan, Precision::kE4m3).out.sizes(), at::IntArrayRef({0, 135, 3, 32}));
}

TEST(Prepass, WhatCannotRunIsAnError) {
  const auto plan = plan_for(kGrid, kTile, kTile, "sta", {1, 2, 2});
  const auto good = random_projected(at::kFloat, 32);
  auto run = [&](auto change) {
    Projected x = good;
    change(x);
    attention_of_projected(x, *plan, Precision::kE4m3);
  };
  EXPECT_NO_THROW(run([](Projected&) {}));
  EXPECT_THROW(attention_of_projected(good, *plan, Precision::kNone), c10::Error);
  EXPECT_THROW(run([](Projected& x) { x.heads = 5; }), c10::Error);
  EXPECT_THROW(run([](Projected& x) { x.heads = 0; }), c10::Error);
  EXPECT_THROW(run([](Projected& x) { x.heads = 96; }), c10::Error);  // a head dim of 1
  EXPECT_THROW(run([](Projected& x) { x.q = x.k = x.v = x.q.narrow(1, 0, 134); }), c10::Error);
  EXPECT_THROW(run([](Projected& x) { x.v = x.v.narrow(1, 0, 134); }), c10::Error);
  EXPECT_THROW(run([](Projected& x) { x.k = x.k.to(at::kBFloat16); }), c10::Error);
  EXPECT_THROW(run([](Projected& x) { x.q = x.k = x.v = x.q.to(at::kDouble); }), c10::Error);
  EXPECT_THROW(run([](Projected& x) { x.q = at::Tensor(); }), c10::Error);
  EXPECT_THROW(run([](Projected& x) { x.q_weight = x.q_weight.narrow(0, 0, 32); }), c10::Error);
  EXPECT_THROW(run([](Projected& x) { x.k_weight = at::Tensor(); }), c10::Error);
  EXPECT_THROW(run([](Projected& x) { x.rope = x.rope.narrow(0, 1, 134); }), c10::Error);
  EXPECT_THROW(run([](Projected& x) { x.rope = x.rope.to(at::kComplexDouble); }), c10::Error);
  EXPECT_THROW(run([](Projected& x) { x.q = x.q.clone().requires_grad_(true); }), c10::Error);
  EXPECT_FALSE(preparable(good.q.to(at::kDouble), kHeads));
  EXPECT_FALSE(preparable(good.q, 96));
  EXPECT_TRUE(preparable(good.q, kHeads));
}

}  // namespace
}  // namespace fpsa::ops
