#include "fpsa/models/wan/deduce.h"

#include "fpsa/base/check.h"

namespace fpsa::models::wan {
namespace {

constexpr int64_t kWanHeadDim = 128;
constexpr int64_t kLargestExtent = 1 << 20;  // of the tensors that sizes are read from; the vocabulary has 2^18

class Shapes {
 public:
  Shapes(const nn::TensorMap& tensors, const std::string& origin) : tensors_(tensors), origin_(origin) {}

  bool has(const std::string& name) const { return tensors_.contains(name); }
  at::IntArrayRef get(const std::string& name, size_t rank) const {
    const auto found = tensors_.find(name);
    FPSA_CHECK(found != tensors_.end(), origin_, ": tensor '", name, "' is missing; without it the sizes of the model ",
               "are unknown");
    FPSA_CHECK(found->second.dim() == static_cast<int64_t>(rank), origin_, ": tensor '", name, "': expected ", rank,
               " dimensions, received shape ", found->second.sizes());
    // Sizes are divided by and multiplied with each other; a file may say anything.
    for (const int64_t extent : found->second.sizes())
      FPSA_CHECK(extent >= 1 && extent <= kLargestExtent, origin_, ": tensor '", name,
                 "': expected every extent to be from 1 to ", kLargestExtent, ", received shape ",
                 found->second.sizes(), "; the file is damaged");
    return found->second.sizes();
  }
  /// How many of list.0, list.1, ... have a tensor of that name.
  int64_t count(const std::string& list, const std::string& name) const {
    int64_t n = 0;
    while (has(join(list, ".", n, ".", name)))
      ++n;
    return n;
  }

