#include "fpsa/models/wan/dit.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/record_function.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <utility>

#include "fpsa/base/check.h"
#include "fpsa/models/wan/dit_fused.h"
#include "fpsa/ops/composed.h"
#include "tests/tolerance.h"

namespace fpsa::models::wan {
namespace {

// Dense attention that records where it was called.
class Dense : public nn::AttentionMethod {
 public:
  at::Tensor self_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const nn::AttentionContext& context) override {
    contexts.push_back(context);
    dtypes.insert(q.scalar_type());
    dtypes.insert(k.scalar_type());
    dtypes.insert(v.scalar_type());
    EXPECT_EQ(q.size(1), context.grid.volume());
    EXPECT_EQ(q.dim(), 4);
    return ops::composed_attention(q, k, v);
  }
  std::vector<nn::AttentionContext> contexts;
  std::set<at::ScalarType> dtypes;
};

DitConfig small() {
  DitConfig config;
  config.num_attention_heads = 2;
  config.attention_head_dim = 16;
  config.in_channels = config.out_channels = 4;
  config.text_dim = 12;
  config.freq_dim = 16;
  config.ffn_dim = 64;
  config.num_layers = 3;
  config.rope_max_seq_len = 64;
  return config;
}

// Trained-like values: the head and the biases start at zero, which would hide everything behind them.
struct Model {
  explicit Model(const DitConfig& config, uint64_t seed = 1) : source(seed), dit(config, nn::Scope(source)) {
    at::NoGradGuard guard;
    at::Generator generator = at::detail::createCPUGenerator(seed + 1);
    for (auto& [name, tensor] : source.tensors)
      tensor.add_(at::randn(tensor.sizes(), generator, at::kFloat) * 0.1);
  }
  nn::RandomInit source;
  WanDit dit;
};

nn::DenoiserInput make_input(std::vector<float> timesteps = {300.0F, 800.0F}) {
  at::Generator generator = at::detail::createCPUGenerator(5);
  const auto batch = static_cast<int64_t>(timesteps.size());
  nn::DenoiserInput input;
  input.latents = at::randn({batch, 4, 3, 6, 10}, generator, at::kFloat);
  input.timestep = at::tensor(timesteps);
  input.text = at::randn({batch, 5, 12}, generator, at::kFloat);
  input.step = 2;
  input.num_steps = 9;
  return input;
}

DitOptions tap(int64_t layer) {
  DitOptions options;
  options.tap_layer = layer;
  return options;
}

double relative(const at::Tensor& a, const at::Tensor& b) {
  return ((a.to(at::kDouble) - b.to(at::kDouble)).norm() / b.to(at::kDouble).norm()).item<double>();
}

TEST(WanDit, TellsAttentionWhereItIs) {
  Model model(small());
  Dense dense;
  at::NoGradGuard guard;
  model.dit.predict(make_input(), dense);
  ASSERT_EQ(dense.contexts.size(), 3U);
  for (int64_t i = 0; i < 3; ++i) {
    EXPECT_EQ(dense.contexts[i].layer, i);
    EXPECT_EQ(dense.contexts[i].num_layers, 3);
    EXPECT_EQ(dense.contexts[i].step, 2);
    EXPECT_EQ(dense.contexts[i].num_steps, 9);
    EXPECT_EQ(dense.contexts[i].grid, (pattern::Grid{3, 3, 5}));
  }
}

TEST(WanDit, InferenceAndTrainingPathsAgree) {
  Model model(small());
  Dense dense;
  nn::DenoiserInput input = make_input();
  at::Tensor trained = model.dit.predict(input, dense).detach();
  at::NoGradGuard guard;
  EXPECT_LT(relative(model.dit.predict(input, dense), trained), 1e-6);
}

TEST(WanDit, InputsAreNotChanged) {
  Model model(small());
  Dense dense;
  at::NoGradGuard guard;
  nn::DenoiserInput input = make_input();
  at::Tensor latents = input.latents.clone(), text = input.text.clone();
  model.dit.forward(input, dense, tap(1));
  EXPECT_TRUE(at::equal(latents, input.latents));
  EXPECT_TRUE(at::equal(text, input.text));
}

TEST(WanDit, TapIsNotOverwrittenByLaterLayers) {
  Model model(small());
  Dense dense;
  nn::DenoiserInput input = make_input();
  at::Tensor expected = model.dit.forward(input, dense, tap(0)).tap.detach();
  at::NoGradGuard guard;
  EXPECT_LT(relative(model.dit.forward(input, dense, tap(0)).tap, expected), 1e-6);
}

TEST(WanDit, SamplesOfABatchDoNotMix) {
  Model model(small());
  Dense dense;
  at::NoGradGuard guard;
  nn::DenoiserInput both = make_input();
  at::Tensor together = model.dit.predict(both, dense);
  for (int64_t i = 0; i < 2; ++i) {
    nn::DenoiserInput one = both;
    one.latents = both.latents.narrow(0, i, 1);
    one.timestep = both.timestep.narrow(0, i, 1);
    one.text = both.text.narrow(0, i, 1);
    EXPECT_LT(relative(model.dit.predict(one, dense), together.narrow(0, i, 1)), 1e-5);
  }
}

TEST(WanDit, Bf16ActivationsStayNearF32AndGradientsReachEveryWeight) {
  Model model(small());
  Dense dense;
  nn::DenoiserInput input = make_input();
  at::Tensor exact = model.dit.predict(input, dense).detach();
  dense.dtypes.clear();
  model.dit.set_compute_dtype(at::kBFloat16);
  at::Tensor velocity = model.dit.predict(input, dense);
  EXPECT_EQ(dense.dtypes, std::set<at::ScalarType>{at::kBFloat16});
  EXPECT_EQ(velocity.scalar_type(), at::kFloat);
  // Three layers, a handful of roundings of 2^-9 each, errors independent: a few percent is the most to expect.
  EXPECT_LT(relative(velocity.detach(), exact), 0.03);
  torch::autograd::backward({velocity.square().mean()}, {});
  for (const auto& [name, tensor] : model.source.tensors) {
    ASSERT_TRUE(tensor.grad().defined()) << name;
    EXPECT_EQ(tensor.grad().scalar_type(), at::kFloat) << name;
    EXPECT_TRUE(at::isfinite(tensor.grad()).all().item<bool>()) << name;
    EXPECT_GT(tensor.grad().abs().max().item<double>(), 0.0) << name;
  }
}

// A step h along a random direction in all weights: the loss must move as the gradient says. Central differences err
// by O(h^2) in the loss's third derivative and by eps * |loss| / h in rounding; at h = 1e-2 both stay below 1%.
TEST(WanDit, GradientMatchesFiniteDifferences) {
  Model model(small());
  Dense dense;
  nn::DenoiserInput input = make_input();
  at::Generator generator = at::detail::createCPUGenerator(11);
  at::Tensor cotangent = at::randn(input.latents.sizes(), generator, at::kFloat);
  auto loss = [&] { return (model.dit.predict(input, dense).to(at::kDouble) * cotangent).sum(); };
  torch::autograd::backward({loss()}, {});

  at::NoGradGuard guard;
  for (int trial = 0; trial < 3; ++trial) {
    double slope = 0.0;
    std::map<std::string, at::Tensor> direction;
    for (auto& [name, tensor] : model.source.tensors) {
      direction[name] = at::randn(tensor.sizes(), generator, at::kFloat) * 0.1;
      slope += (direction[name].to(at::kDouble) * tensor.grad()).sum().item<double>();
    }
    const double h = 1e-2;
    auto shifted = [&](double amount) {
      for (auto& [name, tensor] : model.source.tensors)
        tensor.add_(direction[name], amount);
      const double value = loss().item<double>();
      for (auto& [name, tensor] : model.source.tensors)
        tensor.sub_(direction[name], amount);
      return value;
    };
    const double measured = (shifted(h) - shifted(-h)) / (2 * h);
    EXPECT_NEAR(measured, slope, 0.01 * std::fabs(slope) + 1e-3);
  }
}

// A prompt of 2 tokens in 5 rows: 3 zero rows are 3 equal keys, which one row of multiplicity 3 replaces.
TEST(WanDit, OneZeroRowStandsForMany) {
  Model model(small());
  Dense dense;
  nn::DenoiserInput full = make_input();
  full.text.narrow(1, 2, 3).zero_();
  const at::Tensor every_row = model.dit.predict(full, dense).detach();
  at::NoGradGuard guard;
  nn::DenoiserInput brief = full;
  brief.text = full.text.narrow(1, 0, 3);
  DitOptions options;
  options.text_multiplicity = at::tensor({1.0F, 1.0F, 3.0F, 1.0F, 1.0F, 3.0F}).view({2, 3});
  EXPECT_LT(relative(model.dit.forward(brief, dense, options).velocity, every_row), tolerance::kMergedKeys);
}

// How many text rows a forward computes on: those that the first linear layer of the text, of 12 channels, is given.
class TextRows {
 public:
  TextRows() {
    seen = 0;
    handle_ = at::addThreadLocalCallback(at::RecordFunctionCallback([](const at::RecordFunction& call) {
                                           const auto inputs = call.inputs();
                                           if (std::string_view(call.name()) == "aten::linear" && inputs[0].isTensor())
                                             if (const auto& x = inputs[0].toTensor(); x.dim() == 3 && x.size(2) == 12)
                                               seen = x.size(1);
                                           return std::unique_ptr<at::ObserverContext>();
                                         }).needsInputs(true));
  }
  ~TextRows() { at::removeCallback(handle_); }
  int64_t count() const { return seen; }

