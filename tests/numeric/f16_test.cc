#include "fpsa/numeric/f16.h"

#include <gtest/gtest.h>

namespace fpsa::numeric {
namespace {

TEST(F16, EveryValueHasItsBits) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float x = f32_from_f16(static_cast<uint16_t>(bits));
    if ((bits & 0x7fff) > 0x7c00)
      EXPECT_TRUE(std::isnan(x)) << bits;
    else
      EXPECT_EQ(f16_from_f32(x), bits);
  }
  EXPECT_EQ(f32_from_f16(0x3c00), 1.0f);
  EXPECT_EQ(f32_from_f16(0x0001), 0x1p-24f);
  EXPECT_EQ(f32_from_f16(0x7bff), 65504.0f);
  EXPECT_EQ(f32_from_f16(0xfc00), -INFINITY);
}

TEST(F16, RoundsToNearestEven) {
  // Halfway between neighbours the even one, a little beside it the nearer one.
  for (uint32_t bits = 0; bits < 0x7bff; ++bits) {
    const float low = f32_from_f16(static_cast<uint16_t>(bits)), high = f32_from_f16(static_cast<uint16_t>(bits + 1));
    const float middle = (low + high) / 2;
    EXPECT_EQ(f16_from_f32(middle), bits + bits % 2);
    EXPECT_EQ(f16_from_f32(std::nextafter(middle, low)), bits);
    EXPECT_EQ(f16_from_f32(-std::nextafter(middle, high)), (bits + 1) | 0x8000);
  }
  EXPECT_EQ(f16_from_f32(65519.0f), 0x7bff);
  EXPECT_EQ(f16_from_f32(65520.0f), 0x7c00);
  EXPECT_EQ(f16_from_f32(NAN), 0x7fff);
}

}  // namespace
}  // namespace fpsa::numeric
