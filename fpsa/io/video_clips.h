// Clips of one size and frame rate out of video files of any, as training wants them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>

#include "fpsa/io/video.h"

namespace fpsa::io {

/// What every clip looks like.
struct ClipShape {
  int64_t frames = 0, height = 0, width = 0;
  double fps = 16.0;
};

/// Cuts a file's first video stream into consecutive clips and hands each to `take`; returns how many there were. A
/// remainder shorter than a clip is dropped.
///   Time      the clip's frame k shows the decoded frame whose time is nearest to k / fps after the first frame's (the
///             later of two), so frames are repeated or left out, never mixed
///   Picture   scaled to cover height x width (averaged when it shrinks, bilinear when it grows), keeping the aspect
///             ratio that it is displayed with, and cut at the centre; phones' rotation tags are applied
///   Memory    one clip, and three frames of the file
///   Edges     reading stops after `most` clips: damage behind them goes unnoticed; sizes may change inside a file
///   Errors    fpsa::Error: what read_video refuses of a file; fewer frames than one clip, with the number needed; a
///             file without any notion of time
int64_t read_clips(const std::filesystem::path& path, const ClipShape& shape, int64_t most,
                   const std::function<void(const Video&)>& take);

}  // namespace fpsa::io