 private:
  inline static int64_t seen = 0;
  at::CallbackHandle handle_;
};

// What sampling passes: 512 rows, of which the prompts are few. Under autograd every row is a key, without it padding
// is one.
TEST(WanDit, PaddingIsOneKeyOfItsWeightWithoutAutograd) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16})
    for (const auto& [first, second] : {std::pair(7, 3), {0, 0}, {0, 40}, {255, 9}, {256, 0}, {512, 9}}) {
      Model model(small());
      model.dit.set_compute_dtype(dtype);
      Dense dense;
      nn::DenoiserInput input = make_input();
      input.text = at::zeros({2, 512, 12});
      at::Generator generator = at::detail::createCPUGenerator(8);
      for (const auto& [sample, length] : {std::pair(0, first), {1, second}})
        input.text[sample].narrow(0, 0, length).copy_(at::randn({length, 12}, generator, at::kFloat));
      const TextRows rows;
      const at::Tensor every_row = model.dit.predict(input, dense).detach();
      EXPECT_EQ(rows.count(), 512);
      at::NoGradGuard guard;
      const at::Tensor merged = model.dit.predict(input, dense);
      const int kept = std::max(first, second) + 1;
      EXPECT_EQ(rows.count(), kept <= 256 ? kept : 512);
      EXPECT_LT(relative(merged, every_row), dtype == at::kFloat ? tolerance::kMergedKeys : tolerance::kOpsBf16)
          << first << " and " << second << " rows, " << dtype;
    }
}

