#include "fpsa/io/video.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "fpsa/base/check.h"
#include "tests/io/scratch.h"

namespace fpsa::io {
namespace {

using testing::count_files;
using testing::error_of;
using testing::read_raw;
using testing::ScratchFolder;
using testing::write_raw;

// A smooth picture with a moving bright disc: what a diffusion video looks like to an encoder.
Video moving_disc(int64_t frames, int64_t height, int64_t width, double fps = 16) {
  Video video{frames, height, width, fps, {}};
  for (int64_t t = 0; t < frames; ++t)
    for (int64_t y = 0; y < height; ++y)
      for (int64_t x = 0; x < width; ++x) {
        const double distance = std::hypot(x - 8.0 - 2.0 * t, y - height / 2.0);
        const double inside = std::clamp(10.0 - distance, 0.0, 1.0);
        video.rgb.push_back(static_cast<uint8_t>(40 + 100 * x / width + 80 * inside));
        video.rgb.push_back(static_cast<uint8_t>(90 + 60 * y / height));
        video.rgb.push_back(static_cast<uint8_t>(150 - 100 * inside));
      }
  return video;
}

double psnr(const Video& a, const Video& b) {
  EXPECT_EQ(a.rgb.size(), b.rgb.size());
  double sum = 0;
  for (size_t i = 0; i < a.rgb.size(); ++i)
    sum += std::pow(double(a.rgb[i]) - double(b.rgb[i]), 2);
  return 10 * std::log10(255.0 * 255.0 * static_cast<double>(a.rgb.size()) / sum);
}

TEST(Mp4, RoundTripKeepsPicturesSizeRateAndComment) {
  ScratchFolder scratch;
  const Video video = moving_disc(17, 64, 96);
  const std::string comment = R"({"prompt":"a red circle \"moves\"","seed":7,"name":"圆"})";
  write_mp4(scratch / "a.mp4", video, {.crf = 18, .comment = comment});
  const Video back = read_video(scratch / "a.mp4");
  EXPECT_EQ(back.frames, 17);
  EXPECT_EQ(back.height, 64);
  EXPECT_EQ(back.width, 96);
  EXPECT_NEAR(back.fps, 16.0, 1e-9);
  EXPECT_GT(psnr(video, back), 36.0);
  EXPECT_EQ(read_comment(scratch / "a.mp4"), comment);
  EXPECT_EQ(count_files(scratch.path()), 1u);
}

TEST(Mp4, FlatColoursComeBackWithinTwoCodes) {
  ScratchFolder scratch;
  for (const auto& [r, g, b] : {std::tuple{225, 45, 45}, {45, 180, 70}, {50, 85, 230}, {14, 14, 18}, {255, 255, 255}}) {
    Video video{3, 32, 32, 16, {}};
    for (int i = 0; i < 3 * 32 * 32; ++i)
      for (int c : {r, g, b})
        video.rgb.push_back(static_cast<uint8_t>(c));
    write_mp4(scratch / "a.mp4", video, {.crf = 1, .comment = ""});
    const Video back = read_video(scratch / "a.mp4");
    for (size_t c = 0; c < 3; ++c)
      EXPECT_NEAR(back.rgb[3 * (16 * 32 + 16) + c], video.rgb[c], 2);
  }
}

TEST(Mp4, TheIndexStandsInFrontOfTheData) {
  ScratchFolder scratch;
  write_mp4(scratch / "a.mp4", moving_disc(5, 32, 32));
  const std::string file = read_raw(scratch / "a.mp4");
  EXPECT_EQ(file.substr(4, 4), "ftyp");
  EXPECT_LT(file.find("moov"), file.find("mdat"));
}

TEST(Mp4, SameFramesGiveSameBytes) {
  ScratchFolder scratch;
  const Video video = moving_disc(5, 34, 18);
  write_mp4(scratch / "a.mp4", video);
  const std::string first = read_raw(scratch / "a.mp4");
  // Many times over a heap that does not stay clean: an encoder that reads what it has not written shows itself.
  for (int i = 0; i < 40; ++i) {
    std::vector<char> rubbish(1 << 20, static_cast<char>(i));
    rubbish.clear();
    rubbish.shrink_to_fit();
    write_mp4(scratch / "b.mp4", video);
    ASSERT_TRUE(read_raw(scratch / "b.mp4") == first) << "encoding " << i;
  }
}

