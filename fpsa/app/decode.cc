#include "fpsa/app/decode.h"

#include <algorithm>

#include "fpsa/app/interrupt.h"
#include "fpsa/base/check.h"

namespace fpsa::app {

// Full-range black is 0; 4 of 255 leaves room for rounding and a VAE's bias.
constexpr uint8_t kBlackest = 4;

io::Video decode_video(const models::wan::WanVae& vae, const at::Tensor& latents, at::ScalarType dtype,
                       const std::optional<models::wan::VaeTiling>& tiling, double fps, ProgressStyle style) {
  const auto& config = vae.config();
  io::Video video;
  video.frames = (latents.size(2) - 1) * config.temporal_factor() + 1;
  video.height = latents.size(3) * config.spatial_factor();
  video.width = latents.size(4) * config.spatial_factor();
  video.fps = fps;
  video.rgb.reserve(video.frames * video.frame_bytes());

  Progress progress(style, "decode", "chunk", 0);
  int64_t done = 0;
  vae.decode(
      vae.denormalise(latents).to(dtype),
      [&](const at::Tensor& frames) {
        FPSA_CHECK(at::isfinite(frames).all().item<bool>(), "decode: expected finite pixels from frame ", done,
                   " on, got NaN or infinity; try --vae-dtype f32");
        // [-1,1] to 0..255, nearest; [1,3,f,Y,X] to frames of interleaved rows.
        const auto bytes = (frames.to(at::kFloat) * 127.5 + 127.5)
                               .round()
                               .clamp(0, 255)
                               .to(at::kByte)
                               .squeeze(0)
                               .permute({1, 2, 3, 0})
                               .contiguous();
        const auto* begin = bytes.const_data_ptr<uint8_t>();
        video.rgb.insert(video.rgb.end(), begin, begin + bytes.numel());
        done += frames.size(2);
      },
      tiling,
      [&](int64_t chunks, int64_t total) {
        throw_if_interrupted();
        progress.advance_to(chunks, total);
      });
  return video;
}

void check_not_black(const io::Video& video) {
  FPSA_CHECK(std::any_of(video.rgb.begin(), video.rgb.end(), [](uint8_t value) { return value > kBlackest; }),
             "decode: expected a picture, got ", video.frames, " black frames; nothing was written. The checkpoint, ",
             "--dtype or --guidance-scale may not fit this model");
}

void check_finite(const at::Tensor& latents, const std::string& when) {
  FPSA_CHECK(at::isfinite(latents).all().item<bool>(), "denoise: expected finite latents ", when,
             ", got NaN or infinity; nothing was written. Try --dtype f32 or a lower --guidance-scale");
}

}  // namespace fpsa::app
