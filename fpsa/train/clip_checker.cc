#include "fpsa/train/clip_checker.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <complex>
#include <numbers>

#include "fpsa/base/check.h"

namespace fpsa::train {
namespace {

// A frame is read when its object covers at least this share of it: smaller ones are noise or gone.
constexpr double kMinArea = 0.004;
// First guess of the object: pixels at least this far (RGB distance) from the background. The closest pair of the
// palette (gray, green) is 109 apart.
constexpr double kForegroundDistance = 50.0;
// A border whose median is farther than this from every background of the palette shows none of them.
constexpr double kMaxBackgroundDistance = 60.0;
constexpr double kMaxColourDistance = 110.0;
// Enclosed background, as a share of the filled outline: the ring has 28%, every other shape none.
constexpr double kRingHole = 0.10;
// Below this relative amplitude of the 3rd to 5th harmonic an outline is a circle; the square, the roundest of the
// others, has 0.13.
constexpr double kRoundness = 0.055;
// Smallest displacement (of the frame) and size ratio that count as motion. Clips move 0.38 at least; grow 2.3 times.
constexpr double kMinTravel = 0.15;
constexpr double kMinExcursion = 0.12;
constexpr double kMinSizeRatio = 1.45;
constexpr int kRays = 72;

using Vec3 = std::array<double, 3>;

double distance(const Vec3& a, const Vec3& b) {
  return std::hypot(a[0] - b[0], a[1] - b[1], a[2] - b[2]);
}

Vec3 pixel_at(const uint8_t* rgb, int64_t index) {
  return {static_cast<double>(rgb[3 * index]), static_cast<double>(rgb[3 * index + 1]),
          static_cast<double>(rgb[3 * index + 2])};
}

// Per-channel median by counting.
class ColourMedian {
 public:
  void add(const uint8_t* pixel) {
    for (int c = 0; c < 3; ++c)
      ++counts_[c][pixel[c]];
    ++total_;
  }
  int64_t total() const { return total_; }
  Vec3 median() const {
    Vec3 result{};
    for (int c = 0; c < 3; ++c) {
      int64_t seen = 0;
      for (int v = 0; v < 256; ++v) {
        seen += counts_[c][v];
        if (2 * seen >= total_) {
          result[c] = v;
          break;
        }
      }
    }
    return result;
  }

 private:
  std::array<std::array<int64_t, 256>, 3> counts_{};
  int64_t total_ = 0;
};

template <class Enum, size_t N>
std::optional<Enum> nearest(const Vec3& colour, double limit) {
  double best = limit;
  std::optional<Enum> result;
  for (size_t i = 0; i < N; ++i) {
    const Rgb c = rgb_of(static_cast<Enum>(i));
    const double d = distance(colour, {double(c.r), double(c.g), double(c.b)});
    if (d < best) {
      best = d;
      result = static_cast<Enum>(i);
    }
  }
  return result;
}

// One frame's object: soft coverage of its largest connected component, and the frame's outline facts.
struct FrameObject {
  double area = 0, x = 0, y = 0;      // fraction of the frame; centroid of the filled outline in pixels
  double hole = 0;                    // enclosed background / filled area
  std::array<double, 3> harmonics{};  // relative amplitude of the 3rd, 4th and 5th
};

class FrameReader {
 public:
  FrameReader(int64_t height, int64_t width) : height_(height), width_(width) { label_.resize(height * width); }

  FrameObject read(const std::vector<double>& alpha) {
    FrameObject object;
    const int64_t size = keep_largest_component(alpha);
    if (size == 0) return object;
    fill_outline(object, size);
    measure_outline(alpha, object);
    return object;
  }

 private:
  static constexpr uint8_t kBack = 0, kMask = 1, kVisited = 2, kObject = 3, kOutside = 4;

  // Flood fill over 4-neighbours from `start`, changing `from` into `to`; returns how many pixels changed.
  int64_t flood(int64_t start, uint8_t from, uint8_t to) {
    stack_.assign(1, start);
    label_[start] = to;
    int64_t count = 0;
    while (!stack_.empty()) {
      const int64_t p = stack_.back();
      stack_.pop_back();
      ++count;
      const int64_t x = p % width_;
      const auto visit = [&](int64_t q) {
        if (label_[q] == from) {
          label_[q] = to;
          stack_.push_back(q);
        }
      };
      if (x > 0) visit(p - 1);
      if (x + 1 < width_) visit(p + 1);
      if (p >= width_) visit(p - width_);
      if (p + width_ < height_ * width_) visit(p + width_);
    }
    return count;
  }

