#include <algorithm>

#include "fpsa/io/ffmpeg.h"
#include "fpsa/io/video.h"

namespace fpsa::io {
namespace {

struct DemuxerDeleter {
  void operator()(AVFormatContext* format) const { avformat_close_input(&format); }
};
using Demuxer = std::unique_ptr<AVFormatContext, DemuxerDeleter>;

Demuxer open_media(const std::filesystem::path& path) {
  std::error_code ignored;
  FPSA_CHECK(std::filesystem::exists(path, ignored), "cannot read '", path.string(), "': no such file");
  FPSA_CHECK(std::filesystem::is_regular_file(path, ignored), "cannot read '", path.string(), "': not a regular file");
  // The prefix keeps FFmpeg from taking the name for a URL; the whitelist keeps playlists from reaching the network.
  AVDictionary* options = nullptr;
  av_dict_set(&options, "protocol_whitelist", "file", 0);
  AVFormatContext* format = nullptr;
  const int opened = avformat_open_input(&format, ("file:" + path.string()).c_str(), nullptr, &options);
  av_dict_free(&options);
  FPSA_CHECK(opened >= 0, "cannot read '", path.string(), "' as a video: ", ffmpeg_error(opened));
  Demuxer demuxer(format);
  const int probed = avformat_find_stream_info(format, nullptr);
  FPSA_CHECK(probed >= 0, "cannot read '", path.string(), "' as a video: ", ffmpeg_error(probed));
  return demuxer;
}

class VideoDecoder {
 public:
  VideoDecoder(const std::filesystem::path& path, const ReadLimits& limits);
  Video decode();

 private:
  void check(int code, const char* action) const {
    FPSA_CHECK(code >= 0, "cannot read '", path_, "': ", action, ": ", ffmpeg_error(code));
  }
  bool full() const { return limits_.frames > 0 && video_.frames >= limits_.frames; }
  void receive();
  void append();
  void open_converter();

  std::string path_;
  ReadLimits limits_;
  Demuxer demuxer_;
  AVStream* stream_ = nullptr;
  FfmpegPtr<AVCodecContext> decoder_;
  FfmpegPtr<SwsContext> converter_;
  FfmpegPtr<AVFrame> frame_{av_frame_alloc()};
  FfmpegPtr<AVPacket> packet_{av_packet_alloc()};
  AVPixelFormat format_ = AV_PIX_FMT_NONE;
  Video video_;
};

VideoDecoder::VideoDecoder(const std::filesystem::path& path, const ReadLimits& limits)
    : path_(path.string()), limits_(limits), demuxer_(open_media(path)) {
  FPSA_CHECK(frame_ && packet_, "out of memory while '", path_, "' was read");
  const AVCodec* codec = nullptr;
  const int index = av_find_best_stream(demuxer_.get(), AVMEDIA_TYPE_VIDEO, -1, -1, &codec, 0);
  FPSA_CHECK(index >= 0 && codec, "cannot read '", path_, "': expected a video stream that FFmpeg decodes, found none");
  stream_ = demuxer_->streams[index];
  decoder_.reset(avcodec_alloc_context3(codec));
  FPSA_CHECK(decoder_, "out of memory while '", path_, "' was read");
  check(avcodec_parameters_to_context(decoder_.get(), stream_->codecpar), "stream parameters");
  check(avcodec_open2(decoder_.get(), codec, nullptr), "decoder");
  const AVRational rate = av_guess_frame_rate(demuxer_.get(), stream_, nullptr);
  if (rate.num > 0 && rate.den > 0) video_.fps = av_q2d(rate);
}

void VideoDecoder::open_converter() {
  const int flags = SWS_BICUBIC | SWS_ACCURATE_RND | SWS_FULL_CHR_H_INT | SWS_BITEXACT;
  converter_.reset(sws_getContext(frame_->width, frame_->height, format_, frame_->width, frame_->height,
                                  AV_PIX_FMT_RGB24, flags, nullptr, nullptr, nullptr));
  FPSA_CHECK(converter_, "cannot read '", path_, "': no colour conversion from its pixel format");
  int space = frame_->colorspace;
  if (space == AVCOL_SPC_UNSPECIFIED) space = frame_->height >= 720 ? AVCOL_SPC_BT709 : AVCOL_SPC_SMPTE170M;
  const bool full_range = frame_->color_range == AVCOL_RANGE_JPEG;
  const int neutral = 1 << 16;
  sws_setColorspaceDetails(converter_.get(), sws_getCoefficients(space), full_range, sws_getCoefficients(SWS_CS_ITU709),
                           1, 0, neutral, neutral);
}

void VideoDecoder::append() {
  if (video_.frames == 0) {
    video_.height = frame_->height;
    video_.width = frame_->width;
    format_ = static_cast<AVPixelFormat>(frame_->format);
    open_converter();
  }
  FPSA_CHECK(frame_->height == video_.height && frame_->width == video_.width && frame_->format == format_,
             "cannot read '", path_, "': frame ", video_.frames, " changes size or pixel format: expected ",
             video_.width, "x", video_.height, ", received ", frame_->width, "x", frame_->height);
  const int64_t end = (video_.frames + 1) * video_.frame_bytes();
  FPSA_CHECK(end <= limits_.bytes, "cannot read '", path_, "': it decodes to more than the limit of ", limits_.bytes,
             " bytes; cut it or scale it down");
  video_.rgb.resize(static_cast<size_t>(end));
  // Packed RGB has one plane, but sws_scale reads four of each.
  uint8_t* target[4] = {video_.rgb.data() + video_.frames * video_.frame_bytes()};
  const int stride[4] = {static_cast<int>(video_.width * 3)};
  sws_scale(converter_.get(), frame_->data, frame_->linesize, 0, frame_->height, target, stride);
  ++video_.frames;
}

void VideoDecoder::receive() {
  while (!full()) {
    const int received = avcodec_receive_frame(decoder_.get(), frame_.get());
    if (received == AVERROR(EAGAIN) || received == AVERROR_EOF) return;
    check(received, "damaged frame");
    append();
  }
}

Video VideoDecoder::decode() {
  for (int read = 0; !full();) {
    read = av_read_frame(demuxer_.get(), packet_.get());
    if (read == AVERROR_EOF) break;
    check(read, "damaged file");
    if (packet_->stream_index == stream_->index) {
      check(avcodec_send_packet(decoder_.get(), packet_.get()), "damaged packet");
      receive();
    }
    av_packet_unref(packet_.get());
  }
  if (!full()) {
    check(avcodec_send_packet(decoder_.get(), nullptr), "end of stream");
    receive();
  }
  FPSA_CHECK(video_.frames > 0, "cannot read '", path_, "': expected at least one frame, found none");
  return std::move(video_);
}

}  // namespace

Video read_video(const std::filesystem::path& path, const ReadLimits& limits) {
  const QuietFfmpeg quiet;
  return VideoDecoder(path, limits).decode();
}

std::string read_comment(const std::filesystem::path& path) {
  const QuietFfmpeg quiet;
  const Demuxer demuxer = open_media(path);
  const AVDictionaryEntry* entry = av_dict_get(demuxer->metadata, "comment", nullptr, 0);
  return entry ? entry->value : "";
}

}  // namespace fpsa::io
