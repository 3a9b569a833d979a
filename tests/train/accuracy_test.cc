#include "fpsa/train/accuracy.h"

#include <gtest/gtest.h>

namespace fpsa::train {
namespace {

TEST(Share, WilsonIntervalMatchesPublishedValues) {
  const Share share{81, 263};  // Newcombe (1998), table I: 0.2553 .. 0.3662
  EXPECT_NEAR(share.low(), 0.2553, 1e-4);
  EXPECT_NEAR(share.high(), 0.3662, 1e-4);
  const Share none{0, 20};  // the same table: 0.0000 .. 0.1611
  EXPECT_NEAR(none.low(), 0.0, 1e-12);
  EXPECT_NEAR(none.high(), 0.1611, 1e-4);
}

TEST(Accuracy, CountsEachAttributeAndAControl) {
  Accuracy accuracy;
  ClipSpec red{
      .shape = Shape::kCircle, .colour = Colour::kRed, .background = Background::kWhite, .motion = Motion::kUp};
  ClipSpec blue{
      .shape = Shape::kStar, .colour = Colour::kBlue, .background = Background::kWhite, .motion = Motion::kDown};
  accuracy.add(red, {Shape::kCircle, Colour::kRed, Background::kWhite, Motion::kUp});
  accuracy.add(blue, {Shape::kCircle, Colour::kBlue, Background::kWhite, std::nullopt});
  const auto shares = accuracy.shares(), control = accuracy.control();
  EXPECT_EQ(shares[0].right, 1);
  EXPECT_EQ(shares[1].right, 2);
  EXPECT_EQ(shares[2].right, 2);
  EXPECT_EQ(shares[3].right, 1);
  EXPECT_EQ(control[0].right, 1);  // the second clip's reading "circle" meets the first prompt
  EXPECT_EQ(control[1].right, 0);
  EXPECT_EQ(control[2].right, 2);
  EXPECT_EQ(accuracy.all_right().right, 1);
  EXPECT_NE(accuracy.table().find("| colour | 2/2 | 100.0% |"), std::string::npos) << accuracy.table();
}

}  // namespace
}  // namespace fpsa::train