  int64_t keep_largest_component(const std::vector<double>& alpha) {
    for (size_t i = 0; i < label_.size(); ++i)
      label_[i] = alpha[i] > 0.5 ? kMask : kBack;
    int64_t best = 0, best_start = -1;
    for (size_t i = 0; i < label_.size(); ++i) {
      if (label_[i] != kMask) continue;
      const int64_t count = flood(static_cast<int64_t>(i), kMask, kVisited);
      if (count > best) {
        best = count;
        best_start = static_cast<int64_t>(i);
      }
    }
    if (best_start >= 0) flood(best_start, kVisited, kObject);
    return best;
  }

  // Everything that the frame's border reaches without crossing the object is outside; the rest is the outline.
  void fill_outline(FrameObject& object, int64_t size) {
    for (auto& l : label_)
      if (l == kVisited) l = kBack;
    for (int64_t x = 0; x < width_; ++x)
      for (int64_t p : {x, (height_ - 1) * width_ + x})
        if (label_[p] == kBack) flood(p, kBack, kOutside);
    for (int64_t y = 0; y < height_; ++y)
      for (int64_t p : {y * width_, y * width_ + width_ - 1})
        if (label_[p] == kBack) flood(p, kBack, kOutside);
    int64_t filled = 0;
    for (int64_t p = 0; p < height_ * width_; ++p) {
      if (label_[p] == kOutside) continue;
      ++filled;
      object.x += static_cast<double>(p % width_);
      object.y += static_cast<double>(p / width_);
    }
    object.x /= filled;
    object.y /= filled;
    object.area = static_cast<double>(filled) / (height_ * width_);
    object.hole = static_cast<double>(filled - size) / filled;
  }

  // Outline radius along rays from the centroid, as the length of the ray inside the filled outline.
  void measure_outline(const std::vector<double>& alpha, FrameObject& object) {
    constexpr double kStep = 0.5;
    const double limit = 2.5 * std::sqrt(object.area * height_ * width_ / std::numbers::pi);
    std::array<double, kRays> radius{};
    double mean = 0;
    for (int k = 0; k < kRays; ++k) {
      const double angle = 2 * std::numbers::pi * k / kRays;
      for (double r = 0; r < limit; r += kStep) {
        const auto x = static_cast<int64_t>(std::lround(object.x + r * std::cos(angle)));
        const auto y = static_cast<int64_t>(std::lround(object.y + r * std::sin(angle)));
        if (x < 0 || y < 0 || x >= width_ || y >= height_) break;
        const int64_t p = y * width_ + x;
        radius[k] += kStep * (label_[p] == kOutside ? std::min(alpha[p], 0.5) : 1.0);
      }
      mean += radius[k] / kRays;
    }
    for (int h = 3; h <= 5; ++h) {
      std::complex<double> sum = 0;
      for (int k = 0; k < kRays; ++k)
        sum += radius[k] * std::polar(1.0, -2 * std::numbers::pi * h * k / kRays);
      object.harmonics[h - 3] = 2 * std::abs(sum) / kRays / std::max(mean, 1e-9);
    }
  }

