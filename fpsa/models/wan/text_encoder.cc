#include "fpsa/models/wan/text_encoder.h"

#include <cmath>
#include <limits>
#include <string>

#include "fpsa/base/check.h"

namespace fpsa::models::wan {
namespace {

int64_t positive_int(const nlohmann::json& json, const char* key, int64_t fallback) {
  const auto it = json.find(key);
  if (it == json.end()) return fallback;
  FPSA_CHECK(it->is_number_integer() && it->get<int64_t>() > 0 && it->get<int64_t>() < (int64_t{1} << 31),
             "UMT5 config: ", key, " must be a positive integer below 2^31, got ", it->dump(),
             "; check the text encoder's config.json");
  return it->get<int64_t>();
}

double positive_number(const nlohmann::json& json, const char* key, double fallback) {
  const auto it = json.find(key);
  if (it == json.end()) return fallback;
  FPSA_CHECK(it->is_number() && it->get<double>() > 0, "UMT5 config: ", key, " must be a positive number, got ",
             it->dump(), "; check the text encoder's config.json");
  return it->get<double>();
}

void expect(const nlohmann::json& json, const char* key, const nlohmann::json& wanted, const char* remedy) {
  const auto it = json.find(key);
  FPSA_CHECK(it == json.end() || *it == wanted, "UMT5 config: ", key, " must be ", wanted.dump(), ", got ", it->dump(),
             "; ", remedy);
}

// Scores and softmax run in F32 under BF16 activations, in the activations' own dtype otherwise (F64 for
// gradient checks).
at::ScalarType score_dtype(at::ScalarType dtype) {
  return dtype == at::kDouble ? at::kDouble : at::kFloat;
}

}  // namespace

Umt5Config Umt5Config::from_json(const nlohmann::json& json) {
  FPSA_CHECK(json.is_object(), "UMT5 config: expected a JSON object, got ", json.type_name(),
             "; point at the text encoder's config.json");
  expect(json, "model_type", "umt5", "only UMT5 text encoders are supported (Wan2.1 uses umt5-xxl)");
  expect(json, "feed_forward_proj", "gated-gelu", "other feed-forward forms are not implemented");
  Umt5Config c;
  c.vocab_size = positive_int(json, "vocab_size", 250112);
  c.d_model = positive_int(json, "d_model", 512);
  c.d_kv = positive_int(json, "d_kv", 64);
  c.d_ff = positive_int(json, "d_ff", 1024);
  c.num_layers = positive_int(json, "num_layers", 8);
  c.num_heads = positive_int(json, "num_heads", 6);
  c.relative_attention_num_buckets = positive_int(json, "relative_attention_num_buckets", 32);
  c.relative_attention_max_distance = positive_int(json, "relative_attention_max_distance", 128);
  c.layer_norm_epsilon = positive_number(json, "layer_norm_epsilon", 1e-6);
  c.initializer_factor = positive_number(json, "initializer_factor", 1.0);
  c.check();
  return c;
}

nlohmann::json Umt5Config::to_json() const {
  return {{"architectures", {"UMT5EncoderModel"}},
          {"model_type", "umt5"},
          {"vocab_size", vocab_size},
          {"d_model", d_model},
          {"d_kv", d_kv},
          {"d_ff", d_ff},
          {"num_layers", num_layers},
          {"num_decoder_layers", num_layers},
          {"num_heads", num_heads},
          {"relative_attention_num_buckets", relative_attention_num_buckets},
          {"relative_attention_max_distance", relative_attention_max_distance},
          {"layer_norm_epsilon", layer_norm_epsilon},
          {"initializer_factor", initializer_factor},
          {"feed_forward_proj", "gated-gelu"},
          {"dense_act_fn", "gelu_new"},
          {"is_gated_act", true},
          {"is_encoder_decoder", true},
          {"dropout_rate", 0.0},
          {"pad_token_id", 0},
          {"eos_token_id", 1},
          {"decoder_start_token_id", 0}};
}

void Umt5Config::check() const {
  // No real encoder comes near these: a larger value is a broken file, and loops and products of sizes stay small.
  const auto limit = [](const char* key, int64_t value, int64_t largest) {
    FPSA_CHECK(value >= 1 && value <= largest, "UMT5 config: ", key, " must be from 1 to ", largest, ", got ", value,
               "; check the text encoder's config.json");
  };
  constexpr int64_t kLargestWidth = 1 << 20, kMostLayers = 1024;
  limit("vocab_size", vocab_size, 1 << 24);
  limit("d_model", d_model, kLargestWidth);
  limit("d_kv", d_kv, kLargestWidth);
  limit("num_heads", num_heads, kLargestWidth);
  limit("num_heads * d_kv", num_heads * d_kv, kLargestWidth);
  limit("d_ff", d_ff, kLargestWidth);
  limit("num_layers", num_layers, kMostLayers);
  limit("relative_attention_num_buckets", relative_attention_num_buckets, kLargestWidth);
  const int64_t buckets = relative_attention_num_buckets;
  FPSA_CHECK(buckets >= 4 && buckets % 2 == 0,
             "UMT5 config: relative_attention_num_buckets must be even and at least 4, got ", buckets,
             "; half of them serve each direction");
  FPSA_CHECK(relative_attention_max_distance > buckets / 4,
             "UMT5 config: relative_attention_max_distance must exceed relative_attention_num_buckets / 4 = ",
             buckets / 4, ", got ", relative_attention_max_distance, "; nearer distances have buckets of their own");
}

at::Tensor relative_position_buckets(int64_t length, int64_t num_buckets, int64_t max_distance) {
  const int64_t half = num_buckets / 2;
  const int64_t exact = half / 2;  // distances below it have a bucket each
  at::Tensor relative = at::arange(-(length - 1), length, at::kLong);
  at::Tensor distance = relative.abs();
  // F32 on purpose: at distances where the logarithm hits an integer, F64 would choose another bucket than the
  // F32 arithmetic that the published weights were used with. Distance 0 gives -inf, clamped before the cast.
  const double log_range = std::log(static_cast<double>(max_distance) / static_cast<double>(exact));
  at::Tensor log_ratio = (distance.to(at::kFloat) / static_cast<double>(exact)).log() / log_range;
  at::Tensor far = (log_ratio * static_cast<double>(half - exact)).clamp_min(0).to(at::kLong) + exact;
  at::Tensor bucket = at::where(distance < exact, distance, far.clamp_max(half - 1));
  return bucket + (relative > 0).to(at::kLong) * half;
}

Umt5Encoder::Umt5Encoder(const Umt5Config& config, const nn::Scope& scope) : config_(config) {
  config_.check();
  const auto init = [&](double variance) { return nn::Init::normal(config.initializer_factor / std::sqrt(variance)); };
  const int64_t d = config.d_model, inner = config.num_heads * config.d_kv, ff = config.d_ff;
  embedding_ = scope.param("shared.weight", {config.vocab_size, d}, init(1.0));
  const nn::Scope encoder = scope / "encoder";
  for (int64_t i = 0; i < config.num_layers; ++i) {
    const nn::Scope attention = encoder / "block" / i / "layer" / 0;
    const nn::Scope feed_forward = encoder / "block" / i / "layer" / 1;
    const nn::Scope projections = attention / "SelfAttention";
    const nn::Scope dense = feed_forward / "DenseReluDense";
    Layer layer;
    // The scores are not divided by sqrt(d_kv); the initial q is smaller by that factor instead.
    layer.q = nn::Linear(projections / "q", d, inner, false, false, init(static_cast<double>(d * config.d_kv)));
    layer.k = nn::Linear(projections / "k", d, inner, false, false, init(static_cast<double>(d)));
    layer.v = nn::Linear(projections / "v", d, inner, false, false, init(static_cast<double>(d)));
    layer.o = nn::Linear(projections / "o", inner, d, false, false, init(static_cast<double>(inner)));
    layer.bias_table =
        projections.param("relative_attention_bias.weight", {config.relative_attention_num_buckets, config.num_heads},
                          init(static_cast<double>(d)));
    layer.attention_norm = nn::RmsNorm(attention / "layer_norm", d, config.layer_norm_epsilon);
    layer.gate = nn::Linear(dense / "wi_0", d, ff, false, false, init(static_cast<double>(d)));
    layer.up = nn::Linear(dense / "wi_1", d, ff, false, false, init(static_cast<double>(d)));
    layer.down = nn::Linear(dense / "wo", ff, d, false, false, init(static_cast<double>(ff)));
    layer.feed_forward_norm = nn::RmsNorm(feed_forward / "layer_norm", d, config.layer_norm_epsilon);
    layers_.push_back(std::move(layer));
  }
  final_norm_ = nn::RmsNorm(encoder / "final_layer_norm", d, config.layer_norm_epsilon);
}

at::Tensor Umt5Encoder::attend(const Layer& layer, const at::Tensor& x, const at::Tensor& buckets,
                               const at::Tensor& hidden) const {
  const int64_t batch = x.size(0), length = x.size(1);
  const auto heads = [&](const nn::Linear& linear) {
    return linear(x).view({batch, length, config_.num_heads, config_.d_kv}).transpose(1, 2);
  };
  const at::ScalarType dtype = score_dtype(x.scalar_type());
  // Row i of the [H, L, L] bias is the window of the per-distance values that starts at distance -i.
  at::Tensor by_distance = layer.bias_table.to(dtype).index_select(0, buckets).t();
  at::Tensor bias = by_distance.unfold(1, length, 1).flip(1);
  at::Tensor scores = at::matmul(heads(layer.q).to(dtype), heads(layer.k).to(dtype).transpose(2, 3)) + bias;
  // The lowest finite value, not -inf: a row without any token then gives a mean instead of NaN.
  const double lowest = dtype == at::kDouble ? std::numeric_limits<double>::lowest()
                                             : static_cast<double>(std::numeric_limits<float>::lowest());
  at::Tensor weights = scores.masked_fill(hidden, lowest).softmax(-1).to(x.scalar_type());
  return layer.o(at::matmul(weights, heads(layer.v)).transpose(1, 2).reshape({batch, length, -1}));
}

at::Tensor Umt5Encoder::encode(const at::Tensor& ids, const at::Tensor& mask,
                               std::optional<at::ScalarType> dtype) const {
  FPSA_CHECK(ids.dim() == 2 && ids.scalar_type() == at::kLong && ids.size(1) > 0,
             "text encoder: ids must be int64 [B, L] with L > 0, got ", ids.scalar_type(), " ", ids.sizes());
  FPSA_CHECK(mask.sizes() == ids.sizes(), "text encoder: mask must have the shape of ids ", ids.sizes(), ", got ",
             mask.sizes());
  const at::ScalarType type = dtype.value_or(embedding_.scalar_type());
  FPSA_CHECK(type == at::kFloat || type == at::kBFloat16 || type == at::kDouble,
             "text encoder: dtype must be float32, bfloat16 or float64, got ", type, "; use bfloat16 for 16 bits");
  if (ids.numel() > 0) {
    const int64_t low = ids.min().item<int64_t>(), high = ids.max().item<int64_t>();
    FPSA_CHECK(low >= 0 && high < config_.vocab_size, "text encoder: token ids must lie in [0, ", config_.vocab_size,
               "), got ", low < 0 ? low : high, "; tokenizer and text encoder do not belong together");
  }
  const at::Tensor buckets = relative_position_buckets(ids.size(1), config_.relative_attention_num_buckets,
                                                       config_.relative_attention_max_distance)
                                 .to(embedding_.device());
  const at::Tensor hidden = mask.eq(0).unsqueeze(1).unsqueeze(1);  // [B, 1, 1, L]
  at::Tensor x = at::embedding(embedding_, ids).to(type);
  for (const Layer& layer : layers_) {
    x = x + attend(layer, layer.attention_norm(x), buckets, hidden);
    at::Tensor normed = layer.feed_forward_norm(x);
    x = x + layer.down(at::gelu(layer.gate(normed), "tanh") * layer.up(normed));
  }
  return final_norm_(x);
}

}  // namespace fpsa::models::wan
