#include "fpsa/io/video_clips.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "fpsa/io/ffmpeg.h"
#include "fpsa/io/video_decoder.h"

namespace fpsa::io {
namespace {

// A scaled picture beyond this is no video but a strip: its long side would be cut away almost whole.
constexpr int64_t kMostScaledPixels = int64_t{1} << 26;
// swscale's vector code may write a few bytes behind a row.
constexpr size_t kRowSlack = 64;

// Scales a frame to cover the clip's picture and cuts the centre out.
class CoverScaler {
 public:
  CoverScaler(std::string path, int64_t height, int64_t width, int turns)
      : path_(std::move(path)), height_(height), width_(width), turns_(turns) {}

  /// Writes [height, width, 3].
  void write(const AVFrame& frame, uint8_t* out);

 private:
  void fit(const AVFrame& frame);

  std::string path_;
  int64_t height_, width_;  // of the clip
  int turns_;               // quarters, clockwise, that bring the coded picture upright
  int source_height_ = 0, source_width_ = 0, format_ = -1;
  AVRational aspect_ = {0, 1};
  int scaled_height_ = 0, scaled_width_ = 0;  // before it is turned
  FfmpegPtr<SwsContext> converter_;
  std::vector<uint8_t> scaled_;
};

void CoverScaler::fit(const AVFrame& frame) {
  const AVRational aspect = frame.sample_aspect_ratio;
  if (frame.height == source_height_ && frame.width == source_width_ && frame.format == format_ &&
      aspect.num == aspect_.num && aspect.den == aspect_.den)
    return;
  source_height_ = frame.height, source_width_ = frame.width, format_ = frame.format, aspect_ = aspect;
  const double shown_width = frame.width * (aspect.num > 0 && aspect.den > 0 ? av_q2d(aspect) : 1.0);
  const bool lies = turns_ % 2 == 1;
  const int64_t height = lies ? width_ : height_, width = lies ? height_ : width_;
  const double factor = std::max(static_cast<double>(height) / frame.height, static_cast<double>(width) / shown_width);
  const double scaled_height = std::max<double>(std::round(frame.height * factor), static_cast<double>(height));
  const double scaled_width = std::max<double>(std::round(shown_width * factor), static_cast<double>(width));
  FPSA_CHECK(scaled_height * scaled_width <= kMostScaledPixels, "cannot read '", path_, "': a picture of ", frame.width,
             "x", frame.height, " is too elongated to be cut to ", width_, "x", height_);
  scaled_height_ = static_cast<int>(scaled_height), scaled_width_ = static_cast<int>(scaled_width);
  const int kernel = factor < 1 ? SWS_AREA : SWS_BILINEAR;
  converter_.reset(sws_getContext(
      frame.width, frame.height, static_cast<AVPixelFormat>(frame.format), scaled_width_, scaled_height_,
      AV_PIX_FMT_RGB24, kernel | SWS_ACCURATE_RND | SWS_FULL_CHR_H_INT | SWS_BITEXACT, nullptr, nullptr, nullptr));
  FPSA_CHECK(converter_, "cannot read '", path_, "': no colour conversion from its pixel format");
  set_colours(*converter_, frame);
  scaled_.resize(static_cast<size_t>(scaled_height_) * static_cast<size_t>(scaled_width_) * 3 + kRowSlack);
}

void CoverScaler::write(const AVFrame& frame, uint8_t* out) {
  fit(frame);
  uint8_t* target[4] = {scaled_.data()};
  const int stride[4] = {scaled_width_ * 3};
  sws_scale(converter_.get(), frame.data, frame.linesize, 0, frame.height, target, stride);
  const bool lies = turns_ % 2 == 1;
  const int64_t first_y = (scaled_height_ - (lies ? width_ : height_)) / 2;
  const int64_t first_x = (scaled_width_ - (lies ? height_ : width_)) / 2;
  for (int64_t y = 0; y < height_; ++y)
    for (int64_t x = 0; x < width_; ++x, out += 3) {
      // Where the upright pixel lies in the coded picture: n quarters clockwise move coded (row, column) upright.
      int64_t row = y, column = x;
      if (turns_ == 1) row = width_ - 1 - x, column = y;
      if (turns_ == 2) row = height_ - 1 - y, column = width_ - 1 - x;
      if (turns_ == 3) row = x, column = height_ - 1 - y;
      std::memcpy(out, scaled_.data() + ((first_y + row) * scaled_width_ + first_x + column) * 3, 3);
    }
}

// Gathers the clips' frames from decoded frames with rising times.
class ClipCutter {
 public:
  ClipCutter(const std::filesystem::path& path, const ClipShape& shape, int64_t most,
             const std::function<void(const Video&)>& take)
      : decoder_(path),
        shape_(shape),
        most_(most),
        take_(take),
        scaler_(path.string(), shape.height, shape.width, decoder_.quarter_turns()) {
    clip_ = {shape.frames, shape.height, shape.width, shape.fps, {}};
    clip_.rgb.resize(static_cast<size_t>(shape.frames * clip_.frame_bytes()));
  }
  int64_t run();

