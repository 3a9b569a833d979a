// Final latents become frames.
#pragma once

#include <ATen/ATen.h>

#include <optional>

#include "fpsa/app/progress.h"
#include "fpsa/io/video.h"
#include "fpsa/models/wan/vae.h"

namespace fpsa::app {

/// De-normalises and decodes latents F32 [1,C,T,H,W] in `dtype`, chunk by chunk (with tiling: tile by tile as well).
///   Errors    fpsa::Error when a frame has non-finite values; Interrupted after Ctrl-C, between chunks
io::Video decode_video(const models::wan::WanVae& vae, const at::Tensor& latents, at::ScalarType dtype,
                       const std::optional<models::wan::VaeTiling>& tiling, double fps, ProgressStyle progress);

/// Throws fpsa::Error when no pixel of any frame is brighter than a codec's idea of black.
void check_not_black(const io::Video& video);

/// Throws fpsa::Error unless all latents are finite; `when` says after what.
void check_finite(const at::Tensor& latents, const std::string& when);

}  // namespace fpsa::app
