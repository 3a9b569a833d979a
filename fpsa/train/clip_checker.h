// Reads shape, colour, background and motion back from the frames of a clip, without knowing its prompt.
//
// Background: median colour of the border. Object: pixels that differ from it. Colour: median over the object.
// Shape: hole, then radial Fourier harmonics of the outline, voted over frames. Motion: trajectory and area.
#pragma once

#include <cstdint>
#include <optional>

#include "fpsa/train/clips.h"

namespace fpsa::train {

/// What the checker saw. An attribute is empty when the frames show no object to read it from.
struct Reading {
  std::optional<Shape> shape;
  std::optional<Colour> colour;
  std::optional<Background> background;
  std::optional<Motion> motion;
};

/// Reads a clip.
///   Shapes    rgb [frames, height, width, 3]
///   Edges     fewer than 2 usable frames: shape, colour and motion stay empty
///   Errors    fpsa::Error for an empty size or a null pointer
Reading check_clip(const uint8_t* rgb, int64_t frames, int64_t height, int64_t width);

/// Per attribute: does the reading agree with the spec?
struct Agreement {
  bool shape = false, colour = false, background = false, motion = false;
};
Agreement compare(const Reading& reading, const ClipSpec& spec);

}  // namespace fpsa::train
