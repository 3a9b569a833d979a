// Clips on disk as this program knows them: a video file, or a folder of PNG frames.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "fpsa/io/video.h"

namespace fpsa::app {

/// Reads a video, or a folder's *.png in the order of their names (16 fps).
///   Errors    fpsa::Error naming the path: not there, no frames, frames of different sizes
io::Video read_clip(const std::filesystem::path& path);

/// Throws unless every frame-*.png in the folder is one that write_frames would replace: frames of a longer clip would
/// stay behind the new ones and be read with them.
///   Edges     a folder that does not exist yet passes; other files are nobody's frames and pass
///   Errors    fpsa::Error naming `flag`, the folder and the first of the frames
void check_no_other_frames(const std::string& flag, const std::filesystem::path& folder, int64_t frames);

/// Writes frame-0000.png, frame-0001.png, ... into an existing folder. When that fails half-way (an error or Ctrl-C),
/// the frames written by this call are removed again.
void write_frames(const std::filesystem::path& folder, const io::Video& video);

}  // namespace fpsa::app
