#include <algorithm>

#include "fpsa/io/ffmpeg.h"
#include "fpsa/io/video.h"
#include "fpsa/io/video_decoder.h"

namespace fpsa::io {
namespace {

class WholeVideo {
 public:
  WholeVideo(const std::filesystem::path& path, const ReadLimits& limits) : decoder_(path), limits_(limits) {
    if (decoder_.rate() > 0) video_.fps = decoder_.rate();
  }
  Video decode();

 private:
  const std::string& path() const { return decoder_.path(); }
  void append(const AVFrame& frame);
  void open_converter(const AVFrame& frame);

  VideoDecoder decoder_;
  ReadLimits limits_;
  FfmpegPtr<SwsContext> converter_;
  AVPixelFormat format_ = AV_PIX_FMT_NONE;
  Video video_;
};

void WholeVideo::open_converter(const AVFrame& frame) {
  const int flags = SWS_BICUBIC | SWS_ACCURATE_RND | SWS_FULL_CHR_H_INT | SWS_BITEXACT;
  converter_.reset(sws_getContext(frame.width, frame.height, format_, frame.width, frame.height, AV_PIX_FMT_RGB24,
                                  flags, nullptr, nullptr, nullptr));
  FPSA_CHECK(converter_, "cannot read '", path(), "': no colour conversion from its pixel format");
  set_colours(*converter_, frame);
}

void WholeVideo::append(const AVFrame& frame) {
  if (video_.frames == 0) {
    video_.height = frame.height;
    video_.width = frame.width;
    format_ = static_cast<AVPixelFormat>(frame.format);
    open_converter(frame);
  }
  FPSA_CHECK(frame.height == video_.height && frame.width == video_.width && frame.format == format_, "cannot read '",
             path(), "': frame ", video_.frames, " changes size or pixel format: expected ", video_.width, "x",
             video_.height, ", received ", frame.width, "x", frame.height);
  const int64_t end = (video_.frames + 1) * video_.frame_bytes();
  FPSA_CHECK(end <= limits_.bytes, "cannot read '", path(), "': it decodes to more than the limit of ", limits_.bytes,
             " bytes; cut it or scale it down");
  video_.rgb.resize(static_cast<size_t>(end));
  // Packed RGB has one plane, but sws_scale reads four of each.
  uint8_t* target[4] = {video_.rgb.data() + video_.frames * video_.frame_bytes()};
  const int stride[4] = {static_cast<int>(video_.width * 3)};
  sws_scale(converter_.get(), frame.data, frame.linesize, 0, frame.height, target, stride);
  ++video_.frames;
}

Video WholeVideo::decode() {
  while (limits_.frames == 0 || video_.frames < limits_.frames) {
    const AVFrame* frame = decoder_.next();
    if (!frame) break;
    append(*frame);
  }
  FPSA_CHECK(video_.frames > 0, "cannot read '", path(), "': expected at least one frame, found none");
  return std::move(video_);
}

}  // namespace

Video read_video(const std::filesystem::path& path, const ReadLimits& limits) {
  const QuietFfmpeg quiet;
  return WholeVideo(path, limits).decode();
}

std::string read_comment(const std::filesystem::path& path) {
  const QuietFfmpeg quiet;
  const Demuxer demuxer = open_media(path);
  const AVDictionaryEntry* entry = av_dict_get(demuxer->metadata, "comment", nullptr, 0);
  return entry ? entry->value : "";
}

}  // namespace fpsa::io
