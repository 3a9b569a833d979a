// From projections a method makes the bits that it makes from prepared queries and keys, and a model's prediction does
// not tell which way it went.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "fpsa/accel/methods.h"
#include "fpsa/kernel/table.h"
#include "fpsa/models/wan/dit.h"
#include "fpsa/ops/prepass.h"

namespace fpsa::accel {
namespace {

using pattern::Grid;
using schedule::Quant;

constexpr Grid kGrid{3, 6, 10}, kTile{2, 2, 4};

// Coarse and sparse in E4M3, then sparse without quantisation, then fine scales in E4M3 over all keys.
schedule::Schedule three_phases() {
  schedule::Schedule s;
  s.tile = kTile;
  s.phases = {{0.3, {4, 4, 8}, {1, 2, 1}, Quant::kE4m3},
              {0.6, kTile, {1, 2, 2}, Quant::kNone},
              {1.0, {1, 1, 2}, pattern::kFullWindow, Quant::kE4m3}};
  return s;
}

// Hides attend(), so that the model's own norm and rotation run.
class Apart : public nn::AttentionMethod {
 public:
  explicit Apart(nn::AttentionMethod& method) : method_(method) {}
  at::Tensor self_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const nn::AttentionContext& context) override {
    return method_.self_attention(q, k, v, context);
  }

 private:
  nn::AttentionMethod& method_;
};

nn::Projections random_projections(at::ScalarType dtype = at::kBFloat16) {
  at::manual_seed(5);
  const int64_t tokens = kGrid.volume(), heads = 3, dim = 32, width = heads * dim;
  const auto angles = at::randn({tokens, 1, dim / 2});
  auto rows = [&] { return at::randn({2, tokens, width}).to(dtype); };
  auto weight = [&] { return 1.0 + 0.2 * at::randn({width}); };
  return {.q = rows(),
          .k = rows(),
          .v = rows(),
          .q_weight = weight(),
          .k_weight = weight(),
          .eps = 1e-6,
          .heads = heads,
          .rope = at::polar(at::ones_like(angles), angles),
          .prepare = &ops::prepare_heads};
}

nn::AttentionContext at_step(int64_t step, int64_t layer = 0) {
  return {.layer = layer, .num_layers = 3, .step = step, .num_steps = 10, .grid = kGrid};
}

// Both ways; returns the entry of the first.
Explain compare(Method& method, const nn::Projections& x, const nn::AttentionContext& context) {
  const auto fused = method.attend(x, context);
  const Explain entry = method.report().at(0);
  Apart apart(method);
  EXPECT_TRUE(at::equal(fused, apart.attend(x, context))) << entry.method << " step " << context.step;
  method.reset();
  return entry;
}

TEST(Projections, EveryMethodGivesTheBitsOfPreparedHeads) {
  const std::string fused(kernel::prepass(kernel::Dtype::kE4m3).name), apart(kernel::quantize().name);
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    const auto x = random_projections(dtype);
    const auto dense = make_dense(), fp8 = make_fp8(three_phases()), sta = make_sta(three_phases()),
               fps = make_fps(three_phases());
    EXPECT_EQ(compare(*dense, x, at_step(0)).coder, "");
    EXPECT_EQ(compare(*sta, x, at_step(0)).coder, "");
    EXPECT_EQ(compare(*fp8, x, at_step(4)).coder, fused);
    EXPECT_EQ(compare(*fps, x, at_step(0)).coder, fused);
    EXPECT_EQ(compare(*fps, x, at_step(4)).coder, "");
    const Explain last = compare(*fps, x, at_step(9));
    EXPECT_EQ(last.coder, fused);
    EXPECT_EQ(last.kernel, kernel::attention_fwd(kernel::Dtype::kE4m3).name);
    EXPECT_EQ(last.pattern, "dense");
    EXPECT_EQ(last.granularity, "(1,1,2)");
    EXPECT_EQ(last.density, 1.0);
    EXPECT_NE(last.reason.find("phase 3 of 3"), std::string::npos) << last.reason;
    fps->self_attention(x.prepare(x.q, x.q_weight, x.eps, x.heads, x.rope), x.q.unflatten(2, {3, -1}),
                        x.v.unflatten(2, {3, -1}), at_step(9));
    EXPECT_EQ(fps->report().at(0).coder, apart);
  }
}