 private:
  const nn::TensorMap& tensors_;
  const std::string& origin_;
};

int64_t integer(const nlohmann::json& value, const std::string& key, const std::string& origin) {
  FPSA_CHECK(value.is_number_integer() && value > 0 && value <= (1 << 20), origin, ": '", key,
             "': expected an integer from 1 to 2^20, received ", value.dump());
  return value.get<int64_t>();
}

void refuse_model_type(const nlohmann::json& value, const std::string& origin) {
  if (value == "t2v") return;
  std::string kind = value.dump();
  if (value == "i2v" || value == "flf2v") kind += " (image-to-video, I2V)";
  if (value == "ti2v") kind += " (Wan2.2 TI2V)";
  if (value == "s2v") kind += " (Wan2.2 S2V)";
  if (value == "animate") kind += " (Wan2.2 Animate)";
  if (value == "vace") kind += " (VACE)";
  throw Error(join(origin, ": expected model_type \"t2v\", received ", kind,
                   ", which is not supported; use a Wan2.1 text-to-video (T2V) checkpoint"));
}

}  // namespace

DitConfig deduce_dit_config(const nn::TensorMap& tensors, const std::string& origin) {
  const Shapes shapes(tensors, origin);
  const at::IntArrayRef patch = shapes.get("patch_embedding.weight", 5);
  DitConfig config;
  const int64_t dim = patch[0];
  FPSA_CHECK(dim % kWanHeadDim == 0, origin, ": the width ", dim, " is no multiple of Wan's head dimension ",
             kWanHeadDim, ", and tensors do not show another one; put a config.json beside the file");
  config.attention_head_dim = kWanHeadDim;
  config.num_attention_heads = dim / kWanHeadDim;
  config.in_channels = patch[1];
  config.patch_size = {patch[2], patch[3], patch[4]};
  config.out_channels = shapes.get("proj_out.weight", 2)[0] / config.patch_volume();
  config.text_dim = shapes.get("condition_embedder.text_embedder.linear_1.weight", 2)[1];
  config.freq_dim = shapes.get("condition_embedder.time_embedder.linear_1.weight", 2)[1];
  config.ffn_dim = shapes.get("blocks.0.ffn.net.0.proj.weight", 2)[0];
  config.num_layers = shapes.count("blocks", "attn1.to_q.weight");
  config.cross_attn_norm = shapes.has("blocks.0.norm2.weight");
  refuse_unsupported_sizes(config, origin);
  config.check();
  return config;
}

VaeConfig deduce_vae_config(const nn::TensorMap& tensors, const std::string& origin) {
  const Shapes shapes(tensors, origin);
  const at::IntArrayRef conv_in = shapes.get("encoder.conv_in.weight", 5);
  nlohmann::json json;
  const int64_t base_dim = conv_in[0];
  json["base_dim"] = base_dim;
  json["in_channels"] = conv_in[1];
  const int64_t z_dim = shapes.get("quant_conv.weight", 5)[0] / 2;
  FPSA_CHECK(z_dim != 48, origin, ": 48 latent channels: this is the VAE of Wan2.2, which is not supported");
  json["z_dim"] = z_dim;
  const at::IntArrayRef conv_out = shapes.get("decoder.conv_out.weight", 5);
  json["out_channels"] = conv_out[0];

  // The encoder's flat list: residuals, then one entry with "resample" tensors after each level but the last.
  std::vector<int64_t> dim_mult;
  std::vector<bool> temporal;
  int64_t residuals = 0;
  for (int64_t i = 0;; ++i) {
    const std::string entry = join("encoder.down_blocks.", i, ".");
    if (shapes.has(entry + "resample.1.weight")) {
      temporal.push_back(shapes.has(entry + "time_conv.weight"));
      dim_mult.push_back(shapes.get(entry + "resample.1.weight", 4)[0] / base_dim);
    } else if (shapes.has(entry + "conv2.weight")) {
      if (dim_mult.empty()) ++residuals;
    } else {
      FPSA_CHECK(!shapes.has(entry + "to_qkv.weight"), origin, ": tensor '", entry,
                 "to_qkv.weight': attention between the encoder's levels needs a config.json beside the file");
      break;
    }
  }
  const at::IntArrayRef last = shapes.get("encoder.mid_block.resnets.0.conv1.weight", 5);
  dim_mult.push_back(last[0] / base_dim);
  json["dim_mult"] = dim_mult;
  json["num_res_blocks"] = residuals;
  json["temperal_downsample"] = temporal;
  // The decoder may be wider than the encoder; its last level shows its own base width.
  const int64_t decoder_base = conv_out[1] / std::max<int64_t>(dim_mult.front(), 1);
  if (decoder_base != base_dim) json["decoder_base_dim"] = decoder_base;
  try {
    return VaeConfig::from_json(json);
  } catch (const Error& error) {
    throw Error(join(origin, ": the tensors' shapes make no VAE: ", error.what()));
  }
}

Umt5Config deduce_text_config(const nn::TensorMap& tensors, const std::string& origin) {
  const Shapes shapes(tensors, origin);
  const std::string first = "encoder.block.0.layer.";
  Umt5Config config;
  config.vocab_size = shapes.get("shared.weight", 2)[0];
  config.d_model = shapes.get("shared.weight", 2)[1];
  const at::IntArrayRef bias = shapes.get(first + "0.SelfAttention.relative_attention_bias.weight", 2);
  config.relative_attention_num_buckets = bias[0];
  config.num_heads = bias[1];
  config.d_kv = shapes.get(first + "0.SelfAttention.q.weight", 2)[0] / config.num_heads;
  config.d_ff = shapes.get(first + "1.DenseReluDense.wi_0.weight", 2)[0];
  config.num_layers = shapes.count("encoder.block", "layer.0.SelfAttention.q.weight");
  config.check();
  return config;
}

DitConfig dit_config_from_original(const nlohmann::json& json, const std::string& origin) {
  FPSA_CHECK(json.is_object(), origin, ": expected a JSON object");
  if (json.contains("model_type")) refuse_model_type(json["model_type"], origin);
  DitConfig config;
  int64_t dim = 0;
  for (const auto& [key, value] : json.items()) {
    if (key.starts_with('_') || key == "model_type" || key == "text_len") continue;
    if (key == "dim")
      dim = integer(value, key, origin);
    else if (key == "ffn_dim")
      config.ffn_dim = integer(value, key, origin);
    else if (key == "freq_dim")
      config.freq_dim = integer(value, key, origin);
    else if (key == "text_dim")
      config.text_dim = integer(value, key, origin);
    else if (key == "in_dim")
      config.in_channels = integer(value, key, origin);
    else if (key == "out_dim")
      config.out_channels = integer(value, key, origin);
    else if (key == "num_heads")
      config.num_attention_heads = integer(value, key, origin);
    else if (key == "num_layers")
      config.num_layers = integer(value, key, origin);
    else if (key == "eps" && value.is_number())
      config.eps = value.get<double>();
    else if (key == "cross_attn_norm" && value.is_boolean())
      config.cross_attn_norm = value.get<bool>();
    else if (key == "qk_norm")
      FPSA_CHECK(value == true, origin, ": 'qk_norm' must be true, received ", value.dump());
    else if (key == "patch_size" && value.is_array() && value.size() == 3)
      for (size_t axis = 0; axis < 3; ++axis)
        config.patch_size[axis] = integer(value[axis], key, origin);
    else if (key == "window_size")
      FPSA_CHECK(value == nlohmann::json({-1, -1}), origin, ": 'window_size' must be [-1, -1], received ",
                 value.dump());
    else
      throw Error(join(origin, ": unexpected key '", key, "' with value ", value.dump()));
  }
  FPSA_CHECK(dim > 0 && dim % config.num_attention_heads == 0, origin,
             ": expected 'dim' to be a multiple of num_heads (", config.num_attention_heads, "), received ", dim);
  config.attention_head_dim = dim / config.num_attention_heads;
  refuse_unsupported_sizes(config, origin);
  config.check();
  return config;
}

void refuse_unsupported_sizes(const DitConfig& config, const std::string& origin) {
  FPSA_CHECK(config.in_channels != 48 || config.dim() != 3072, origin,
             ": 48 latent channels and width 3072: this is Wan2.2 TI2V-5B, which is not supported; use a Wan2.1 "
             "text-to-video (T2V) checkpoint");
  FPSA_CHECK(config.in_channels == config.out_channels, origin, ": ", config.in_channels, " channels in and ",
             config.out_channels,
             " out: this transformer takes an image or a control video beside the latents (I2V, Fun), ",
             "which is not supported; use a Wan2.1 text-to-video (T2V) checkpoint");
}

}  // namespace fpsa::models::wan
