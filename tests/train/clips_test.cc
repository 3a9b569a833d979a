#include "fpsa/train/clips.h"

#include <gtest/gtest.h>

#include <array>
#include <random>
#include <set>

#include "fpsa/base/check.h"
#include "fpsa/train/clip_checker.h"

namespace fpsa::train {
namespace {

constexpr int kClips = 200;

struct Score {
  int shape = 0, colour = 0, background = 0, motion = 0;
};

Score score(int64_t frames, int64_t size, double noise, bool shuffle) {
  std::mt19937 random(7);
  std::normal_distribution<double> gauss(0.0, noise);
  Score s;
  for (int i = 0; i < kClips; ++i) {
    const ClipSpec spec = random_spec(1000 + i, i % 2 == 0);
    Clip clip = render(spec, frames, size, size);
    if (noise > 0)
      for (auto& v : clip.rgb)
        v = static_cast<uint8_t>(std::clamp(std::lround(v + gauss(random)), 0l, 255l));
    const ClipSpec claimed = shuffle ? random_spec(900000 + i, false) : spec;
    const Agreement a = compare(check_clip(clip.rgb.data(), frames, size, size), claimed);
    s.shape += a.shape, s.colour += a.colour, s.background += a.background, s.motion += a.motion;
  }
  return s;
}

void expect_right(const Score& s, double share) {
  EXPECT_GE(s.shape, share * kClips);
  EXPECT_GE(s.colour, share * kClips);
  EXPECT_GE(s.background, share * kClips);
  EXPECT_GE(s.motion, share * kClips);
}

TEST(ClipChecker, ReadsRenderedClipsAtTheFinalGrid) {
  expect_right(score(33, 256, 0.0, false), 0.98);
}
TEST(ClipChecker, ReadsRenderedClipsAtHalfTheSize) {
  expect_right(score(17, 128, 0.0, false), 0.98);
}
TEST(ClipChecker, ReadsNoisyClips) {
  expect_right(score(17, 128, 12.0, false), 0.98);
}

TEST(ClipChecker, ScoresAtChanceOnShuffledLabels) {
  const Score s = score(9, 96, 0.0, true);
  EXPECT_LT(s.shape, 0.40 * kClips);       // chance 0.20
  EXPECT_LT(s.colour, 0.35 * kClips);      // chance 0.17
  EXPECT_LT(s.background, 0.42 * kClips);  // chance 0.25
  EXPECT_LT(s.motion, 0.32 * kClips);      // chance 0.14
}

TEST(ClipChecker, AnEmptyFrameShowsOnlyItsBackground) {
  std::vector<uint8_t> rgb(5 * 64 * 64 * 3, 242);
  const Reading r = check_clip(rgb.data(), 5, 64, 64);
  EXPECT_EQ(r.background, Background::kWhite);
  EXPECT_FALSE(r.shape || r.colour || r.motion);
}

TEST(ClipChecker, AStillObjectHasNoMotion) {
  ClipSpec spec = random_spec(3, false);
  const Clip still = render(spec, 1, 96, 96);
  std::vector<uint8_t> rgb;
  for (int i = 0; i < 9; ++i)
    rgb.insert(rgb.end(), still.rgb.begin(), still.rgb.end());
  EXPECT_FALSE(check_clip(rgb.data(), 9, 96, 96).motion.has_value());
}

TEST(Clips, RenderingIsDeterministicAndSeedsDiffer) {
  ClipSpec spec = random_spec(5, false);
  const Clip a = render(spec, 9, 64, 64), b = render(spec, 9, 64, 64);
  EXPECT_EQ(a.rgb, b.rgb);
  spec.seed += 1;
  EXPECT_NE(a.rgb, render(spec, 9, 64, 64).rgb);
}

TEST(Clips, TheObjectNeverLeavesTheFrame) {
  for (int i = 0; i < 300; ++i) {
    const Clip clip = render(random_spec(i, i % 2 == 0), 17, 64, 64);
    for (int64_t f = 0; f < 17; ++f)
      for (int64_t k = 0; k < 64; ++k) {
        const uint8_t* frame = clip.coverage.data() + f * 64 * 64;
        ASSERT_EQ(frame[k] | frame[63 * 64 + k] | frame[64 * k] | frame[64 * k + 63], 0) << "seed " << i;
      }
  }
}

TEST(Clips, AFifthIsHeldOutAndNoPairOfValuesIsMissingFromTraining) {
  int out = 0, total = 0;
  std::set<std::array<int, 4>> pairs;
  for (int s = 0; s < 5; ++s)
    for (int c = 0; c < 6; ++c)
      for (int b = 0; b < 4; ++b)
        for (int m = 0; m < 7; ++m) {
          const ClipSpec spec{Shape(s), Colour(c), Background(b), Motion(m), 0};
          ++total;
          if (held_out(spec)) {
            ++out;
            continue;
          }
          const int v[] = {s, c, b, m};
          for (int i = 0; i < 4; ++i)
            for (int j = i + 1; j < 4; ++j)
              pairs.insert({i, j, v[i], v[j]});
        }
  EXPECT_EQ(total, 840);
  EXPECT_EQ(out, 168);
  EXPECT_EQ(pairs.size(), size_t(5 * 6 + 5 * 4 + 5 * 7 + 6 * 4 + 6 * 7 + 4 * 7));
}

TEST(Clips, DrawsRespectTheSplit) {
  for (int i = 0; i < 500; ++i) {
    EXPECT_FALSE(held_out(random_spec(i, false)));
    EXPECT_TRUE(held_out(random_spec(i, true)));
  }
}

TEST(Clips, CaptionsNameEveryAttribute) {
  const ClipSpec spec{Shape::kStar, Colour::kOrange, Background::kPurple, Motion::kBounce, 0};
  std::set<std::string> forms;
  for (int i = 0; i < 64; ++i) {
    const std::string text = caption(spec, i);
    forms.insert(text);
    EXPECT_NE(text.find("star"), std::string::npos);
    EXPECT_NE(text.find("orange"), std::string::npos);
    EXPECT_NE(text.find("purple"), std::string::npos);
    EXPECT_NE(text.find("bounc"), std::string::npos);
    EXPECT_EQ(text.find("a orange"), std::string::npos);
  }
  EXPECT_EQ(forms.size(), size_t(kCaptionForms));
}

TEST(Clips, RefusesAnEmptySize) {
  EXPECT_THROW(render(ClipSpec{}, 0, 64, 64), Error);
}

}  // namespace
}  // namespace fpsa::train