 private:
  double time_of(const AVFrame& frame, double previous) const;
  bool full() const { return clips_ == most_; }
  void emit_until(double limit);

  VideoDecoder decoder_;
  ClipShape shape_;
  int64_t most_;
  const std::function<void(const Video&)>& take_;
  CoverScaler scaler_;
  FfmpegPtr<AVFrame> held_{av_frame_alloc()};  // the frame whose turn it is
  Video clip_;
  int64_t emitted_ = 0, clips_ = 0;
  bool scaled_held_ = false;  // held_ was written as the clips' last frame
};

double ClipCutter::time_of(const AVFrame& frame, double previous) const {
  const double time = decoder_.seconds(frame);
  if (time > previous) return time;
  // Without a usable time the frame follows the one before at the file's own rate.
  FPSA_CHECK(decoder_.rate() > 0, "cannot read '", decoder_.path(),
             "': expected times or a frame rate, found neither; put it into a container such as mp4");
  return std::isfinite(previous) ? previous + 1 / decoder_.rate() : 0.0;
}

// The held frame is every output frame's whose time lies before `limit` (after the first frame).
void ClipCutter::emit_until(double limit) {
  while (!full() && static_cast<double>(emitted_) / shape_.fps < limit) {
    const int64_t index = emitted_ % shape_.frames;
    uint8_t* target = clip_.rgb.data() + index * clip_.frame_bytes();
    if (scaled_held_ && index > 0)
      std::memcpy(target, target - clip_.frame_bytes(), static_cast<size_t>(clip_.frame_bytes()));
    else
      scaler_.write(*held_, target);
    scaled_held_ = true;
    ++emitted_;
    if (index + 1 < shape_.frames) continue;
    take_(clip_);
    ++clips_;
  }
}

int64_t ClipCutter::run() {
  FPSA_CHECK(held_, "out of memory while '", decoder_.path(), "' was read");
  constexpr double kNone = -std::numeric_limits<double>::infinity();
  // Times are read from integers of the container's own unit; a frame that is due belongs to the later neighbour when
  // both are as near, up to rounding.
  constexpr double kRounding = 1e-6;
  double first = 0, last = kNone, gap = decoder_.rate() > 0 ? 1 / decoder_.rate() : 0;
  while (!full()) {
    AVFrame* frame = decoder_.next();
    if (!frame) break;
    const double time = time_of(*frame, last);
    if (last == kNone) {
      first = time;
    } else {
      emit_until((last + time) / 2 - first - kRounding);
      if (decoder_.rate() <= 0) gap = time - last;
    }
    last = time;
    av_frame_unref(held_.get());
    av_frame_move_ref(held_.get(), frame);
    scaled_held_ = false;
  }
  FPSA_CHECK(full() || last != kNone, "cannot read '", decoder_.path(), "': expected at least one frame, found none");
  // The last frame is shown for as long as the others.
  if (!full()) emit_until(last + gap - first - kRounding);
  FPSA_CHECK(clips_ > 0, "'", decoder_.path(), "' is too short: expected ", shape_.frames, " frames at ", shape_.fps,
             " per second, received ", emitted_, "; use a longer video, fewer frames or a higher rate");
  return clips_;
}

}  // namespace

int64_t read_clips(const std::filesystem::path& path, const ClipShape& shape, int64_t most,
                   const std::function<void(const Video&)>& take) {
  FPSA_CHECK(shape.frames >= 1 && shape.height >= 1 && shape.width >= 1 && shape.fps > 0 && most >= 1,
             "a clip's frames, height, width, rate and number: expected all above 0, received ", shape.frames, ", ",
             shape.height, ", ", shape.width, ", ", shape.fps, " and ", most);
  const QuietFfmpeg quiet;
  return ClipCutter(path, shape, most, take).run();
}

}  // namespace fpsa::io
