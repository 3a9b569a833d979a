#include "fpsa/io/video_clips.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "fpsa/base/check.h"
#include "tests/io/scratch.h"

namespace fpsa::io {
namespace {

using testing::error_of;
using testing::read_raw;
using testing::ScratchFolder;
using testing::write_raw;

// Lossy coding and colour subsampling move flat areas by at most this many codes (see video_test.cc: 2, plus scaling).
constexpr int kCodes = 4;

// Frame t is flat gray 20 + 10 t, so that a frame tells its own number.
Video counting(int64_t frames, int64_t height, int64_t width, double fps) {
  Video video{frames, height, width, fps, {}};
  for (int64_t t = 0; t < frames; ++t)
    video.rgb.insert(video.rgb.end(), static_cast<size_t>(height * width * 3), static_cast<uint8_t>(20 + 10 * t));
  return video;
}

// Left third red, right third blue, upper quarter of the middle white, the rest of it green.
Video flag(int64_t frames, int64_t height, int64_t width) {
  Video video{frames, height, width, 16, {}};
  for (int64_t t = 0; t < frames; ++t)
    for (int64_t y = 0; y < height; ++y)
      for (int64_t x = 0; x < width; ++x) {
        const bool left = x < width / 3, right = x >= width - width / 3, top = y < height / 4;
        const bool white = !left && !right && top;
        video.rgb.push_back(left || white ? 230 : 20);
        video.rgb.push_back(white || (!left && !right) ? 230 : 20);
        video.rgb.push_back(right || white ? 230 : 20);
      }
  return video;
}

std::vector<Video> clips_of(const std::filesystem::path& path, const ClipShape& shape, int64_t most) {
  std::vector<Video> out;
  const int64_t count = read_clips(path, shape, most, [&](const Video& clip) { out.push_back(clip); });
  EXPECT_EQ(count, static_cast<int64_t>(out.size()));
  return out;
}

int gray_at(const Video& video, int64_t frame) {
  return video.frame(frame)[static_cast<size_t>(3 * (video.height / 2 * video.width + video.width / 2))];
}

void expect_frames(const Video& clip, const std::vector<int>& numbers) {
  ASSERT_EQ(clip.frames, static_cast<int64_t>(numbers.size()));
  for (size_t k = 0; k < numbers.size(); ++k)
    EXPECT_NEAR(gray_at(clip, static_cast<int64_t>(k)), 20 + 10 * numbers[k], kCodes) << "frame " << k;
}

void expect_colour(const Video& clip, int64_t y, int64_t x, std::array<int, 3> rgb) {
  for (size_t c = 0; c < 3; ++c)
    EXPECT_NEAR(clip.frame(0)[static_cast<size_t>(3 * (y * clip.width + x)) + c], rgb[c], 25)
        << "(" << y << ", " << x << ") channel " << c;
}

constexpr std::array<int, 3> kRed = {230, 20, 20}, kGreen = {20, 230, 20}, kBlue = {20, 20, 230},
                             kWhite = {230, 230, 230};

TEST(ReadClips, TheSameRateAndSizeGiveEveryFrame) {
  ScratchFolder scratch;
  write_mp4(scratch / "a.mp4", counting(9, 32, 32, 16), {.crf = 1, .comment = ""});
  const auto clips = clips_of(scratch / "a.mp4", {9, 32, 32, 16}, 4);
  ASSERT_EQ(clips.size(), 1u);
  EXPECT_EQ(clips[0].fps, 16);
  expect_frames(clips[0], {0, 1, 2, 3, 4, 5, 6, 7, 8});
}

TEST(ReadClips, OtherRatesTakeTheNearestFrameInTime) {
  ScratchFolder scratch;
  write_mp4(scratch / "slow.mp4", counting(5, 32, 32, 8), {.crf = 1, .comment = ""});
  // 16 of 8 per second: every second one lies halfway, which is the later frame's; the last is shown as long as others.
  expect_frames(clips_of(scratch / "slow.mp4", {10, 32, 32, 16}, 1)[0], {0, 1, 1, 2, 2, 3, 3, 4, 4, 4});
  write_mp4(scratch / "fast.mp4", counting(20, 32, 32, 25), {.crf = 1, .comment = ""});
  // 10 of 25 per second: 2.5 frames apart.
  expect_frames(clips_of(scratch / "fast.mp4", {8, 32, 32, 10}, 1)[0], {0, 3, 5, 8, 10, 13, 15, 18});
}

TEST(ReadClips, ClipsFollowOneAnotherAndTheRemainderIsDropped) {
  ScratchFolder scratch;
  write_mp4(scratch / "a.mp4", counting(14, 32, 32, 16), {.crf = 1, .comment = ""});
  const auto clips = clips_of(scratch / "a.mp4", {5, 32, 32, 16}, 9);
  ASSERT_EQ(clips.size(), 2u);
  expect_frames(clips[0], {0, 1, 2, 3, 4});
  expect_frames(clips[1], {5, 6, 7, 8, 9});
  EXPECT_EQ(clips_of(scratch / "a.mp4", {5, 32, 32, 16}, 1).size(), 1u);
}

TEST(ReadClips, ThePictureCoversTheClipAndIsCutAtTheCentre) {
  ScratchFolder scratch;
  write_mp4(scratch / "a.mp4", flag(1, 64, 192), {.crf = 1, .comment = ""});
  // A square cut of a 3:1 picture is its middle third, whatever the scale.
  for (const int64_t side : {32, 64, 128}) {
    const auto clip = clips_of(scratch / "a.mp4", {1, side, side, 16}, 1)[0];
    expect_colour(clip, side / 2, side / 16, kGreen);
    expect_colour(clip, side / 2, side - 1 - side / 16, kGreen);
    expect_colour(clip, side / 16, side / 2, kWhite);
  }
  // A strip keeps the full width and loses the upper quarter.
  const auto strip = clips_of(scratch / "a.mp4", {1, 16, 192, 16}, 1)[0];
  expect_colour(strip, 8, 4, kRed);
  expect_colour(strip, 8, 187, kBlue);
  expect_colour(strip, 1, 96, kGreen);
}

// Overwrites the display matrix of the mp4's track, which follows "tkhd" after 40 bytes.
void set_matrix(const std::filesystem::path& path, std::array<int32_t, 9> matrix) {
  std::string file = read_raw(path);
  const size_t at = file.find("tkhd") + 44;
  for (size_t i = 0; i < matrix.size(); ++i)
    for (size_t b = 0; b < 4; ++b)
      file[at + 4 * i + b] = static_cast<char>(static_cast<uint32_t>(matrix[i]) >> (24 - 8 * b));
  write_raw(path, file);
}

TEST(ReadClips, RotationTagsAreApplied) {
  constexpr int32_t kOne = 1 << 16, kUnit = 1 << 30;
  ScratchFolder scratch;
  const auto path = scratch / "a.mp4";
  write_mp4(path, flag(1, 48, 96), {.crf = 1, .comment = ""});
  set_matrix(path, {0, kOne, 0, -kOne, 0, 0, 0, 0, kUnit});  // a quarter clockwise: left goes up
  auto clip = clips_of(path, {1, 96, 48, 16}, 1)[0];
  expect_colour(clip, 8, 24, kRed);
  expect_colour(clip, 88, 24, kBlue);
  expect_colour(clip, 48, 44, kWhite);
  expect_colour(clip, 48, 8, kGreen);
  set_matrix(path, {0, -kOne, 0, kOne, 0, 0, 0, 0, kUnit});  // counterclockwise: left goes down
  clip = clips_of(path, {1, 96, 48, 16}, 1)[0];
  expect_colour(clip, 8, 24, kBlue);
  expect_colour(clip, 48, 4, kWhite);
  set_matrix(path, {-kOne, 0, 0, 0, -kOne, 0, 0, 0, kUnit});  // upside down
  clip = clips_of(path, {1, 48, 96, 16}, 1)[0];
  expect_colour(clip, 24, 8, kBlue);
  expect_colour(clip, 44, 48, kWhite);
}

TEST(ReadClips, DamagedAndShortFilesAreErrorsThatNameThem) {
  ScratchFolder scratch;
  const ClipShape shape{9, 32, 32, 16};
  const auto message = [&](const std::filesystem::path& path, const ClipShape& wanted) {
    return error_of<Error>([&] { read_clips(path, wanted, 1, [](const Video&) {}); });
  };
  write_mp4(scratch / "short.mp4", counting(8, 32, 32, 16));
  FPSA_EXPECT_CONTAINS(message(scratch / "short.mp4", shape), "short.mp4' is too short: expected 9 frames at 16");
  FPSA_EXPECT_CONTAINS(message(scratch / "short.mp4", shape), "received 8");
  FPSA_EXPECT_CONTAINS(message(scratch / "none.mp4", shape), "no such file");
  FPSA_EXPECT_CONTAINS(message(write_raw(scratch / "text.mp4", "not a video"), shape), "text.mp4' as a video");
  FPSA_EXPECT_CONTAINS(message(scratch / "short.mp4", {0, 32, 32, 16}), "expected all above 0");
  write_mp4(scratch / "long.mp4", flag(33, 64, 64));
  const std::string whole = read_raw(scratch / "long.mp4");
  for (const size_t size : {size_t{0}, size_t{200}, whole.size() / 4})
    FPSA_EXPECT_CONTAINS(message(write_raw(scratch / "cut.mp4", whole.substr(0, size)), {33, 32, 32, 16}), "cut.mp4");
}

}  // namespace
}  // namespace fpsa::io
