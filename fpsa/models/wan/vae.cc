#include "fpsa/models/wan/vae.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>

#include "fpsa/base/check.h"

namespace fpsa::models::wan {
namespace {

bool contains(const std::vector<double>& values, double value) {
  return std::find(values.begin(), values.end(), value) != values.end();
}

// Per-channel statistics shaped for broadcasting over [B,z,T,Y,X].
at::Tensor per_channel(const std::vector<double>& values, const at::Tensor& like) {
  std::vector<float> as_f32(values.begin(), values.end());
  at::Tensor t = at::tensor(at::ArrayRef<float>(as_f32)).view({1, -1, 1, 1, 1});
  return t.to(like.device(), like.scalar_type());
}

void check_shape(const at::Tensor& t, const char* what, int64_t channels, const char* channels_name) {
  FPSA_CHECK(t.defined() && t.dim() == 5, what, ": expected 5 dimensions [B,C,T,Y,X], received ",
             t.defined() ? t.dim() : 0);
  FPSA_CHECK(t.size(1) == channels, what, ": expected ", channels_name, " = ", channels, " channels, received ",
             t.size(1));
  FPSA_CHECK(t.numel() > 0, what, ": expected at least one element, received shape ", t.sizes());
  FPSA_CHECK(at::isFloatingType(t.scalar_type()), what, ": expected a floating-point dtype, received ",
             at::toString(t.scalar_type()));
}

}  // namespace

VaeEncoder::VaeEncoder(const VaeConfig& c, const nn::Scope& scope) {
  int64_t channels = c.base_dim;
  conv_in_ = CausalConv3d(scope / "conv_in", c.in_channels, channels, 3, 3);
  double scale = 1.0;
  nn::Scope down = scope / "down_blocks";
  auto next = [&] { return down / static_cast<int64_t>(down_.size()); };
  for (size_t level = 0; level < c.dim_mult.size(); ++level) {
    int64_t out = c.base_dim * c.dim_mult[level];
    for (int64_t i = 0; i < c.num_res_blocks; ++i) {
      down_.emplace_back(VaeResidual(next(), channels, out));
      if (contains(c.attn_scales, scale)) down_.emplace_back(VaeAttention(next(), out));
      channels = out;
    }
    if (level + 1 < c.dim_mult.size()) {
      down_.emplace_back(VaeDown(next(), out, c.temperal_downsample[level]));
      scale /= 2;
    }
  }
  middle_.emplace(scope / "mid_block", channels);
  out_ = NormActConv(scope / "norm_out", scope / "conv_out", channels, 2 * c.z_dim);
}

at::Tensor VaeEncoder::operator()(const at::Tensor& video, TimeCache* cache) const {
  at::Tensor x = causal(conv_in_, video.contiguous(at::MemoryFormat::ChannelsLast3d), cache);
  for (const auto& layer : down_) {
    if (const auto* attention = std::get_if<VaeAttention>(&layer)) {
      x = (*attention)(x);
    } else if (const auto* residual = std::get_if<VaeResidual>(&layer)) {
      x = (*residual)(x, cache);
    } else {
      x = std::get<VaeDown>(layer)(x, cache);
    }
  }
  return out_((*middle_)(x, cache), cache);
}

VaeDecoder::VaeDecoder(const VaeConfig& c, const nn::Scope& scope) {
  size_t levels = c.dim_mult.size();
  int64_t channels = c.decoder_dim() * c.dim_mult.back();
  conv_in_ = CausalConv3d(scope / "conv_in", c.z_dim, channels, 3, 3);
  middle_.emplace(scope / "mid_block", channels);
  for (size_t i = 0; i < levels; ++i) {  // from the coarsest level to the finest
    nn::Scope block = scope / "up_blocks" / static_cast<int64_t>(i);
    int64_t out = c.decoder_dim() * c.dim_mult[levels - 1 - i];
    Level level;
    for (int64_t j = 0; j <= c.num_res_blocks; ++j) {
      level.residuals.emplace_back(block / "resnets" / j, channels, out);
      channels = out;
    }
    if (i + 1 < levels) {
      level.up.emplace(block / "upsamplers" / 0, out, c.temperal_downsample[levels - 2 - i]);
      channels = out / 2;
    }
    levels_.push_back(std::move(level));
  }
  out_ = NormActConv(scope / "norm_out", scope / "conv_out", channels, c.out_channels);
}

at::Tensor VaeDecoder::operator()(const at::Tensor& latents, TimeCache* cache) const {
  at::Tensor x = causal(conv_in_, latents.contiguous(at::MemoryFormat::ChannelsLast3d), cache);
  x = (*middle_)(x, cache);
  for (const Level& level : levels_) {
    for (const VaeResidual& residual : level.residuals)
      x = residual(x, cache);
    if (level.up) x = (*level.up)(x, cache);
  }
  return out_(x, cache);
}

WanVae::WanVae(const VaeConfig& config, const nn::Scope& scope)
    : config_((config.check(), config)),
      encoder_(config, scope / "encoder"),
      quant_conv_(scope / "quant_conv", 2 * config.z_dim, 2 * config.z_dim, 1, 1),
      post_quant_conv_(scope / "post_quant_conv", config.z_dim, config.z_dim, 1, 1),
      decoder_(config, scope / "decoder") {}

void WanVae::check_video(const at::Tensor& video) const {
  check_shape(video, "VAE encode: video", config_.in_channels, "in_channels");
  int64_t s = config_.spatial_factor(), t = config_.temporal_factor();
  FPSA_CHECK((video.size(2) - 1) % t == 0, "VAE encode: the number of frames must be 1 + a multiple of ", t,
             ", received ", video.size(2), "; drop or repeat frames");
  FPSA_CHECK(video.size(3) % s == 0 && video.size(4) % s == 0, "VAE encode: height and width must be multiples of ", s,
             ", received ", video.size(3), "x", video.size(4), "; crop or resize the frames");
}

void WanVae::check_latents(const at::Tensor& latents) const {
  check_shape(latents, "VAE decode: latents", config_.z_dim, "z_dim");
}

at::Tensor WanVae::encode_whole(const at::Tensor& video) const {
  check_video(video);
  return pointwise(encoder_(video, nullptr), quant_conv_.weight, quant_conv_.bias);
}

at::Tensor WanVae::decode_whole(const at::Tensor& latents) const {
  check_latents(latents);
  return decoder_(pointwise(latents, post_quant_conv_.weight, post_quant_conv_.bias), nullptr);
}

at::Tensor WanVae::encode(const at::Tensor& video, const std::optional<VaeTiling>& tiling) const {
  at::NoGradGuard no_grad;
  check_video(video);
  if (tiling && needs_tiles(*tiling, video.size(3), video.size(4))) return encode_tiled(video, *tiling);
  return encode_chunked(video);
}

at::Tensor WanVae::decode(const at::Tensor& latents, const std::optional<VaeTiling>& tiling) const {
  at::Tensor video;
  int64_t at = 0, s = config_.spatial_factor();
  int64_t frames = latents.dim() == 5 ? 1 + (latents.size(2) - 1) * config_.temporal_factor() : 0;
  decode(
      latents,
      [&](const at::Tensor& chunk) {
        if (chunk.size(2) == frames) {
          video = chunk;
          return;
        }
        if (!video.defined()) {
          video = at::empty({chunk.size(0), chunk.size(1), frames, latents.size(3) * s, latents.size(4) * s},
                            chunk.options());
        }
        video.narrow(2, at, chunk.size(2)).copy_(chunk);
        at += chunk.size(2);
      },
      tiling);
  return video;
}

void WanVae::decode(const at::Tensor& latents, const FrameSink& sink, const std::optional<VaeTiling>& tiling,
                    const DecodeProgress& progress) const {
  at::NoGradGuard no_grad;
  check_latents(latents);
  int64_t s = config_.spatial_factor();
  if (tiling && needs_tiles(*tiling, latents.size(3) * s, latents.size(4) * s)) {
    sink(decode_tiled(latents, *tiling, progress));
  } else {
    decode_chunked(latents, sink, progress);
  }
}

at::Tensor WanVae::encode_chunked(const at::Tensor& video) const {
  // Any chunk that is a multiple of the temporal factor gives the same values; 4 is Wan's.
  int64_t frames = video.size(2), step = std::max<int64_t>(4, config_.temporal_factor());
  TimeCache cache;
  std::vector<at::Tensor> moments;
  for (int64_t at = 0, count = 1; at < frames; at += count, count = std::min(step, frames - at)) {
    cache.begin_chunk();
    at::Tensor features = encoder_(video.narrow(2, at, count), &cache);
    moments.push_back(pointwise(features, quant_conv_.weight, quant_conv_.bias));
  }
  return at::cat(moments, 2).contiguous();
}

void WanVae::decode_chunked(const at::Tensor& latents, const FrameSink& sink, const DecodeProgress& progress) const {
  at::Tensor z = pointwise(latents, post_quant_conv_.weight, post_quant_conv_.bias);
  TimeCache cache;
  for (int64_t t = 0; t < z.size(2); ++t) {
    cache.begin_chunk();
    sink(decoder_(z.narrow(2, t, 1), &cache).clamp_(-1, 1));
    if (progress) progress(t + 1, z.size(2));
  }
}

at::Tensor WanVae::normalise(const at::Tensor& latents) const {
  if (config_.latents_mean.empty()) return latents;
  at::Tensor scale = per_channel(config_.latents_std, latents).reciprocal();
  return (latents - per_channel(config_.latents_mean, latents)) * scale;
}

at::Tensor WanVae::denormalise(const at::Tensor& latents) const {
  if (config_.latents_mean.empty()) return latents;
  at::Tensor scale = per_channel(config_.latents_std, latents).reciprocal();
  return latents / scale + per_channel(config_.latents_mean, latents);
}

VaePosterior WanVae::posterior(const at::Tensor& moments) {
  FPSA_CHECK(moments.dim() == 5 && moments.size(1) % 2 == 0, "VAE posterior: expected moments [B,2z,T,Y,X], received ",
             moments.sizes());
  std::vector<at::Tensor> halves = moments.chunk(2, 1);
  return {halves[0], halves[1].clamp(-30.0, 20.0)};
}

}  // namespace fpsa::models::wan