  int64_t height_, width_;
  std::vector<uint8_t> label_;
  std::vector<int64_t> stack_;
};

Shape shape_of(const FrameObject& object) {
  if (object.hole > kRingHole) return Shape::kRing;
  const auto& h = object.harmonics;
  const double most = std::max({h[0], h[1], h[2]});
  if (most < kRoundness) return Shape::kCircle;
  if (most == h[0]) return Shape::kTriangle;
  return most == h[1] ? Shape::kSquare : Shape::kStar;
}

// Each frame votes with its area: larger outlines are read more reliably.
Shape vote_shape(const std::vector<FrameObject>& objects) {
  std::array<double, kShapeNames.size()> votes{};
  for (const auto& o : objects)
    votes[static_cast<size_t>(shape_of(o))] += o.area;
  return static_cast<Shape>(std::max_element(votes.begin(), votes.end()) - votes.begin());
}

std::optional<Motion> motion_of(const std::vector<FrameObject>& objects, int64_t height, int64_t width) {
  // First and last quarter-second's means are steadier than single frames.
  const size_t n = objects.size(), edge = std::max<size_t>(1, n / 10);
  double first_size = 0, last_size = 0, first_x = 0, last_x = 0, first_y = 0, last_y = 0;
  for (size_t i = 0; i < edge; ++i) {
    const auto &a = objects[i], &b = objects[n - 1 - i];
    first_size += std::sqrt(a.area), last_size += std::sqrt(b.area);
    first_x += a.x, last_x += b.x, first_y += a.y, last_y += b.y;
  }
  const double ratio = last_size / first_size;
  if (ratio > kMinSizeRatio) return Motion::kGrow;
  if (ratio < 1 / kMinSizeRatio) return Motion::kShrink;

  double lowest = objects[0].y, highest = objects[0].y, down = 0, up = 0;  // largest fall and rise in time order
  for (const auto& o : objects) {
    down = std::max(down, o.y - highest), up = std::max(up, lowest - o.y);
    highest = std::min(highest, o.y), lowest = std::max(lowest, o.y);
  }
  if (std::min(down, up) > kMinExcursion * height) return Motion::kBounce;

  const double dx = (last_x - first_x) / edge / width, dy = (last_y - first_y) / edge / height;
  if (std::max(std::abs(dx), std::abs(dy)) < kMinTravel) return std::nullopt;
  if (std::abs(dx) > std::abs(dy)) return dx < 0 ? Motion::kLeft : Motion::kRight;
  return dy < 0 ? Motion::kUp : Motion::kDown;
}

}  // namespace

Reading check_clip(const uint8_t* rgb, int64_t frames, int64_t height, int64_t width) {
  FPSA_CHECK(rgb != nullptr && frames >= 1 && height >= 8 && width >= 8,
             "check_clip: expected at least 1 frame of 8x8 pixels, got ", frames, " frames of ", height, "x", width);
  const int64_t plane = height * width;
  const int64_t margin = std::max<int64_t>(1, std::min(height, width) / 32);

  ColourMedian border;
  for (int64_t f = 0; f < frames; ++f)
    for (int64_t y = 0; y < height; ++y)
      for (int64_t x = 0; x < width; ++x)
        if (y < margin || x < margin || y >= height - margin || x >= width - margin)
          border.add(rgb + 3 * (f * plane + y * width + x));
  const Vec3 back = border.median();

  Reading reading;
  reading.background = nearest<Background, kBackgroundNames.size()>(back, kMaxBackgroundDistance);

  ColourMedian object_pixels;
  for (int64_t p = 0; p < frames * plane; ++p)
    if (distance(pixel_at(rgb, p), back) > kForegroundDistance) object_pixels.add(rgb + 3 * p);
  if (object_pixels.total() < static_cast<int64_t>(kMinArea * frames * plane)) return reading;
  const Vec3 colour = object_pixels.median();
  const Vec3 axis = {colour[0] - back[0], colour[1] - back[1], colour[2] - back[2]};
  const double length2 = axis[0] * axis[0] + axis[1] * axis[1] + axis[2] * axis[2];
  if (length2 < kForegroundDistance * kForegroundDistance) return reading;

  FrameReader reader(height, width);
  std::vector<double> alpha(plane);
  std::vector<FrameObject> objects;
  for (int64_t f = 0; f < frames; ++f) {
    for (int64_t p = 0; p < plane; ++p) {
      const Vec3 v = pixel_at(rgb, f * plane + p);
      alpha[p] = ((v[0] - back[0]) * axis[0] + (v[1] - back[1]) * axis[1] + (v[2] - back[2]) * axis[2]) / length2;
    }
    const FrameObject object = reader.read(alpha);
    if (object.area >= kMinArea) objects.push_back(object);
  }
  if (objects.size() < 2) return reading;
  reading.colour = nearest<Colour, kColourNames.size()>(colour, kMaxColourDistance);
  reading.shape = vote_shape(objects);
  reading.motion = motion_of(objects, height, width);
  return reading;
}

Agreement compare(const Reading& reading, const ClipSpec& spec) {
  return {reading.shape == spec.shape, reading.colour == spec.colour, reading.background == spec.background,
          reading.motion == spec.motion};
}

}  // namespace fpsa::train
