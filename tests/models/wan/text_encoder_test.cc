#include "fpsa/models/wan/text_encoder.h"

#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/variable.h>

#include <map>
#include <set>

#include "fpsa/base/check.h"

namespace fpsa::models::wan {
namespace {

Umt5Config tiny_config() {
  Umt5Config c;
  c.vocab_size = 11;
  c.d_model = 8;
  c.d_kv = 3;
  c.d_ff = 10;
  c.num_layers = 2;
  c.num_heads = 2;
  c.relative_attention_num_buckets = 8;
  c.relative_attention_max_distance = 6;
  return c;
}

/// F64 leaves, so that finite differences resolve the gradient.
class DoubleInit : public nn::ParameterSource {
 public:
  at::Tensor get(const nn::ParameterSpec& spec) override {
    at::Tensor t = base_.get(spec).detach().to(at::kDouble);
    // Off the initial ones, so that the norms' gradients mean something.
    if (spec.init.kind == nn::Init::Kind::kOnes) t += 0.1 * at::arange(t.numel(), t.options()).sin();
    return tensors[spec.name] = t.requires_grad_(true);
  }
  std::map<std::string, at::Tensor> tensors;

 private:
  nn::RandomInit base_{5};
};

std::string error_of(const nlohmann::json& json) {
  try {
    Umt5Config::from_json(json);
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

TEST(Umt5Config, JsonRoundTripKeepsEverySize) {
  Umt5Config c = tiny_config();
  c.layer_norm_epsilon = 1e-5;
  c.initializer_factor = 0.5;
  EXPECT_EQ(Umt5Config::from_json(c.to_json()).to_json(), c.to_json());
}

TEST(Umt5Config, RefusesWhatItCannotHonour) {
  EXPECT_NE(error_of({{"model_type", "t5"}}).find("model_type"), std::string::npos);
  EXPECT_NE(error_of({{"feed_forward_proj", "relu"}}).find("feed_forward_proj"), std::string::npos);
  EXPECT_NE(error_of({{"d_model", -8}}).find("d_model"), std::string::npos);
  EXPECT_NE(error_of({{"d_model", "8"}}).find("d_model"), std::string::npos);
  EXPECT_NE(error_of({{"layer_norm_epsilon", 0}}).find("layer_norm_epsilon"), std::string::npos);
  EXPECT_NE(error_of({{"relative_attention_num_buckets", 7}}).find("num_buckets"), std::string::npos);
  EXPECT_NE(error_of({{"relative_attention_max_distance", 8}}).find("max_distance"), std::string::npos);
  EXPECT_NE(error_of(nlohmann::json::array()).find("object"), std::string::npos);
}

TEST(Umt5Encoder, NamesAreThoseOfTransformers) {
  nn::SpecCollector collector;
  Umt5Encoder encoder(Umt5Config{}, nn::Scope(collector));
  std::set<std::string> names;
  for (const nn::ParameterSpec& spec : collector.specs)
    names.insert(spec.name);
  EXPECT_EQ(collector.specs.size(), 24u * 10 + 2);
  EXPECT_EQ(names.size(), collector.specs.size());
  for (const char* name :
       {"shared.weight", "encoder.final_layer_norm.weight", "encoder.block.23.layer.0.layer_norm.weight",
        "encoder.block.23.layer.0.SelfAttention.q.weight",
        "encoder.block.23.layer.0.SelfAttention.relative_attention_bias.weight",
        "encoder.block.0.layer.1.DenseReluDense.wi_0.weight", "encoder.block.0.layer.1.DenseReluDense.wo.weight"})
    EXPECT_TRUE(names.contains(name)) << name;
}

TEST(Umt5Encoder, PaddingDoesNotChangeTheStatesOfTokens) {
  nn::RandomInit init(3);
  Umt5Encoder encoder(tiny_config(), nn::Scope(init));
  at::NoGradGuard guard;
  at::Tensor ids = at::tensor({4, 7, 2, 9, 1}, at::kLong).unsqueeze(0);
  at::Tensor padded = at::constant_pad_nd(ids, {0, 8}, 0);
  at::Tensor mask = at::constant_pad_nd(at::ones_like(ids), {0, 8}, 0);
  at::Tensor expected = encoder.encode(ids, at::ones_like(ids));
  at::Tensor got = encoder.encode(padded, mask).slice(1, 0, 5);
  // The same sums of at most 13 terms in another order: some tens of F32 roundings.
  EXPECT_LE((got - expected).abs().max().item<double>(), 64 * 6e-8 * expected.abs().max().item<double>());
}

TEST(Umt5Encoder, RowWithoutTokensStaysFinite) {
  nn::RandomInit init(3);
  Umt5Encoder encoder(tiny_config(), nn::Scope(init));
  at::Tensor ids = at::zeros({1, 4}, at::kLong);
  EXPECT_TRUE(encoder.encode(ids, at::zeros_like(ids)).isfinite().all().item<bool>());
}

TEST(Umt5Encoder, RefusesBadInput) {
  nn::RandomInit init(3);
  Umt5Encoder encoder(tiny_config(), nn::Scope(init));
  at::Tensor ids = at::zeros({1, 4}, at::kLong), mask = at::ones_like(ids);
  EXPECT_THROW(encoder.encode(ids.to(at::kInt), mask), Error);
  EXPECT_THROW(encoder.encode(ids, mask.slice(1, 0, 3)), Error);
  EXPECT_THROW(encoder.encode(ids + 11, mask), Error);
  EXPECT_THROW(encoder.encode(ids - 1, mask), Error);
  EXPECT_THROW(encoder.encode(ids, mask, at::kHalf), Error);
}

TEST(Umt5Encoder, Bf16ActivationsOverF32WeightsStayNear) {
  nn::RandomInit init(3);
  Umt5Encoder encoder(tiny_config(), nn::Scope(init));
  at::Tensor ids = at::tensor({4, 7, 2, 9, 1}, at::kLong).unsqueeze(0);
  at::Tensor full = encoder.encode(ids, at::ones_like(ids)).detach();
  at::Tensor half = encoder.encode(ids, at::ones_like(ids), at::kBFloat16).detach();
  EXPECT_EQ(half.scalar_type(), at::kBFloat16);
  // 2 layers of about 5 roundings of 2^-9 each in sequence.
  EXPECT_LE((half.to(at::kFloat) - full).norm().item<double>(), 10.0 / 512 * full.norm().item<double>());
}

// Central differences in F64: truncation h^2 and rounding eps/h balance near h = 1e-5 with an error below 1e-8.
TEST(Umt5Encoder, GradientsMatchFiniteDifferences) {
  DoubleInit init;
  Umt5Encoder encoder(tiny_config(), nn::Scope(init));
  at::Tensor ids = at::tensor({4, 7, 2, 9, 1, 3, 3, 8, 0, 5, 6, 1, 2, 0, 1, 0}, at::kLong).view({2, 8});
  at::Tensor mask = at::ones_like(ids);
  mask[1].slice(0, 5, 8).zero_();
  at::Tensor cotangent = at::arange(2 * 8 * 8, at::kDouble).view({2, 8, 8}).cos() * mask.unsqueeze(-1);
  const auto loss = [&] { return (encoder.encode(ids, mask) * cotangent).sum(); };
  torch::autograd::backward({loss()}, {});
  at::NoGradGuard guard;
  for (auto& [name, tensor] : init.tensors) {
    ASSERT_TRUE(tensor.grad().defined()) << name;
    at::Tensor flat = tensor.detach().view(-1);
    const int64_t stride = std::max<int64_t>(1, flat.numel() / 7);
    for (int64_t i = 0; i < flat.numel(); i += stride) {
      const double h = 1e-5, value = flat[i].item<double>();
      flat[i] = value + h;
      const double above = loss().item<double>();
      flat[i] = value - h;
      const double below = loss().item<double>();
      flat[i] = value;
      const double expected = (above - below) / (2 * h), got = tensor.grad().view(-1)[i].item<double>();
      EXPECT_NEAR(got, expected, 1e-6 * std::max(1.0, std::abs(expected))) << name << " " << i;
    }
  }
}

TEST(RelativePositionBuckets, KeepsNearDistancesApartAndJoinsFarOnes) {
  at::Tensor b = relative_position_buckets(300, 32, 128);
  const auto bucket = [&](int64_t relative) { return b[relative + 299].item<int64_t>(); };
  for (int64_t d = 0; d < 8; ++d)
    EXPECT_EQ(bucket(-d), d);
  for (int64_t d = 1; d < 8; ++d)
    EXPECT_EQ(bucket(d), 16 + d);
  EXPECT_EQ(bucket(-128), 15);
  EXPECT_EQ(bucket(-299), 15);
  EXPECT_EQ(bucket(299), 31);
  for (int64_t d = 1; d < 299; ++d)
    EXPECT_LE(bucket(d), bucket(d + 1));
}

}  // namespace
}  // namespace fpsa::models::wan
