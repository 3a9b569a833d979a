// How clips move: what single frames do not show.
#pragma once

#include <optional>

#include "fpsa/io/video.h"

namespace fpsa::app {

/// Of one clip, in levels of 255, over all pixels and channels.
struct TemporalMetrics {
  double change = 0;   // mean |x[t+1] - x[t]|: how much moves; 0 for a single frame
  double flicker = 0;  // mean |x[t+1] - 2 x[t] + x[t-1]|: what goes back and forth; 0 for fewer than three frames
};
TemporalMetrics temporal_metrics(const io::Video& video);

/// PSNR, peak 255, between the frame-to-frame changes of two clips of one shape: blind to an error that stands still,
/// sensitive to one that flickers.
///   Edges     infinite for equal changes; nothing for clips of one frame
///   Errors    fpsa::Error when frames, height or width differ
std::optional<double> temporal_psnr_db(const io::Video& a, const io::Video& b);

}  // namespace fpsa::app
