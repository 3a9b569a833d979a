// Wan2.1's causal 3-D VAE: videos to latents and back.
//
// Two ways through the same layers: chunked (encode, decode: no gradients, memory independent of the number of
// frames) and whole-sequence (encode_whole, decode_whole: differentiable, for training). They compute the same
// function; vae_layers.h says how the first frame is treated in both.
#pragma once

#include <ATen/ATen.h>

#include <functional>
#include <optional>
#include <variant>
#include <vector>

#include "fpsa/models/wan/vae_config.h"
#include "fpsa/models/wan/vae_layers.h"
#include "fpsa/nn/parameters.h"

namespace fpsa::models::wan {

/// Video -> features of 2z channels (before quant_conv).
class VaeEncoder {
 public:
  VaeEncoder(const VaeConfig& config, const nn::Scope& scope);
  at::Tensor operator()(const at::Tensor& video, TimeCache* cache) const;

 private:
  CausalConv3d conv_in_;
  std::vector<std::variant<VaeResidual, VaeAttention, VaeDown>> down_;
  std::optional<VaeMiddle> middle_;
  NormActConv out_;
};

/// Latents (after post_quant_conv) -> video, not clamped.
class VaeDecoder {
 public:
  VaeDecoder(const VaeConfig& config, const nn::Scope& scope);
  at::Tensor operator()(const at::Tensor& latents, TimeCache* cache) const;

 private:
  struct Level {
    std::vector<VaeResidual> residuals;
    std::optional<VaeUp> up;
  };
  CausalConv3d conv_in_;
  std::optional<VaeMiddle> middle_;
  std::vector<Level> levels_;
  NormActConv out_;
};

/// Spatial tiling for frames too large for memory, in pixels: tiles of this size every `stride`, blended linearly
/// where they overlap. Frames no larger than one tile are not tiled.
struct VaeTiling {
  int64_t tile_y = 256, tile_x = 256;
  int64_t stride_y = 192, stride_x = 192;
};

/// Gaussian over latents that encode() describes.
struct VaePosterior {
  at::Tensor mean, log_variance;  // [B,z,T,Y,X]; log_variance clamped to [-30, 20]
};

class WanVae {
 public:
  /// Asks `scope` for every tensor by its diffusers name ("encoder.conv_in.weight", ..., "quant_conv.bias", ...).
  WanVae(const VaeConfig& config, const nn::Scope& scope);

  const VaeConfig& config() const { return config_; }

  /// Moments (mean and log variance along the channels) of the latents of a video.
  ///   Shapes    video [B,in_channels,F,Y,X] in [-1,1] -> [B,2z,1+(F-1)/temporal,Y/spatial,X/spatial]
  ///   Requires  F - 1 divisible by temporal_factor, Y and X by spatial_factor
  ///   Numerics  computed in the video's dtype (weights are cast at use when theirs differs): F32, BF16 or F64
  ///   Memory    input, output and the activations of one chunk of at most max(4, temporal_factor) frames
  ///   Errors    throws fpsa::Error on any other shape
  at::Tensor encode(const at::Tensor& video, const std::optional<VaeTiling>& tiling = {}) const;

  /// Video [B,out_channels,1+(T-1)*temporal,Y*spatial,X*spatial], clamped to [-1,1], of de-normalised latents
  /// [B,z,T,Y,X].
  at::Tensor decode(const at::Tensor& latents, const std::optional<VaeTiling>& tiling = {}) const;

  /// Receives consecutive frames [B,out_channels,f,Y,X], clamped.
  using FrameSink = std::function<void(const at::Tensor& frames)>;

  /// Hears after each decoded piece (one latent frame of one tile) how many are done; what it throws ends the decode.
  using DecodeProgress = std::function<void(int64_t done, int64_t total)>;

  /// The same, handed out as it is decoded: one call per latent frame, so a long video is never held whole.
  /// With tiling the frames overlap in space only, all tiles are decoded first, and one call delivers them.
  void decode(const at::Tensor& latents, const FrameSink& sink, const std::optional<VaeTiling>& tiling = {},
              const DecodeProgress& progress = {}) const;

  /// encode and decode as one differentiable call each, without tiling; decode_whole does not clamp, so that a
  /// loss sees what lies outside [-1,1].
  at::Tensor encode_whole(const at::Tensor& video) const;
  at::Tensor decode_whole(const at::Tensor& latents) const;

  /// Latents as the diffusion model sees them, and back: (z - mean) / std per channel of the config's statistics
  /// (identity where it has none), in z's dtype and in the order of operations of WanPipeline.
  at::Tensor normalise(const at::Tensor& latents) const;
  at::Tensor denormalise(const at::Tensor& latents) const;

  static VaePosterior posterior(const at::Tensor& moments);

 private:
  at::Tensor encode_chunked(const at::Tensor& video) const;
  void decode_chunked(const at::Tensor& latents, const FrameSink& sink, const DecodeProgress& progress) const;
  at::Tensor encode_tiled(const at::Tensor& video, const VaeTiling& tiling) const;
  at::Tensor decode_tiled(const at::Tensor& latents, const VaeTiling& tiling, const DecodeProgress& progress) const;
  bool needs_tiles(const VaeTiling& tiling, int64_t y, int64_t x) const;
  void check_video(const at::Tensor& video) const;
  void check_latents(const at::Tensor& latents) const;

  VaeConfig config_;
  VaeEncoder encoder_;
  CausalConv3d quant_conv_, post_quant_conv_;
  VaeDecoder decoder_;
};

}  // namespace fpsa::models::wan
