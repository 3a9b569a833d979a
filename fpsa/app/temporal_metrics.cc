#include "fpsa/app/temporal_metrics.h"

#include <cmath>
#include <cstdlib>
#include <limits>

#include "fpsa/base/check.h"

namespace fpsa::app {

TemporalMetrics temporal_metrics(const io::Video& video) {
  int64_t change = 0, flicker = 0;
  for (int64_t f = 1; f < video.frames; ++f) {
    const auto before = video.frame(f - 1), now = video.frame(f);
    for (size_t i = 0; i < now.size(); ++i)
      change += std::abs(now[i] - before[i]);
    if (f + 1 == video.frames) continue;
    const auto after = video.frame(f + 1);
    for (size_t i = 0; i < now.size(); ++i)
      flicker += std::abs(after[i] - 2 * now[i] + before[i]);
  }
  const auto pixels = static_cast<double>(video.frame_bytes());
  TemporalMetrics result;
  if (video.frames > 1) result.change = static_cast<double>(change) / (pixels * static_cast<double>(video.frames - 1));
  if (video.frames > 2)
    result.flicker = static_cast<double>(flicker) / (pixels * static_cast<double>(video.frames - 2));
  return result;
}

std::optional<double> temporal_psnr_db(const io::Video& a, const io::Video& b) {
  FPSA_CHECK(a.frames == b.frames && a.height == b.height && a.width == b.width,
             "temporal metrics: expected two clips of one shape, got ", a.frames, " frames of ", a.width, "x", a.height,
             " and ", b.frames, " of ", b.width, "x", b.height);
  if (a.frames < 2) return std::nullopt;
  int64_t squares = 0;
  for (int64_t f = 1; f < a.frames; ++f) {
    const auto a0 = a.frame(f - 1), a1 = a.frame(f), b0 = b.frame(f - 1), b1 = b.frame(f);
    for (size_t i = 0; i < a1.size(); ++i) {
      const int64_t d = (a1[i] - a0[i]) - (b1[i] - b0[i]);
      squares += d * d;
    }
  }
  if (squares == 0) return std::numeric_limits<double>::infinity();
  const double count = static_cast<double>(a.frame_bytes()) * static_cast<double>(a.frames - 1);
  return 10 * std::log10(255.0 * 255.0 * count / static_cast<double>(squares));
}

}  // namespace fpsa::app
