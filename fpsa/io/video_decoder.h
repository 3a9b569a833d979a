// One file's first video stream, decoded frame by frame. Private to this room.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "fpsa/io/ffmpeg.h"

namespace fpsa::io {

struct DemuxerDeleter {
  void operator()(AVFormatContext* format) const { avformat_close_input(&format); }
};
using Demuxer = std::unique_ptr<AVFormatContext, DemuxerDeleter>;

/// Opens a local media file.
///   Errors    fpsa::Error: no such file, not a regular file, nothing that FFmpeg understands
Demuxer open_media(const std::filesystem::path& path);

/// Tells the converter which matrix and range the frame's colours have: its tags, else BT.709 from 720 lines on and
/// BT.601 below.
void set_colours(SwsContext& converter, const AVFrame& frame);

class VideoDecoder {
 public:
  ///   Errors    open_media's; no stream that FFmpeg decodes
  explicit VideoDecoder(const std::filesystem::path& path);

  /// The next frame in display order, valid until the next call; null at the end.
  ///   Errors    fpsa::Error: damaged packets or frames
  AVFrame* next();

  /// Frames per second as the container has them, or as FFmpeg guesses; 0 when it knows none.
  double rate() const { return rate_; }
  /// When the frame is shown, in seconds; not a number when the file does not say.
  double seconds(const AVFrame& frame) const;
  /// Quarter turns, clockwise, that bring the picture upright: the container's rotation tag, 0 to 3.
  int quarter_turns() const;
  const std::string& path() const { return path_; }

 private:
  void check(int code, const char* action) const;

  std::string path_;
  Demuxer demuxer_;
  AVStream* stream_ = nullptr;
  FfmpegPtr<AVCodecContext> decoder_;
  FfmpegPtr<AVFrame> frame_{av_frame_alloc()};
  FfmpegPtr<AVPacket> packet_{av_packet_alloc()};
  double rate_ = 0;
  bool flushed_ = false;
};

}  // namespace fpsa::io
