#include "fpsa/models/wan/dit_config.h"

#include <string>

#include "fpsa/base/check.h"

namespace fpsa::models::wan {
namespace {

constexpr const char* kClassName = "WanTransformer3DModel";
constexpr const char* kQkNorm = "rms_norm_across_heads";
// No real model comes near: a larger value is a broken file, and products of sizes stay far from overflow.
constexpr int64_t kLargestSize = 1 << 20;
constexpr int64_t kMostLayers = 1024;
constexpr int64_t kLargestPatch = 64;

int64_t read_size(const nlohmann::json& value, const std::string& key) {
  FPSA_CHECK(value.is_number_integer() && value >= 1 && value <= kLargestSize, "transformer config: '", key,
             "' must be an integer from 1 to ", kLargestSize, ", received ", value.dump(), "; correct config.json");
  return value.get<int64_t>();
}

void refuse_foreign(const std::string& key, const nlohmann::json& value) {
  if (value.is_null()) return;
  for (const char* i2v : {"image_dim", "added_kv_proj_dim", "pos_embed_seq_len"})
    FPSA_CHECK(
        key != i2v, "transformer config: '", key, "' is ", value.dump(),
        ", so this is an image-to-video (I2V) model, which is not supported; use a text-to-video (T2V) checkpoint");
  FPSA_CHECK(key.rfind("vace_", 0) != 0, "transformer config: '", key,
             "' marks a VACE model, which is not supported; use a text-to-video (T2V) checkpoint");
  FPSA_CHECK(false, "transformer config: unknown key '", key, "' with value ", value.dump(),
             "; it may change the model's result, so it is not ignored. Expected the keys of diffusers' ", kClassName);
}

}  // namespace

DitConfig DitConfig::from_json(const nlohmann::json& json) {
  FPSA_CHECK(json.is_object(), "transformer config: expected a JSON object, received ", json.type_name());
  if (json.contains("_class_name"))
    FPSA_CHECK(json["_class_name"] == kClassName, "transformer config: '_class_name' must be \"", kClassName,
               "\", received ", json["_class_name"].dump(), "; only Wan2.1 text-to-video transformers are supported");

  DitConfig config;
  config.num_attention_heads = 40;
  config.ffn_dim = 13824;
  config.num_layers = 40;
  bool has_out_channels = false;
  for (const auto& [key, value] : json.items()) {
    if (key.rfind('_', 0) == 0) continue;  // the library's own notes: class, version, origin
    if (key == "patch_size") {
      FPSA_CHECK(value.is_array() && value.size() == 3,
                 "transformer config: 'patch_size' must be 3 integers (T, H, W), ", "received ", value.dump());
      for (size_t axis = 0; axis < 3; ++axis)
        config.patch_size[axis] = read_size(value[axis], key);
    } else if (key == "num_attention_heads") {
      config.num_attention_heads = read_size(value, key);
    } else if (key == "attention_head_dim") {
      config.attention_head_dim = read_size(value, key);
    } else if (key == "in_channels") {
      config.in_channels = read_size(value, key);
    } else if (key == "out_channels") {
      has_out_channels = !value.is_null();
      if (has_out_channels) config.out_channels = read_size(value, key);
    } else if (key == "text_dim") {
      config.text_dim = read_size(value, key);
    } else if (key == "freq_dim") {
      config.freq_dim = read_size(value, key);
    } else if (key == "ffn_dim") {
      config.ffn_dim = read_size(value, key);
    } else if (key == "num_layers") {
      config.num_layers = read_size(value, key);
    } else if (key == "rope_max_seq_len") {
      config.rope_max_seq_len = read_size(value, key);
    } else if (key == "cross_attn_norm") {
      FPSA_CHECK(value.is_boolean(), "transformer config: 'cross_attn_norm' must be true or false, received ",
                 value.dump());
      config.cross_attn_norm = value.get<bool>();
    } else if (key == "qk_norm") {
      FPSA_CHECK(value == kQkNorm, "transformer config: 'qk_norm' must be \"", kQkNorm, "\", received ", value.dump());
    } else if (key == "eps") {
      FPSA_CHECK(value.is_number(), "transformer config: 'eps' must be a number, received ", value.dump());
      config.eps = value.get<double>();
    } else {
      refuse_foreign(key, value);
    }
  }
  if (json.contains("out_channels") && !has_out_channels) config.out_channels = config.in_channels;
  config.check();
  return config;
}

nlohmann::json DitConfig::to_json() const {
  return {{"_class_name", kClassName},
          {"_diffusers_version", "0.42.1"},
          {"added_kv_proj_dim", nullptr},
          {"attention_head_dim", attention_head_dim},
          {"cross_attn_norm", cross_attn_norm},
          {"eps", eps},
          {"ffn_dim", ffn_dim},
          {"freq_dim", freq_dim},
          {"image_dim", nullptr},
          {"in_channels", in_channels},
          {"num_attention_heads", num_attention_heads},
          {"num_layers", num_layers},
          {"out_channels", out_channels},
          {"patch_size", patch_size},
          {"pos_embed_seq_len", nullptr},
          {"qk_norm", kQkNorm},
          {"rope_max_seq_len", rope_max_seq_len},
          {"text_dim", text_dim}};
}

void DitConfig::check() const {
  for (int64_t size : {patch_size[0], patch_size[1], patch_size[2], num_attention_heads, attention_head_dim,
                       in_channels, out_channels, text_dim, freq_dim, ffn_dim, num_layers, rope_max_seq_len})
    FPSA_CHECK(size >= 1 && size <= kLargestSize, "transformer config: every size must be from 1 to ", kLargestSize,
               ", received ", size);
  FPSA_CHECK(num_layers <= kMostLayers, "transformer config: 'num_layers' must be at most ", kMostLayers, ", received ",
             num_layers);
  for (int64_t size : patch_size)
    FPSA_CHECK(size <= kLargestPatch, "transformer config: 'patch_size' must be at most ", kLargestPatch,
               " along each axis, received ", size);
  FPSA_CHECK(dim() <= kLargestSize, "transformer config: 'num_attention_heads' * 'attention_head_dim' must be at most ",
             kLargestSize, ", received ", num_attention_heads, " * ", attention_head_dim);
  FPSA_CHECK(attention_head_dim % 2 == 0, "transformer config: 'attention_head_dim' must be even, because rotary ",
             "embedding turns pairs; received ", attention_head_dim);
  FPSA_CHECK(freq_dim % 2 == 0, "transformer config: 'freq_dim' must be even (cosines and sines); received ", freq_dim);
  FPSA_CHECK(eps > 0.0 && eps < 1.0, "transformer config: 'eps' must lie between 0 and 1, received ", eps);
}

}  // namespace fpsa::models::wan
