// Video files: H.264 mp4 out, anything FFmpeg opens in.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

namespace fpsa::io {

/// 8-bit sRGB frames, [frames, height, width, 3].
struct Video {
  int64_t frames = 0, height = 0, width = 0;
  double fps = 16.0;
  std::vector<uint8_t> rgb;

  int64_t frame_bytes() const { return height * width * 3; }
  std::span<const uint8_t> frame(int64_t index) const {
    return {rgb.data() + index * frame_bytes(), static_cast<size_t>(frame_bytes())};
  }
};

struct Mp4Options {
  int crf = 18;         // x264's constant rate factor: 0 lossless, 18 visually clean, 51 worst
  std::string comment;  // stored in the container's metadata; the engine puts its parameters there as JSON
};

/// Writes an H.264 yuv420p mp4 (BT.709 limited range, index in front for streaming), atomically.
///   Requires  at least one frame; even height and width (yuv420p halves both); fps in (0, 1000]
///   Edges     the whole file is assembled in memory before the disk is touched; encoding does not depend on the number
///             of cores, so the same frames give the same bytes with the same FFmpeg
///   Errors    fpsa::Error: odd or oversize frames, a missing encoder, an unwritable path, a full disk
void write_mp4(const std::filesystem::path& path, const Video& video, const Mp4Options& options = {});

/// What read_video may refuse to load.
struct ReadLimits {
  int64_t frames = 0;                // stop after so many; 0 reads all
  int64_t bytes = int64_t{8} << 30;  // of decoded pixels
};

/// Decodes the first video stream of a local file to RGB.
///   Edges     rotation tags are ignored; untagged colour counts as BT.709 from 720 lines, BT.601 below
///   Errors    fpsa::Error: no such file, no video stream, damaged data, frames that change size, more than the limit
Video read_video(const std::filesystem::path& path, const ReadLimits& limits = {});

/// The `comment` tag of a media file; empty when there is none.
std::string read_comment(const std::filesystem::path& path);

}  // namespace fpsa::io