// More query rows than are computed at a time, and the rest of such a number.
TEST(WanDit, ManyQueriesAttendToTheTextAsFew) {
  Model model(small());
  Dense dense;
  at::NoGradGuard guard;
  nn::DenoiserInput input = make_input({500.0F});
  input.latents = at::randn({1, 4, 2, 64, 72}, at::detail::createCPUGenerator(3), at::kFloat);  // 2,304 tokens
  input.text = at::zeros({1, 20, 12});
  input.text[0].narrow(0, 0, 5).fill_(0.7);
  DitOptions each;  // a weight for every row: nothing is left to merge
  each.text_multiplicity = at::ones({1, 20});
  const at::Tensor merged = model.dit.predict(input, dense);
  EXPECT_LT(relative(merged, model.dit.forward(input, dense, each).velocity), tolerance::kMergedKeys);
  at::AutoGradMode grad(true);
  EXPECT_LT(relative(merged, model.dit.predict(input, dense).detach()), tolerance::kMergedKeys);
}

TEST(WanDit, FreshTrainingInitPredictsZero) {
  nn::RandomInit source(3);
  WanDit dit(small(), nn::Scope(source));
  Dense dense;
  at::NoGradGuard guard;
  EXPECT_EQ(dit.predict(make_input(), dense).abs().max().item<float>(), 0.0F);
}

TEST(Rope, SplitCoversTheHead) {
  for (int64_t dim = 2; dim <= 256; dim += 2) {
    const auto split = rope_split(dim);
    EXPECT_EQ(split[0] + split[1] + split[2], dim);
    for (int64_t part : split)
      EXPECT_EQ(part % 2, 0);
  }
  EXPECT_EQ(rope_split(128), (std::array<int64_t, 3>{44, 42, 42}));
}

TEST(Rope, StretchMovesATokenOntoTheLargerGridsPosition) {
  at::Tensor small_table = rope_table({3, 4, 5}, 32, {.t = 1.0, .y = 2.0, .x = 2.0}, at::kFloat).view({3, 4, 5, 16});
  at::Tensor large_table = rope_table({3, 8, 10}, 32, {}, at::kFloat).view({3, 8, 10, 16});
  for (int64_t y = 0; y < 4; ++y)
    for (int64_t x = 0; x < 5; ++x)
      EXPECT_TRUE(at::equal(small_table.select(1, y).select(1, x), large_table.select(1, 2 * y).select(1, 2 * x)));
}

