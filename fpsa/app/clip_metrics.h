// How far apart two clips are.
#pragma once

#include <vector>

#include "fpsa/io/video.h"

namespace fpsa::app {

struct ClipDifference {
  bool identical = false;
  double psnr_db = 0;  // over all pixels and channels, peak 255; infinite when identical
  double ssim = 0;     // mean over frames
  std::vector<double> frame_psnr_db;
  int64_t worst_frame = 0;  // lowest PSNR
};

/// Compares frame by frame.
///   Numerics  SSIM of Wang et al. 2004 on BT.601 luma: Gaussian window 11, sigma 1.5, K1 .01, K2 .03, inner pixels
///   Errors    fpsa::Error when frames, height or width differ
ClipDifference compare_clips(const io::Video& a, const io::Video& b);

}  // namespace fpsa::app
