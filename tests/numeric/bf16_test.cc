#include "fpsa/numeric/bf16.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "fpsa/numeric/bounds.h"

namespace fpsa::numeric {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

// Rounds by comparing with both neighbours in double. The neighbour above the largest finite value counts as
// 2^128, which is how IEEE rounding decides about infinity.
uint16_t nearest(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint16_t below = static_cast<uint16_t>(bits >> 16), above = static_cast<uint16_t>(below + 1);
  const auto value = [](uint16_t b) {
    const uint16_t magnitude = b & 0x7fff;
    return magnitude == 0x7f80 ? std::ldexp(1.0, 128)
                               : static_cast<double>(std::bit_cast<float>(static_cast<uint32_t>(magnitude) << 16));
  };
  if (std::isinf(x)) return below;
  const double magnitude = std::abs(static_cast<double>(x));
  const double down = magnitude - value(below), up = value(above) - magnitude;
  if (down == up) return below % 2 == 0 ? below : above;
  return down < up ? below : above;
}

TEST(Bf16, EveryValueSurvivesTheRoundTrip) {
  for (uint32_t b = 0; b < 0x10000u; ++b) {
    const float value = f32_from_bf16(static_cast<uint16_t>(b));
    ASSERT_EQ(std::bit_cast<uint32_t>(value), b << 16);
    const uint16_t back = bf16_from_f32(value);
    if (std::isnan(value)) {
      ASSERT_EQ(uint32_t{back}, b | 0x40u) << "quiet, sign and payload kept";
    } else {
      ASSERT_EQ(uint32_t{back}, b);
    }
  }
}

TEST(Bf16, EveryIntervalRoundsToNearestEven) {
  for (uint32_t upper = 0; upper < 0x10000u; ++upper) {
    if ((upper & 0x7f80u) == 0x7f80u) continue;
    for (const uint32_t lower : {0x0000u, 0x0001u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) {
      const float x = std::bit_cast<float>(upper << 16 | lower);
      ASSERT_EQ(bf16_from_f32(x), nearest(x)) << std::hexfloat << x;
    }
  }
}

TEST(Bf16, OverflowGivesInfinityAndNanStaysNan) {
  EXPECT_EQ(bf16_from_f32(std::numeric_limits<float>::max()), 0x7f80);
  EXPECT_EQ(bf16_from_f32(-std::numeric_limits<float>::max()), 0xff80);
  EXPECT_EQ(bf16_from_f32(kInf), 0x7f80);
  EXPECT_EQ(bf16_from_f32(-kInf), 0xff80);
  // The payload of this NaN is in the lower half only; cutting it off would give infinity.
  EXPECT_EQ(bf16_from_f32(std::bit_cast<float>(0x7f800001u)), 0x7fc0);
  EXPECT_EQ(bf16_from_f32(std::bit_cast<float>(0xffffffffu)), 0xffff);
}

TEST(Bf16, SubnormalsAreRoundedNotFlushed) {
  EXPECT_EQ(bf16_from_f32(std::bit_cast<float>(0x00018001u)), 0x0002);
  EXPECT_EQ(bf16_from_f32(std::bit_cast<float>(0x00018000u)), 0x0002);
  EXPECT_EQ(bf16_from_f32(std::bit_cast<float>(0x00008000u)), 0x0000);
  EXPECT_EQ(bf16_from_f32(-0.0f), 0x8000);
}

TEST(Bf16, ArraysGiveTheScalarResultAtEveryLengthAndTouchNothingElse) {
  const unsigned seed = 3;
  std::mt19937 random(seed);
  for (int64_t n = 0; n <= 70; ++n) {
    std::vector<float> in(static_cast<size_t>(n));
    for (float& x : in)
      x = std::bit_cast<float>(static_cast<uint32_t>(random()));
    std::vector<uint16_t> codes(in.size() + 2, 0x1234);
    bf16_from_f32(in.data(), codes.data() + 1, n);
    std::vector<float> out(in.size() + 2, -7.5f);
    f32_from_bf16(codes.data() + 1, out.data() + 1, n);
    for (size_t i = 0; i < in.size(); ++i) {
      ASSERT_EQ(codes[i + 1], bf16_from_f32(in[i])) << "seed " << seed << " n " << n << " i " << i;
      ASSERT_EQ(std::bit_cast<uint32_t>(out[i + 1]), uint32_t{codes[i + 1]} << 16);
      if (!std::isnan(in[i]) && std::abs(in[i]) < 1e38f) {
        ASSERT_LE(std::abs(static_cast<double>(out[i + 1]) - in[i]), bf16_rounding_bound(in[i]));
      }
    }
    EXPECT_EQ(codes.front(), 0x1234);
    EXPECT_EQ(codes.back(), 0x1234);
    EXPECT_EQ(out.front(), -7.5f);
    EXPECT_EQ(out.back(), -7.5f);
  }
}

}  // namespace
}  // namespace fpsa::numeric
