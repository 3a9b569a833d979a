#include "fpsa/numeric/int8.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

namespace fpsa::numeric {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

TEST(Int8, RoundsTiesToEvenOnBothSides) {
  EXPECT_EQ(quantize_int8(0.5f, 1.0f), 0);
  EXPECT_EQ(quantize_int8(1.5f, 1.0f), 2);
  EXPECT_EQ(quantize_int8(-2.5f, 1.0f), -2);
  EXPECT_EQ(quantize_int8(-3.5f, 1.0f), -4);
  EXPECT_EQ(quantize_int8(std::nextafter(2.5f, 3.0f), 1.0f), 3);
}

TEST(Int8, TheLargestOfAGroupIs127AndNothingIsBeyond) {
  // Every mantissa would take too long; a prime step visits many of them, of several exponents.
  for (uint32_t bits = 0x00000001u; bits < 0x7f800000u; bits += 99991u) {
    const float absmax = std::bit_cast<float>(bits), scale = int8_scale_from_absmax(absmax);
    if (scale > kMinScale) {
      ASSERT_EQ(quantize_int8(absmax, scale), 127) << absmax;
      ASSERT_EQ(quantize_int8(-absmax, scale), -127) << absmax;
      ASSERT_NEAR(dequantize_int8(127, scale) / absmax, 1.0f, 0x1p-22f) << absmax;
    }
    ASSERT_LE(std::abs(int{quantize_int8(absmax, scale)}), 127) << absmax;
  }
}

TEST(Int8, ScalesHaveAFloorAndCarryWhatIsNotANumber) {
  EXPECT_EQ(int8_scale_from_absmax(0.0f), 1.0f);
  EXPECT_EQ(int8_scale_from_absmax(254.0f), 2.0f);
  EXPECT_EQ(int8_scale_from_absmax(0x1p-140f), kMinScale);
  EXPECT_EQ(int8_scale_from_absmax(kInfinity), kInfinity);
  EXPECT_TRUE(std::isnan(int8_scale_from_absmax(kNan)));
  for (const float x : {1.0f, -kInfinity, kInfinity, kNan})
    for (const float scale : {kInfinity, kNan}) {
      EXPECT_EQ(quantize_int8(x, scale), 0) << x << " / " << scale;
      EXPECT_TRUE(std::isnan(dequantize_int8(0, scale)));
    }
}

}  // namespace
}  // namespace fpsa::numeric