TEST(Rope, RotationKeepsLengths) {
  at::Generator generator = at::detail::createCPUGenerator(2);
  at::Tensor x = at::randn({2, 12, 64}, generator, at::kFloat);
  at::Tensor weight = at::ones({64});
  at::Tensor plain = norm_heads(x, weight, 1e-6, 2, {});
  at::Tensor turned = norm_heads(x, weight, 1e-6, 2, rope_table({1, 3, 4}, 32, {}, at::kFloat));
  EXPECT_TRUE(at::allclose(plain.square().sum(-1), turned.square().sum(-1), 1e-5, 1e-5));
  EXPECT_TRUE(at::allclose(plain.select(1, 0), turned.select(1, 0)));  // the first token stands at the origin
}

TEST(DitConfig, RoundTripsThroughJson) {
  DitConfig config = small();
  config.cross_attn_norm = false;
  config.patch_size = {2, 1, 4};
  EXPECT_EQ(DitConfig::from_json(config.to_json()).to_json(), config.to_json());
}

TEST(DitConfig, AbsentKeysMeanDiffusersDefaults) {
  DitConfig config = DitConfig::from_json(nlohmann::json::object());
  EXPECT_EQ(config.num_attention_heads, 40);
  EXPECT_EQ(config.ffn_dim, 13824);
  EXPECT_EQ(config.num_layers, 40);
}

TEST(Dit, TheE4m3FeedForwardInfersWhatItTrainsAndReachesTheWeights) {
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    Model model(small());
    model.dit.set_compute_dtype(dtype);
    Dense attention;
    const auto input = make_input();
    at::Tensor plain, coded;
    {
      at::NoGradGuard guard;
      plain = model.dit.predict(input, attention);
      model.dit.set_e4m3_feed_forward(true);
      coded = model.dit.predict(input, attention);
    }
    EXPECT_FALSE(at::equal(coded, plain));
    EXPECT_LT(relative(coded, plain), 0.0626);
    const auto& up = model.source.tensors.at("blocks.1.ffn.net.0.proj.weight");
    const auto trained = model.dit.predict(input, attention);
    EXPECT_LT(relative(trained, coded), dtype == at::kFloat ? tolerance::kModelF32 : tolerance::kE4m3LinearRms * 3);
    const auto gradient = torch::autograd::grad({trained.square().sum()}, {up})[0];
    EXPECT_GT(gradient.abs().max().item<double>(), 0.0);
  }
}

// Gradients of a loss that reads the velocity and the tap, by name; "latents" and "text" among them.
std::map<std::string, at::Tensor> gradients(Model& model, const nn::DenoiserInput& input, Dense& attention) {
  nn::DenoiserInput leaves = input;
  leaves.latents = input.latents.clone().requires_grad_(true);
  leaves.text = input.text.clone().requires_grad_(true);
  const auto out = model.dit.forward(leaves, attention, tap(1));
  (out.velocity.square().mean() + out.tap.square().mean()).backward();
  std::map<std::string, at::Tensor> grads = {{"latents", leaves.latents.grad()}, {"text", leaves.text.grad()}};
  for (auto& [name, tensor] : model.source.tensors) {
    grads[name] = tensor.grad().clone();
    tensor.mutable_grad().reset();
  }
  return grads;
}

TEST(WanDit, GradientCheckpointingRunsEveryLayerTwiceAndChangesNoBit) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    Model model(small());
    model.dit.set_compute_dtype(dtype);
    Dense plain_calls, calls;
    const auto plain = gradients(model, make_input(), plain_calls);
    model.dit.set_gradient_checkpointing(true);
    const auto checkpointed = gradients(model, make_input(), calls);
    EXPECT_EQ(plain_calls.contexts.size(), 3u);
    ASSERT_EQ(calls.contexts.size(), 6u);
    for (const size_t i : {0, 1, 2, 3, 4, 5}) {  // forwards, then backwards
      EXPECT_EQ(calls.contexts[i].layer, i < 3 ? static_cast<int64_t>(i) : static_cast<int64_t>(5 - i));
      EXPECT_EQ(calls.contexts[i].step, 2);
    }
    for (const auto& [name, grad] : plain)
      EXPECT_TRUE(at::equal(grad, checkpointed.at(name))) << name << " " << at::toString(dtype);
    const at::NoGradGuard no_grad;
    Dense inference;
    model.dit.predict(make_input(), inference);
    EXPECT_EQ(inference.contexts.size(), 3u);
  }
}

}  // namespace
}  // namespace fpsa::models::wan
