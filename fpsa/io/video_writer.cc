// frames -> swscale (RGB to BT.709 limited yuv420p) -> libx264 -> mp4 in memory -> AtomicFile.
//
// The container is built in memory because "faststart" reads back what it wrote: so a disk fault can only happen in
// AtomicFile, and a half-written mp4 never exists.
#include <algorithm>
#include <type_traits>

#include "fpsa/io/atomic_file.h"
#include "fpsa/io/ffmpeg.h"
#include "fpsa/io/video.h"

namespace fpsa::io {
namespace {

constexpr int kIoBufferBytes = 1 << 16;
// x264's output depends on its thread count. A fixed one makes the file the same on every machine; more than 4 gain
// nothing at the frame sizes of video diffusion.
constexpr int kEncoderThreads = 4;
constexpr int64_t kMaxExtent = 16384;  // H.264 level 6.2 ends below this

// A growing file in memory, behind FFmpeg's callbacks.
struct MemoryFile {
  std::vector<uint8_t> bytes;

  struct Cursor {
    MemoryFile* file;
    int64_t position = 0;
  };

  // FFmpeg 7 made the buffer const.
  using WriteBuffer = std::conditional_t<LIBAVFORMAT_VERSION_MAJOR >= 61, const uint8_t*, uint8_t*>;
  static int write(void* opaque, WriteBuffer data, int size) {
    auto* cursor = static_cast<Cursor*>(opaque);
    std::vector<uint8_t>& bytes = cursor->file->bytes;
    const auto end = static_cast<size_t>(cursor->position + size);
    if (bytes.size() < end) bytes.resize(end);
    std::copy(data, data + size, bytes.begin() + cursor->position);
    cursor->position += size;
    return size;
  }
  static int read(void* opaque, uint8_t* data, int size) {
    auto* cursor = static_cast<Cursor*>(opaque);
    const auto left = static_cast<int64_t>(cursor->file->bytes.size()) - cursor->position;
    const int count = static_cast<int>(std::min<int64_t>(size, left));
    if (count <= 0) return AVERROR_EOF;
    std::copy_n(cursor->file->bytes.begin() + cursor->position, count, data);
    cursor->position += count;
    return count;
  }
  static int64_t seek(void* opaque, int64_t offset, int whence) {
    auto* cursor = static_cast<Cursor*>(opaque);
    const auto size = static_cast<int64_t>(cursor->file->bytes.size());
    if (whence == AVSEEK_SIZE) return size;
    if (whence == SEEK_CUR) offset += cursor->position;
    if (whence == SEEK_END) offset += size;
    if (offset < 0) return AVERROR(EINVAL);
    cursor->position = offset;
    return offset;
  }
};

AVIOContext* open_memory(MemoryFile& file, bool writable) {
  auto* buffer = static_cast<unsigned char*>(av_malloc(kIoBufferBytes));
  auto* cursor = new MemoryFile::Cursor{&file};
  AVIOContext* io = avio_alloc_context(buffer, kIoBufferBytes, writable, cursor, &MemoryFile::read, &MemoryFile::write,
                                       &MemoryFile::seek);
  FPSA_CHECK(io, "out of memory while a video was written");
  return io;
}

void close_memory(AVIOContext* io) {
  delete static_cast<MemoryFile::Cursor*>(io->opaque);
  av_freep(&io->buffer);
  avio_context_free(&io);
}

// The muxer's request to read back its own output.
int reopen_memory(AVFormatContext* format, AVIOContext** io, const char*, int flags, AVDictionary**) {
  *io = open_memory(*static_cast<MemoryFile*>(format->opaque), flags & AVIO_FLAG_WRITE);
  return 0;
}

int close_reopened(AVFormatContext*, AVIOContext* io) {
  close_memory(io);
  return 0;
}

struct MuxerDeleter {
  void operator()(AVFormatContext* format) const {
    if (format->pb) close_memory(format->pb);
    avformat_free_context(format);
  }
};

class Mp4Encoder {
 public:
  Mp4Encoder(const std::filesystem::path& path, const Video& video, const Mp4Options& options);
  std::vector<uint8_t> encode(const Video& video);

