#include "fpsa/io/video_decoder.h"

#include <cmath>
#include <limits>

extern "C" {
#include <libavutil/display.h>
}

namespace fpsa::io {

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

void set_colours(SwsContext& converter, const AVFrame& frame) {
  int space = frame.colorspace;
  if (space == AVCOL_SPC_UNSPECIFIED) space = frame.height >= 720 ? AVCOL_SPC_BT709 : AVCOL_SPC_SMPTE170M;
  const bool full_range = frame.color_range == AVCOL_RANGE_JPEG;
  const int neutral = 1 << 16;
  sws_setColorspaceDetails(&converter, sws_getCoefficients(space), full_range, sws_getCoefficients(SWS_CS_ITU709), 1, 0,
                           neutral, neutral);
}

VideoDecoder::VideoDecoder(const std::filesystem::path& path) : path_(path.string()), demuxer_(open_media(path)) {
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
  if (rate.num > 0 && rate.den > 0) rate_ = av_q2d(rate);
}

void VideoDecoder::check(int code, const char* action) const {
  FPSA_CHECK(code >= 0, "cannot read '", path_, "': ", action, ": ", ffmpeg_error(code));
}

double VideoDecoder::seconds(const AVFrame& frame) const {
  if (frame.best_effort_timestamp == AV_NOPTS_VALUE) return std::numeric_limits<double>::quiet_NaN();
  return static_cast<double>(frame.best_effort_timestamp) * av_q2d(stream_->time_base);
}

int VideoDecoder::quarter_turns() const {
  const uint8_t* matrix = nullptr;
#if LIBAVCODEC_VERSION_MAJOR >= 61
  const AVPacketSideData* side = av_packet_side_data_get(
      stream_->codecpar->coded_side_data, stream_->codecpar->nb_coded_side_data, AV_PKT_DATA_DISPLAYMATRIX);
  if (side) matrix = side->data;
#else
  matrix = av_stream_get_side_data(stream_, AV_PKT_DATA_DISPLAYMATRIX, nullptr);
#endif
  if (!matrix) return 0;
  // FFmpeg gives the tag's angle counterclockwise, and not a number for a matrix that is no rotation.
  const double degrees = -av_display_rotation_get(reinterpret_cast<const int32_t*>(matrix));
  if (!std::isfinite(degrees)) return 0;
  return static_cast<int>(std::lround(degrees / 90) % 4 + 4) % 4;
}

AVFrame* VideoDecoder::next() {
  for (;;) {
    const int received = avcodec_receive_frame(decoder_.get(), frame_.get());
    if (received == AVERROR_EOF) return nullptr;
    if (received != AVERROR(EAGAIN)) {
      check(received, "damaged frame");
      // Of container and codec, as players take it.
      frame_->sample_aspect_ratio = av_guess_sample_aspect_ratio(demuxer_.get(), stream_, frame_.get());
      return frame_.get();
    }
    FPSA_CHECK(!flushed_, "cannot read '", path_, "': the decoder asks for data after the end");
    const int read = av_read_frame(demuxer_.get(), packet_.get());
    if (read == AVERROR_EOF) {
      check(avcodec_send_packet(decoder_.get(), nullptr), "end of stream");
      flushed_ = true;
      continue;
    }
    check(read, "damaged file");
    const bool ours = packet_->stream_index == stream_->index;
    const int sent = ours ? avcodec_send_packet(decoder_.get(), packet_.get()) : 0;
    av_packet_unref(packet_.get());
    check(sent, "damaged packet");
  }
}

}  // namespace fpsa::io
