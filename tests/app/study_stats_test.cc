// Statistics and temporal metrics against cases that can be worked out by hand.
#include "fpsa/app/study_stats.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <random>

#include "fpsa/app/temporal_metrics.h"
#include "fpsa/base/check.h"

namespace fpsa::app {
namespace {

TEST(StudyStats, EqualValuesHaveAnIntervalOfNoWidth) {
  const std::vector<double> values(40, 0.25);
  const auto e = bootstrap_mean(values, 1);
  EXPECT_EQ(e.mean, 0.25);
  EXPECT_EQ(e.low, 0.25);
  EXPECT_EQ(e.high, 0.25);
  EXPECT_TRUE(e.has_interval());
  EXPECT_TRUE(e.excludes_zero());
}

TEST(StudyStats, OneValueHasNoInterval) {
  const auto e = bootstrap_mean(std::vector<double>{3.0}, 1);
  EXPECT_EQ(e.mean, 3.0);
  EXPECT_EQ(e.count, 1);
  EXPECT_FALSE(e.has_interval());
  EXPECT_FALSE(e.excludes_zero());
}

// Of n zeros and ones the bootstrap's mean is binomial: at n = 100, p = 1/2 its 2.5% and 97.5% quantiles are 0.40 and
// 0.60. The simulated quantile of 10,000 draws may miss by a step of 0.01 more.
TEST(StudyStats, ABinomialMeanHasTheBinomialInterval) {
  std::vector<double> values(100, 0.0);
  std::fill(values.begin(), values.begin() + 50, 1.0);
  const auto e = bootstrap_mean(values, 7);
  EXPECT_DOUBLE_EQ(e.mean, 0.5);
  EXPECT_NEAR(e.low, 0.40, 0.011);
  EXPECT_NEAR(e.high, 0.60, 0.011);
  EXPECT_TRUE(e.excludes_zero());
}

TEST(StudyStats, TheSameSeedGivesTheSameInterval) {
  std::mt19937_64 random(3);
  std::vector<double> values;
  for (int i = 0; i < 50; ++i)
    values.push_back(static_cast<double>(random() % 1000) - 500);
  const auto a = bootstrap_mean(values, 5), b = bootstrap_mean(values, 5), c = bootstrap_mean(values, 6);
  EXPECT_EQ(a.low, b.low);
  EXPECT_EQ(a.high, b.high);
  EXPECT_NE(a.low, c.low);
  EXPECT_LT(a.low, a.mean);
  EXPECT_GT(a.high, a.mean);
}

// What pairing is for: two arms that vary much over prompts and differ by a constant.
TEST(StudyStats, ConstantDifferencesAreCertainHoweverMuchPromptsVary) {
  std::vector<double> differences;
  for (int i = 0; i < 30; ++i)
    differences.push_back((10.0 * i + 2.0) - 10.0 * i);
  const auto e = bootstrap_mean(differences, 1);
  EXPECT_DOUBLE_EQ(e.low, 2.0);
  EXPECT_DOUBLE_EQ(e.high, 2.0);
}

TEST(StudyStats, NoValuesAndInfiniteOnesAreRefused) {
  EXPECT_THROW(bootstrap_mean({}, 1), Error);
  EXPECT_THROW(bootstrap_mean(std::vector<double>{1.0, std::numeric_limits<double>::infinity()}, 1), Error);
  EXPECT_THROW(median({}), Error);
}

TEST(StudyStats, MediansAndQuantilesInterpolate) {
  EXPECT_EQ(median({3, 1, 2}), 2);
  EXPECT_EQ(median({4, 1, 3, 2}), 2.5);
  EXPECT_EQ(quantile({10, 20, 30, 40, 50}, 0.25), 20);
  EXPECT_EQ(quantile({0, 10}, 0.25), 2.5);
  EXPECT_EQ(quantile({7}, 0.9), 7);
}

io::Video frames_of(const std::vector<uint8_t>& levels) {
  io::Video video;
  video.frames = static_cast<int64_t>(levels.size());
  video.height = video.width = 2;
  for (const auto level : levels)
    video.rgb.insert(video.rgb.end(), 12, level);
  return video;
}

TEST(TemporalMetrics, ASteadyRampMovesWithoutFlicker) {
  const auto ramp = temporal_metrics(frames_of({0, 10, 20, 30}));
  EXPECT_DOUBLE_EQ(ramp.change, 10);
  EXPECT_DOUBLE_EQ(ramp.flicker, 0);
  const auto blink = temporal_metrics(frames_of({0, 10, 0, 10}));
  EXPECT_DOUBLE_EQ(blink.change, 10);
  EXPECT_DOUBLE_EQ(blink.flicker, 20);
  EXPECT_DOUBLE_EQ(temporal_metrics(frames_of({9})).change, 0);
  EXPECT_DOUBLE_EQ(temporal_metrics(frames_of({9, 11})).flicker, 0);
}

TEST(TemporalMetrics, AnErrorThatStandsStillDoesNotCount) {
  const auto clip = frames_of({0, 10, 20}), brighter = frames_of({50, 60, 70}), blinking = frames_of({0, 15, 20});
  EXPECT_TRUE(std::isinf(*temporal_psnr_db(clip, brighter)));
  // Changes differ by 5 and -5: mean square 25.
  EXPECT_NEAR(*temporal_psnr_db(clip, blinking), 10 * std::log10(255.0 * 255.0 / 25.0), 1e-9);
  EXPECT_FALSE(temporal_psnr_db(frames_of({1}), frames_of({2})).has_value());
  EXPECT_THROW(temporal_psnr_db(clip, frames_of({0, 1})), Error);
}

}  // namespace
}  // namespace fpsa::app
