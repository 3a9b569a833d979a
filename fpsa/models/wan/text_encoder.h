// The UMT5 text encoder: token ids become the states that the video model cross-attends to.
//
// A pre-norm transformer with RMSNorm, no biases, a gated tanh-GELU feed-forward and unscaled attention scores. It has
// no position embedding: every layer owns a table of relative position biases, one value per head and bucket of
// distance (Raffel et al. 2020, section 2.1; UMT5 differs from T5 only in having the table in every layer).
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <vector>

#include "fpsa/nn/layers.h"
#include "fpsa/nn/parameters.h"

namespace fpsa::models::wan {

/// Sizes of a UMT5 encoder, by the keys of transformers' config.json. The defaults are UMT5-XXL's, which Wan uses.
struct Umt5Config {
  int64_t vocab_size = 256384;
  int64_t d_model = 4096;
  int64_t d_kv = 64;  // per head; num_heads * d_kv may differ from d_model
  int64_t d_ff = 10240;
  int64_t num_layers = 24;
  int64_t num_heads = 64;
  int64_t relative_attention_num_buckets = 32;
  int64_t relative_attention_max_distance = 128;
  double layer_norm_epsilon = 1e-6;
  double initializer_factor = 1.0;  // scales the training initialisation only

  /// Reads transformers' keys; absent ones keep transformers' own defaults (the small UMT5), not the ones above.
  ///   Errors    fpsa::Error: another model_type, a feed-forward that is not gated GELU, a key of the wrong type or
  ///             range. Keys that do not change the encoder's result are ignored.
  static Umt5Config from_json(const nlohmann::json& json);
  /// A config.json that transformers' UMT5EncoderModel loads.
  nlohmann::json to_json() const;
  /// Throws fpsa::Error unless the sizes fit together.
  void check() const;
};

/// Some checkpoints store the embedding table a second time under this name; it is the same tensor as
/// "shared.weight", which is the one the encoder asks for.
inline constexpr std::string_view kUmt5TiedEmbedding = "encoder.embed_tokens.weight";

/// Bucket of each relative position (key - query) from -(length-1) to length-1.
///   Shapes    out [2*length - 1] int64, each in [0, num_buckets): the lower half for keys at or before the query
///   Edges     distances from max_distance on share the last bucket of their half
at::Tensor relative_position_buckets(int64_t length, int64_t num_buckets, int64_t max_distance);

/// The encoder.
class Umt5Encoder {
 public:
  /// Asks for tensors by transformers' names ("shared.weight", "encoder.block.0.layer.0.SelfAttention.q.weight", ...).
  Umt5Encoder(const Umt5Config& config, const nn::Scope& scope);

  /// States of every token.
  ///   Shapes    ids [B, L] int64; mask [B, L], nonzero where a token counts; out [B, L, d_model]
  ///   Numerics  activations and output in `dtype` (F32, BF16 or F64; by default the dtype of the weights); attention
  ///             scores, softmax and RMSNorm statistics are at least F32. F16 is refused: UMT5's residual stream
  ///             leaves its range.
  ///   Edges     rows of masked tokens are computed but mean nothing; a row without any token stays finite
  ///   Autograd  differentiable in all weights; there is no dropout
  ///   Errors    fpsa::Error on a wrong shape or dtype, or an id outside the vocabulary
  at::Tensor encode(const at::Tensor& ids, const at::Tensor& mask,
                    std::optional<at::ScalarType> dtype = std::nullopt) const;

  const Umt5Config& config() const { return config_; }

 private:
  struct Layer {
    nn::RmsNorm attention_norm, feed_forward_norm;
    nn::Linear q, k, v, o, gate, up, down;
    at::Tensor bias_table;  // [num_buckets, num_heads]
  };
  at::Tensor attend(const Layer& layer, const at::Tensor& x, const at::Tensor& buckets, const at::Tensor& hidden) const;

  Umt5Config config_;
  at::Tensor embedding_;  // [vocab_size, d_model]
  std::vector<Layer> layers_;
  nn::RmsNorm final_norm_;
};

}  // namespace fpsa::models::wan