 private:
  void check(int code, const char* action) const {
    FPSA_CHECK(code >= 0, "cannot write '", path_, "': ", action, ": ", ffmpeg_error(code));
  }
  void open_encoder(const Video& video, int crf);
  void open_converter();
  void drain();

  std::string path_;
  MemoryFile file_;
  std::unique_ptr<AVFormatContext, MuxerDeleter> muxer_;
  FfmpegPtr<AVCodecContext> encoder_;
  FfmpegPtr<SwsContext> converter_;
  FfmpegPtr<AVFrame> frame_;
  FfmpegPtr<AVPacket> packet_;
  AVStream* stream_ = nullptr;
};

Mp4Encoder::Mp4Encoder(const std::filesystem::path& path, const Video& video, const Mp4Options& options)
    : path_(path.string()) {
  AVFormatContext* format = nullptr;
  check(avformat_alloc_output_context2(&format, nullptr, "mp4", nullptr), "mp4 container");
  muxer_.reset(format);
  muxer_->opaque = &file_;
  muxer_->pb = open_memory(file_, true);
  muxer_->io_open = reopen_memory;
  muxer_->io_close2 = close_reopened;
  open_encoder(video, options.crf);
  open_converter();
  stream_ = avformat_new_stream(muxer_.get(), nullptr);
  FPSA_CHECK(stream_, "out of memory while a video was written");
  stream_->time_base = encoder_->time_base;
  stream_->avg_frame_rate = encoder_->framerate;
  check(avcodec_parameters_from_context(stream_->codecpar, encoder_.get()), "stream parameters");
  if (!options.comment.empty()) av_dict_set(&muxer_->metadata, "comment", options.comment.c_str(), 0);
  AVDictionary* flags = nullptr;
  av_dict_set(&flags, "movflags", "+faststart", 0);
  const int written = avformat_write_header(muxer_.get(), &flags);
  av_dict_free(&flags);
  check(written, "mp4 header");
}

void Mp4Encoder::open_encoder(const Video& video, int crf) {
  const AVCodec* codec = avcodec_find_encoder_by_name("libx264");
  FPSA_CHECK(codec, "cannot write '", path_,
             "': this FFmpeg has no libx264 encoder; install the distribution's libavcodec with x264 "
             "(Debian: apt install libavcodec-extra)");
  encoder_.reset(avcodec_alloc_context3(codec));
  FPSA_CHECK(encoder_, "out of memory while a video was written");
  encoder_->width = static_cast<int>(video.width);
  encoder_->height = static_cast<int>(video.height);
  encoder_->pix_fmt = AV_PIX_FMT_YUV420P;
  encoder_->framerate = av_d2q(video.fps, 1'001'000);  // holds 24000/1001 and its kin exactly
  encoder_->time_base = av_inv_q(encoder_->framerate);
  encoder_->color_range = AVCOL_RANGE_MPEG;
  encoder_->color_primaries = AVCOL_PRI_BT709;
  encoder_->color_trc = AVCOL_TRC_BT709;
  encoder_->colorspace = AVCOL_SPC_BT709;
  encoder_->thread_count = kEncoderThreads;
  encoder_->flags |= AV_CODEC_FLAG_GLOBAL_HEADER;  // mp4 keeps the parameter sets in its header
  av_opt_set_int(encoder_->priv_data, "crf", crf, 0);
  // x264's macroblock tree reads memory that it has not written when it runs on AVX-512 (seen with build 164, mostly in
  // small frames): the same frames then give other bytes from run to run.
  av_opt_set_int(encoder_->priv_data, "mbtree", 0, 0);
  check(avcodec_open2(encoder_.get(), codec, nullptr), "H.264 encoder");
}

void Mp4Encoder::open_converter() {
  // Accurate rounding and bit-exact paths: the default ones differ between instruction sets.
  const int flags = SWS_BICUBIC | SWS_ACCURATE_RND | SWS_FULL_CHR_H_INP | SWS_BITEXACT;
  converter_.reset(sws_getContext(encoder_->width, encoder_->height, AV_PIX_FMT_RGB24, encoder_->width,
                                  encoder_->height, AV_PIX_FMT_YUV420P, flags, nullptr, nullptr, nullptr));
  FPSA_CHECK(converter_, "cannot write '", path_, "': no colour conversion for this size");
  const int* bt709 = sws_getCoefficients(SWS_CS_ITU709);
  const int full_range = 1, limited_range = 0, neutral = 1 << 16;
  sws_setColorspaceDetails(converter_.get(), bt709, full_range, bt709, limited_range, 0, neutral, neutral);
  frame_.reset(av_frame_alloc());
  packet_.reset(av_packet_alloc());
  FPSA_CHECK(frame_ && packet_, "out of memory while a video was written");
  frame_->format = AV_PIX_FMT_YUV420P;
  frame_->width = encoder_->width;
  frame_->height = encoder_->height;
  check(av_frame_get_buffer(frame_.get(), 0), "frame buffer");
}

void Mp4Encoder::drain() {
  for (;;) {
    const int received = avcodec_receive_packet(encoder_.get(), packet_.get());
    if (received == AVERROR(EAGAIN) || received == AVERROR_EOF) return;
    check(received, "H.264 packet");
    packet_->duration = 1;  // one frame: without it the last frame is shown for no time
    av_packet_rescale_ts(packet_.get(), encoder_->time_base, stream_->time_base);
    packet_->stream_index = stream_->index;
    check(av_interleaved_write_frame(muxer_.get(), packet_.get()), "mp4 packet");
  }
}

std::vector<uint8_t> Mp4Encoder::encode(const Video& video) {
  for (int64_t i = 0; i < video.frames; ++i) {
    check(av_frame_make_writable(frame_.get()), "frame buffer");
    // Packed RGB has one plane, but sws_scale reads four of each.
    const uint8_t* source[4] = {video.frame(i).data()};
    const int stride[4] = {static_cast<int>(video.width * 3)};
    sws_scale(converter_.get(), source, stride, 0, encoder_->height, frame_->data, frame_->linesize);
    frame_->pts = i;
    check(avcodec_send_frame(encoder_.get(), frame_.get()), "H.264 frame");
    drain();
  }
  check(avcodec_send_frame(encoder_.get(), nullptr), "H.264 end");
  drain();
  check(av_write_trailer(muxer_.get()), "mp4 index");
  avio_flush(muxer_->pb);
  return std::move(file_.bytes);
}

}  // namespace

void write_mp4(const std::filesystem::path& path, const Video& video, const Mp4Options& options) {
  FPSA_CHECK(video.frames >= 1 && video.height >= 1 && video.width >= 1, "cannot write '", path.string(),
             "': expected at least one frame and pixel, received ", video.frames, " frames of ", video.width, "x",
             video.height);
  FPSA_CHECK(video.height % 2 == 0 && video.width % 2 == 0, "cannot write '", path.string(),
             "': H.264 yuv420p needs an even width and height, received ", video.width, "x", video.height,
             "; choose an even size or write PNG frames");
  FPSA_CHECK(video.height <= kMaxExtent && video.width <= kMaxExtent, "cannot write '", path.string(),
             "': expected at most ", kMaxExtent, " pixels per side, received ", video.width, "x", video.height);
  FPSA_CHECK(video.fps > 0 && video.fps <= 1000, "cannot write '", path.string(),
             "': expected fps in (0, 1000], received ", video.fps);
  FPSA_CHECK(options.crf >= 0 && options.crf <= 51, "cannot write '", path.string(),
             "': expected crf in [0, 51], received ", options.crf);
  FPSA_CHECK(static_cast<int64_t>(video.rgb.size()) == video.frames * video.frame_bytes(), "cannot write '",
             path.string(), "': expected ", video.frames * video.frame_bytes(), " bytes of pixels, received ",
             video.rgb.size());
  AtomicFile file(path);  // before the encoder: a path that cannot be written fails at once
  const QuietFfmpeg quiet;
  const std::vector<uint8_t> bytes = Mp4Encoder(path, video, options).encode(video);
  file.write(bytes.data(), bytes.size());
  file.commit();
}

}  // namespace fpsa::io