TEST(Projections, HeadsThatDifferAreNormedTogetherAndQuantisedApart) {
  auto s = three_phases();
  schedule::Override change;
  change.layers = {{1, 1}};
  change.heads = {{2, 2}};
  change.granularity = kTile;
  s.overrides = {change};
  const auto x = random_projections();
  const auto method = make_fps(s);
  EXPECT_EQ(compare(*method, x, at_step(0, 0)).coder, kernel::prepass(kernel::Dtype::kE4m3).name);
  EXPECT_EQ(compare(*method, x, at_step(0, 1)).coder, kernel::quantize().name);
}

TEST(Projections, GradientsTakeThePreparedHeadsAndGiveTheSameBits) {
  auto x = random_projections();
  at::Tensor fused;
  {
    const at::NoGradGuard no_grad;
    fused = make_fps(three_phases())->attend(x, at_step(0));
  }
  x.v.set_requires_grad(true);
  const auto method = make_fps(three_phases());
  const auto out = method->attend(x, at_step(0));
  EXPECT_EQ(method->report()[0].coder, kernel::quantize().name);
  EXPECT_TRUE(out.requires_grad());
  EXPECT_TRUE(at::equal(out, fused));
}

TEST(Projections, Int8TakesTheProjectionsWithItsKeysSmoothed) {
  const auto x = random_projections();
  const auto method = make_int8(kTile, {1, 1, 2});
  EXPECT_EQ(compare(*method, x, at_step(0)).coder, kernel::prepass(kernel::Dtype::kInt8).name);
}

TEST(Projections, WhatDoesNotFitIsAnError) {
  const auto x = random_projections();
  auto context = at_step(0);
  context.grid = {3, 6, 9};
  EXPECT_ANY_THROW(make_fps(three_phases())->attend(x, context));
}

TEST(Projections, AModelPredictsTheSameEitherWay) {
  models::wan::DitConfig config;
  config.num_attention_heads = 2;
  config.attention_head_dim = 32;
  config.in_channels = config.out_channels = 4;
  config.text_dim = 12;
  config.freq_dim = 16;
  config.ffn_dim = 64;
  config.num_layers = 3;
  config.rope_max_seq_len = 64;
  const at::NoGradGuard no_grad;
  nn::RandomInit source(1);
  models::wan::WanDit dit(config, nn::Scope(source));
  at::Generator generator = at::detail::createCPUGenerator(2);
  for (auto& [name, tensor] : source.tensors)  // the head starts at zero, which would hide everything behind it
    tensor.add_(at::randn(tensor.sizes(), generator, at::kFloat) * 0.1);
  nn::DenoiserInput input;
  input.latents = at::randn({2, 4, kGrid.t, 2 * kGrid.y, 2 * kGrid.x}, generator, at::kFloat);
  input.timestep = at::tensor({300.0F, 800.0F});
  input.text = at::randn({2, 5, 12}, generator, at::kFloat);
  input.num_steps = 10;
  for (const auto dtype : {at::kFloat, at::kBFloat16})
    for (const int64_t step : {0, 4, 9}) {
      dit.set_compute_dtype(dtype);
      input.step = step;
      const auto method = make_fps(three_phases());
      const auto fused = dit.predict(input, *method);
      EXPECT_EQ(method->report().at(0).coder.empty(), step == 4);
      Apart apart(*method);
      EXPECT_TRUE(at::equal(fused, dit.predict(input, apart))) << dtype << " step " << step;
    }
}

}  // namespace
}  // namespace fpsa::accel
