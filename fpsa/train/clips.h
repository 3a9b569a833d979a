// Procedural captioned clips: one moving object on a plain background, anti-aliased, 16 frames per second.
//
// Everything about a clip follows from its ClipSpec, so a data set is a range of seeds. Positions and sizes are
// relative to the frame: the same spec renders at any size and frame count, and its motion always fills the clip.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace fpsa::train {

enum class Shape { kCircle, kSquare, kTriangle, kStar, kRing };
enum class Colour { kRed, kGreen, kBlue, kYellow, kOrange, kCyan };
enum class Background { kWhite, kBlack, kGray, kPurple };
enum class Motion { kLeft, kRight, kUp, kDown, kBounce, kGrow, kShrink };

inline constexpr std::array<std::string_view, 5> kShapeNames = {"circle", "square", "triangle", "star", "ring"};
inline constexpr std::array<std::string_view, 6> kColourNames = {"red", "green", "blue", "yellow", "orange", "cyan"};
inline constexpr std::array<std::string_view, 4> kBackgroundNames = {"white", "black", "gray", "purple"};
inline constexpr std::array<std::string_view, 7> kMotionNames = {"moves left", "moves right", "moves up", "moves down",
                                                                 "bounces",    "grows",       "shrinks"};

struct Rgb {
  uint8_t r, g, b;
};
Rgb rgb_of(Colour colour);
Rgb rgb_of(Background background);

/// What a clip shows. `seed` decides the rest: size, start position and path.
struct ClipSpec {
  Shape shape = Shape::kCircle;
  Colour colour = Colour::kRed;
  Background background = Background::kGray;
  Motion motion = Motion::kLeft;
  uint64_t seed = 0;
};

/// A rendered clip.
struct Clip {
  int64_t frames = 0, height = 0, width = 0;
  std::vector<uint8_t> rgb;       // [frames, height, width, 3]
  std::vector<uint8_t> coverage;  // [frames, height, width], object alpha 0..255
};

/// Renders with 4x4 samples per pixel at the object's edge.
///   Requires  frames >= 1, height and width >= 8
///   Errors    fpsa::Error otherwise
Clip render(const ClipSpec& spec, int64_t frames, int64_t height, int64_t width);

/// The prompt that describes a spec. `form_seed` chooses among the sentence forms.
std::string caption(const ClipSpec& spec, uint64_t form_seed);
inline constexpr int kCaptionForms = 4;

/// True for the fifth of the (shape, colour, background, motion) combinations kept out of training. Every value
/// of every attribute, and every pair of values, still occurs in training.
bool held_out(const ClipSpec& spec);

/// Draws attributes and jitter from a seed: only held-out combinations, or never one.
ClipSpec random_spec(uint64_t seed, bool held_out_only);

}  // namespace fpsa::train
