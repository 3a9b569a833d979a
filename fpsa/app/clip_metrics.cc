#include "fpsa/app/clip_metrics.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <span>

#include "fpsa/base/check.h"

namespace fpsa::app {
namespace {

constexpr int kWindow = 11;
constexpr double kSigma = 1.5;

using Plane = std::vector<double>;

Plane luma(std::span<const uint8_t> rgb) {
  Plane plane(rgb.size() / 3);
  for (size_t i = 0; i < plane.size(); ++i)
    plane[i] = 0.299 * rgb[3 * i] + 0.587 * rgb[3 * i + 1] + 0.114 * rgb[3 * i + 2];
  return plane;
}

// Gaussian weights of an odd window that fits into n pixels.
std::vector<double> window_for(int64_t n) {
  const int64_t width = std::min<int64_t>(kWindow, n % 2 ? n : n - 1);
  std::vector<double> weights(std::max<int64_t>(width, 1));
  double sum = 0;
  for (int64_t i = 0; i < static_cast<int64_t>(weights.size()); ++i) {
    const double x = static_cast<double>(i - static_cast<int64_t>(weights.size()) / 2);
    sum += weights[i] = std::exp(-x * x / (2 * kSigma * kSigma));
  }
  for (auto& weight : weights)
    weight /= sum;
  return weights;
}

// Weighted means at every position where the window lies inside: rows first, then columns.
Plane smooth(const Plane& in, int64_t height, int64_t width) {
  const auto wx = window_for(width), wy = window_for(height);
  const auto nx = static_cast<int64_t>(wx.size()), ny = static_cast<int64_t>(wy.size());
  const int64_t out_width = width - nx + 1, out_height = height - ny + 1;
  Plane rows(height * out_width), out(out_height * out_width);
  for (int64_t y = 0; y < height; ++y)
    for (int64_t x = 0; x < out_width; ++x) {
      double sum = 0;
      for (int64_t i = 0; i < nx; ++i)
        sum += wx[i] * in[y * width + x + i];
      rows[y * out_width + x] = sum;
    }
  for (int64_t y = 0; y < out_height; ++y)
    for (int64_t x = 0; x < out_width; ++x) {
      double sum = 0;
      for (int64_t i = 0; i < ny; ++i)
        sum += wy[i] * rows[(y + i) * out_width + x];
      out[y * out_width + x] = sum;
    }
  return out;
}

Plane product(const Plane& a, const Plane& b) {
  Plane out(a.size());
  for (size_t i = 0; i < a.size(); ++i)
    out[i] = a[i] * b[i];
  return out;
}

double ssim(const Plane& a, const Plane& b, int64_t height, int64_t width) {
  constexpr double c1 = (0.01 * 255) * (0.01 * 255), c2 = (0.03 * 255) * (0.03 * 255);
  const auto mean_a = smooth(a, height, width), mean_b = smooth(b, height, width);
  const auto square_a = smooth(product(a, a), height, width), square_b = smooth(product(b, b), height, width);
  const auto cross = smooth(product(a, b), height, width);
  double sum = 0;
  for (size_t i = 0; i < mean_a.size(); ++i) {
    const double ma = mean_a[i], mb = mean_b[i];
    const double variance_a = square_a[i] - ma * ma, variance_b = square_b[i] - mb * mb;
    const double covariance = cross[i] - ma * mb;
    sum += (2 * ma * mb + c1) * (2 * covariance + c2) / ((ma * ma + mb * mb + c1) * (variance_a + variance_b + c2));
  }
  return sum / static_cast<double>(mean_a.size());
}

double psnr(double squared_sum, double count) {
  if (squared_sum == 0) return std::numeric_limits<double>::infinity();
  return 10 * std::log10(255.0 * 255.0 * count / squared_sum);
}

}  // namespace

ClipDifference compare_clips(const io::Video& a, const io::Video& b) {
  FPSA_CHECK(a.frames == b.frames && a.height == b.height && a.width == b.width,
             "compare: expected two clips of one shape, got ", a.frames, " frames of ", a.width, "x", a.height, " and ",
             b.frames, " of ", b.width, "x", b.height);
  FPSA_CHECK(a.frames > 0, "compare: expected at least one frame, got none");
  ClipDifference result;
  double total = 0;
  for (int64_t f = 0; f < a.frames; ++f) {
    const auto fa = a.frame(f), fb = b.frame(f);
    double sum = 0;
    for (size_t i = 0; i < fa.size(); ++i) {
      const double d = static_cast<double>(fa[i]) - static_cast<double>(fb[i]);
      sum += d * d;
    }
    total += sum;
    result.frame_psnr_db.push_back(psnr(sum, static_cast<double>(fa.size())));
    result.ssim += ssim(luma(fa), luma(fb), a.height, a.width) / static_cast<double>(a.frames);
  }
  result.identical = total == 0;
  result.psnr_db = psnr(total, static_cast<double>(a.rgb.size()));
  const auto worst = std::min_element(result.frame_psnr_db.begin(), result.frame_psnr_db.end());
  result.worst_frame = worst - result.frame_psnr_db.begin();
  return result;
}

}  // namespace fpsa::app
