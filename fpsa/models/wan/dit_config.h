// Sizes of the Wan video transformer, by the keys of diffusers' transformer/config.json.
#pragma once

#include <array>
#include <cstdint>
#include <nlohmann/json.hpp>

namespace fpsa::models::wan {

/// Configuration of WanDit. The defaults are Wan2.1-T2V-1.3B's.
struct DitConfig {
  std::array<int64_t, 3> patch_size = {1, 2, 2};  // latent cells per token along T, H, W
  int64_t num_attention_heads = 12;
  int64_t attention_head_dim = 128;
  int64_t in_channels = 16;
  int64_t out_channels = 16;
  int64_t text_dim = 4096;
  int64_t freq_dim = 256;  // width of the sinusoidal embedding of the timestep
  int64_t ffn_dim = 8960;
  int64_t num_layers = 30;
  bool cross_attn_norm = true;
  double eps = 1e-6;
  int64_t rope_max_seq_len = 1024;  // largest extent of the token grid along any axis

  /// Width of the token states.
  int64_t dim() const { return num_attention_heads * attention_head_dim; }
  /// Values that one patch holds on the way in.
  int64_t patch_volume() const { return patch_size[0] * patch_size[1] * patch_size[2]; }

  /// Reads diffusers' keys; absent ones keep diffusers' own defaults (the 14B model), not the ones above.
  ///   Errors    fpsa::Error: another model class, image-to-video or VACE keys (each by name), an unknown key with a
  ///             value, a value of the wrong type or range
  static DitConfig from_json(const nlohmann::json& json);
  /// A config.json that diffusers' WanTransformer3DModel loads.
  nlohmann::json to_json() const;
  /// Throws fpsa::Error unless the sizes fit together.
  void check() const;
};

}  // namespace fpsa::models::wan
