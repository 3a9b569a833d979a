// Ownership and errors for FFmpeg's C objects. Private to this room.
#pragma once

extern "C" {
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/imgutils.h>
#include <libavutil/opt.h>
#include <libswscale/swscale.h>
}

#include <memory>
#include <string>

#include "fpsa/base/check.h"

namespace fpsa::io {

struct FfmpegDeleter {
  void operator()(AVCodecContext* p) const { avcodec_free_context(&p); }
  void operator()(AVFrame* p) const { av_frame_free(&p); }
  void operator()(AVPacket* p) const { av_packet_free(&p); }
  void operator()(SwsContext* p) const { sws_freeContext(p); }
};
template <class T>
using FfmpegPtr = std::unique_ptr<T, FfmpegDeleter>;

/// Silences FFmpeg's and x264's own printing while it lives: a library never prints. The level is process wide.
class QuietFfmpeg {
 public:
  QuietFfmpeg() : saved_(av_log_get_level()) { av_log_set_level(AV_LOG_QUIET); }
  ~QuietFfmpeg() { av_log_set_level(saved_); }
  QuietFfmpeg(const QuietFfmpeg&) = delete;
  QuietFfmpeg& operator=(const QuietFfmpeg&) = delete;

 private:
  int saved_;
};

inline std::string ffmpeg_error(int code) {
  char text[AV_ERROR_MAX_STRING_SIZE] = {};
  av_strerror(code, text, sizeof text);
  return text;
}

}  // namespace fpsa::io
