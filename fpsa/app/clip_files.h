// Clips on disk as this program knows them: a video file, or a folder of PNG frames.
#pragma once

#include <filesystem>

#include "fpsa/io/video.h"

namespace fpsa::app {

/// Reads a video, or a folder's *.png in the order of their names (16 fps).
///   Errors    fpsa::Error naming the path: not there, no frames, frames of different sizes
io::Video read_clip(const std::filesystem::path& path);

/// Writes frame-0000.png, frame-0001.png, ... into an existing folder. When that fails half-way (an error or Ctrl-C),
/// the frames written by this call are removed again.
void write_frames(const std::filesystem::path& folder, const io::Video& video);

}  // namespace fpsa::app
