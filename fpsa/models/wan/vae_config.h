// Configuration of Wan's causal 3-D VAE, in the keys of diffusers' AutoencoderKLWan config.json.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <vector>

namespace fpsa::models::wan {

/// Sizes of the encoder and decoder. The defaults are those of Wan2.1 (latents_* there have 16 entries).
struct VaeConfig {
  int64_t base_dim = 96;
  std::optional<int64_t> decoder_base_dim;  // base_dim where absent
  int64_t z_dim = 16;
  std::vector<int64_t> dim_mult = {1, 2, 4, 4};
  int64_t num_res_blocks = 2;
  std::vector<double> attn_scales;  // spatial scales (1, 0.5, ...) where the encoder adds attention
  std::vector<bool> temperal_downsample = {false, true, true};  // spelt as the format spells it
  double dropout = 0.0;                                         // kept for the file; never applied
  std::vector<double> latents_mean, latents_std;                // one per latent channel, or empty: 0 and 1
  int64_t in_channels = 3;
  int64_t out_channels = 3;

  /// Pixels per latent along Y and X; frames per latent along T (the first latent holds one frame).
  int64_t spatial_factor() const { return int64_t{1} << (dim_mult.size() - 1); }
  int64_t temporal_factor() const;
  int64_t decoder_dim() const { return decoder_base_dim.value_or(base_dim); }

  /// Throws fpsa::Error naming the key when the sizes do not fit together.
  void check() const;

  /// Reads and checks; absent keys take the defaults above, except latents_mean and latents_std, whose absence
  /// means Wan2.1's published values when z_dim is 16 and none otherwise.
  ///   Errors    unknown keys, wrong types and the Wan2.2 variants (is_residual, patch_size) are refused by name
  static VaeConfig from_json(const nlohmann::json& json);
  nlohmann::json to_json() const;
};

}  // namespace fpsa::models::wan
