// Renderer: a shape is an inside test in units of its radius; a pixel is fully in, fully out, or an edge pixel
// that averages 4x4 samples.
#include "fpsa/train/clips.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "fpsa/base/check.h"

namespace fpsa::train {
namespace {

constexpr int kSamplesPerAxis = 4;

uint64_t next_random(uint64_t& state) {  // splitmix64
  state += 0x9e3779b97f4a7c15ull;
  uint64_t z = state;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

double uniform(uint64_t& state, double low, double high) {
  return low + (high - low) * (static_cast<double>(next_random(state) >> 11) * 0x1.0p-53);
}

// Centre and radius at one moment, as fractions of the frame (x of width, y of height, radius of the shorter side).
struct Pose {
  double x, y, radius;
};

// The jitter of a clip: drawn once from its seed. The ranges keep every shape inside the frame: half the travel plus
// the phase plus 1.35 radii stay below one half.
struct Path {
  double radius, cross, travel, phase;

  explicit Path(uint64_t seed) {
    uint64_t state = seed;
    radius = uniform(state, 0.15, 0.19);
    cross = uniform(state, 0.36, 0.64);     // place on the axis that the motion does not use
    travel = uniform(state, 0.38, 0.46);    // distance covered, of the frame
    phase = uniform(state, -0.012, 0.012);  // shift of the path's middle
  }

  Pose at(Motion motion, double u) const {
    const double along = (u - 0.5) * travel + phase;
    switch (motion) {
      case Motion::kLeft:
        return {0.5 - along, cross, radius};
      case Motion::kRight:
        return {0.5 + along, cross, radius};
      case Motion::kUp:
        return {cross, 0.5 - along, radius};
      case Motion::kDown:
        return {cross, 0.5 + along, radius};
      case Motion::kBounce: {
        // Falls, hits the floor at u = 1/3, rises, falls again. Slower arcs than a real ball: one latent frame of
        // the VAE covers four video frames, and faster reversals vanish inside it.
        const double height = 0.78 * travel * std::abs(std::cos(1.5 * std::numbers::pi * u));
        return {cross, 0.975 - 1.35 * radius - height, radius};
      }
      case Motion::kGrow:
        return {cross, 0.5 + phase, 0.09 + (radius + 0.06 - 0.09) * u};
      case Motion::kShrink:
        return {cross, 0.5 + phase, 0.09 + (radius + 0.06 - 0.09) * (1.0 - u)};
    }
    return {0.5, 0.5, radius};
  }
};

// Is the point (x, y), in units of the radius with y downwards, inside the shape? The shapes have similar areas.
class InsideTest {
 public:
  explicit InsideTest(Shape shape) : shape_(shape) {
    if (shape == Shape::kTriangle) add_polygon(3, 1.28, 1.28);
    if (shape == Shape::kStar) add_polygon(5, 1.32, 0.56);
  }

  /// Half width of the square that encloses the shape, in radii.
  double extent() const { return 1.35; }

  bool operator()(double x, double y) const {
    switch (shape_) {
      case Shape::kCircle:
        return x * x + y * y <= 1.0;
      case Shape::kSquare:
        return std::max(std::abs(x), std::abs(y)) <= 0.9;
      case Shape::kRing: {
        const double r2 = x * x + y * y;
        return r2 <= 1.1 * 1.1 && r2 >= 0.58 * 0.58;
      }
      default:
        return in_polygon(x, y);
    }
  }

 private:
  // `points` tips at radius `outer`, the first one upwards; with inner < outer a star with notches between them.
  void add_polygon(int points, double outer, double inner) {
    const int corners = inner < outer ? 2 * points : points;
    for (int i = 0; i < corners; ++i) {
      const double angle = -std::numbers::pi / 2 + 2 * std::numbers::pi * i / corners;
      const double r = (corners == 2 * points && i % 2 == 1) ? inner : outer;
      corner_x_.push_back(r * std::cos(angle));
      corner_y_.push_back(r * std::sin(angle) + (points == 3 ? 0.2 : 0.0));  // centres the triangle's box
    }
  }

  bool in_polygon(double x, double y) const {  // even-odd rule
    bool inside = false;
    for (size_t i = 0, j = corner_x_.size() - 1; i < corner_x_.size(); j = i++) {
      if ((corner_y_[i] > y) != (corner_y_[j] > y) &&
          x < corner_x_[i] + (corner_x_[j] - corner_x_[i]) * (y - corner_y_[i]) / (corner_y_[j] - corner_y_[i]))
        inside = !inside;
    }
    return inside;
  }

  Shape shape_;
  std::vector<double> corner_x_, corner_y_;
};

uint8_t blend(uint8_t under, uint8_t over, int alpha) {
  return static_cast<uint8_t>((under * (255 - alpha) + over * alpha + 127) / 255);
}

// Coverage 0..255 of the pixel whose corners are (x, y) and (x + step, y + step) in radii.
int pixel_coverage(const InsideTest& inside, double x, double y, double step) {
  const bool first = inside(x, y);
  if (inside(x + step, y) == first && inside(x, y + step) == first && inside(x + step, y + step) == first &&
      inside(x + step / 2, y + step / 2) == first)
    return first ? 255 : 0;
  int hits = 0;
  for (int i = 0; i < kSamplesPerAxis; ++i)
    for (int j = 0; j < kSamplesPerAxis; ++j)
      hits += inside(x + step * (j + 0.5) / kSamplesPerAxis, y + step * (i + 0.5) / kSamplesPerAxis);
  return hits * 255 / (kSamplesPerAxis * kSamplesPerAxis);
}

void draw_frame(const Pose& pose, const InsideTest& inside, Rgb colour, int64_t height, int64_t width, uint8_t* rgb,
                uint8_t* coverage) {
  const double cx = pose.x * width, cy = pose.y * height;
  const double radius = pose.radius * std::min(height, width);
  const double reach = inside.extent() * radius;
  const auto clamp = [](double v, int64_t high) { return std::clamp<int64_t>(static_cast<int64_t>(v), 0, high); };
  const int64_t x0 = clamp(std::floor(cx - reach), width), x1 = clamp(std::ceil(cx + reach) + 1, width);
  const int64_t y0 = clamp(std::floor(cy - reach), height), y1 = clamp(std::ceil(cy + reach) + 1, height);
  for (int64_t y = y0; y < y1; ++y) {
    for (int64_t x = x0; x < x1; ++x) {
      const int alpha = pixel_coverage(inside, (x - cx) / radius, (y - cy) / radius, 1.0 / radius);
      if (alpha == 0) continue;
      const int64_t pixel = y * width + x;
      coverage[pixel] = static_cast<uint8_t>(alpha);
      rgb[3 * pixel + 0] = blend(rgb[3 * pixel + 0], colour.r, alpha);
      rgb[3 * pixel + 1] = blend(rgb[3 * pixel + 1], colour.g, alpha);
      rgb[3 * pixel + 2] = blend(rgb[3 * pixel + 2], colour.b, alpha);
    }
  }
}

}  // namespace

Rgb rgb_of(Colour colour) {
  constexpr Rgb kTable[] = {{225, 45, 45},  {45, 180, 70},  {50, 85, 230},
                            {245, 215, 50}, {250, 135, 30}, {55, 205, 215}};
  return kTable[static_cast<int>(colour)];
}

Rgb rgb_of(Background background) {
  constexpr Rgb kTable[] = {{242, 242, 242}, {14, 14, 18}, {120, 120, 125}, {150, 55, 195}};
  return kTable[static_cast<int>(background)];
}

Clip render(const ClipSpec& spec, int64_t frames, int64_t height, int64_t width) {
  FPSA_CHECK(frames >= 1 && height >= 8 && width >= 8, "render: size: expected at least 1 frame of 8x8 pixels, got ",
             frames, " frames of ", height, "x", width, "; choose a larger clip");
  Clip clip;
  clip.frames = frames;
  clip.height = height;
  clip.width = width;
  const int64_t pixels = frames * height * width;
  clip.rgb.resize(3 * pixels);
  clip.coverage.resize(pixels);
  const Rgb back = rgb_of(spec.background);
  for (int64_t i = 0; i < pixels; ++i) {
    clip.rgb[3 * i + 0] = back.r;
    clip.rgb[3 * i + 1] = back.g;
    clip.rgb[3 * i + 2] = back.b;
  }
  const Path path(spec.seed);
  const InsideTest inside(spec.shape);
  for (int64_t f = 0; f < frames; ++f) {
    const double u = frames > 1 ? static_cast<double>(f) / static_cast<double>(frames - 1) : 0.5;
    draw_frame(path.at(spec.motion, u), inside, rgb_of(spec.colour), height, width,
               clip.rgb.data() + 3 * f * height * width, clip.coverage.data() + f * height * width);
  }
  return clip;
}

std::string caption(const ClipSpec& spec, uint64_t form_seed) {
  constexpr std::string_view kMoving[] = {"moving left", "moving right", "moving up", "moving down",
                                          "bouncing",    "growing",      "shrinking"};
  const std::string_view shape = kShapeNames[static_cast<int>(spec.shape)];
  const std::string_view colour = kColourNames[static_cast<int>(spec.colour)];
  const std::string_view background = kBackgroundNames[static_cast<int>(spec.background)];
  const std::string_view motion = kMotionNames[static_cast<int>(spec.motion)];
  const std::string_view article = spec.colour == Colour::kOrange ? "an " : "a ";
  uint64_t state = form_seed;
  switch (next_random(state) % kCaptionForms) {
    case 0:
      return join(article, colour, " ", shape, " ", motion, " on a ", background, " background");
    case 1:
      return join(article, colour, " ", shape, " ", kMoving[static_cast<int>(spec.motion)], " against a ", background,
                  " background");
    case 2:
      return join("on a ", background, " background, ", article, colour, " ", shape, " ", motion);
    default:
      return join("the ", shape, " is ", colour, " and ", motion, ", the background is ", background);
  }
}

bool held_out(const ClipSpec& spec) {
  // A linear rule modulo the number of shapes: for every (colour, background, motion) exactly one shape is held
  // out, and no pair of values is missing from training.
  return (static_cast<int>(spec.shape) + 2 * static_cast<int>(spec.colour) + static_cast<int>(spec.background) +
          3 * static_cast<int>(spec.motion)) %
             static_cast<int>(kShapeNames.size()) ==
         0;
}

ClipSpec random_spec(uint64_t seed, bool held_out_only) {
  uint64_t state = seed;
  for (;;) {
    ClipSpec spec;
    spec.shape = static_cast<Shape>(next_random(state) % kShapeNames.size());
    spec.colour = static_cast<Colour>(next_random(state) % kColourNames.size());
    spec.background = static_cast<Background>(next_random(state) % kBackgroundNames.size());
    spec.motion = static_cast<Motion>(next_random(state) % kMotionNames.size());
    spec.seed = next_random(state);
    if (held_out(spec) == held_out_only) return spec;
  }
}

}  // namespace fpsa::train