TEST(Mp4, OneFrameTinySizesAndFractionalRatesWork) {
  ScratchFolder scratch;
  write_mp4(scratch / "one.mp4", moving_disc(1, 16, 16));
  EXPECT_EQ(read_video(scratch / "one.mp4").frames, 1);
  write_mp4(scratch / "tiny.mp4", moving_disc(3, 2, 2));
  EXPECT_EQ(read_video(scratch / "tiny.mp4").width, 2);
  write_mp4(scratch / "ntsc.mp4", moving_disc(4, 34, 18, 24000.0 / 1001.0));
  const Video back = read_video(scratch / "ntsc.mp4");
  EXPECT_NEAR(back.fps, 24000.0 / 1001.0, 1e-6);
  EXPECT_EQ(back.height, 34);
  EXPECT_EQ(back.frames, 4);
}

TEST(Mp4, BadRequestsAreRefused) {
  ScratchFolder scratch;
  const auto message = [&](const Video& video, Mp4Options options = {}) {
    return error_of<Error>([&] { write_mp4(scratch / "a.mp4", video, options); });
  };
  FPSA_EXPECT_CONTAINS(message(moving_disc(2, 31, 32)), "even width and height, received 32x31");
  FPSA_EXPECT_CONTAINS(message(moving_disc(2, 32, 31)), "even width and height, received 31x32");
  FPSA_EXPECT_CONTAINS(message(Video{}), "at least one frame");
  FPSA_EXPECT_CONTAINS(message(Video{1, 20000, 2, 16, {}}), "at most 16384");
  FPSA_EXPECT_CONTAINS(message(Video{1, 2, 2, 0, std::vector<uint8_t>(12)}), "expected fps");
  FPSA_EXPECT_CONTAINS(message(Video{1, 2, 2, NAN, std::vector<uint8_t>(12)}), "expected fps");
  FPSA_EXPECT_CONTAINS(message(Video{1, 2, 2, 16, std::vector<uint8_t>(11)}), "expected 12 bytes");
  FPSA_EXPECT_CONTAINS(message(moving_disc(1, 16, 16), {.crf = 52, .comment = ""}), "expected crf");
  EXPECT_EQ(count_files(scratch.path()), 0u);
}

TEST(Mp4, AnUnwritableOutputIsNamedAndAnOlderFileSurvives) {
  ScratchFolder scratch;
  const Video video = moving_disc(3, 32, 32);
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] { write_mp4(scratch / "no/a.mp4", video); }), "create the folder first");
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] { write_mp4("/dev/full", video); }), "No space left on device");
  write_raw(scratch / "a.mp4", "older");
  EXPECT_THROW(write_mp4(scratch / "a.mp4", Video{3, 32, 32, 16, {}}), Error);
  EXPECT_EQ(read_raw(scratch / "a.mp4"), "older");
  EXPECT_EQ(count_files(scratch.path()), 1u);
}

TEST(ReadVideo, StopsAtTheFrameLimit) {
  ScratchFolder scratch;
  const Video video = moving_disc(9, 32, 32);
  write_mp4(scratch / "a.mp4", video);
  EXPECT_EQ(read_video(scratch / "a.mp4", {.frames = 4}).frames, 4);
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] { read_video(scratch / "a.mp4", {.frames = 0, .bytes = 32 * 32 * 3 * 5}); }),
                       "more than the limit");
}

TEST(ReadVideo, DamagedFilesAreErrors) {
  ScratchFolder scratch;
  write_mp4(scratch / "a.mp4", moving_disc(9, 64, 64));
  const std::string whole = read_raw(scratch / "a.mp4");
  for (size_t size : {size_t{0}, size_t{10}, whole.size() / 4})
    EXPECT_THROW(read_video(write_raw(scratch / "cut.mp4", whole.substr(0, size))), Error) << size;
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] { read_video(scratch / "none.mp4"); }), "no such file");
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] { read_video(scratch.path()); }), "not a regular file");
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] { read_video(write_raw(scratch / "text", "not a video")); }), "as a video");
}

}  // namespace
}  // namespace fpsa::io
