// The oracle is written from the format's definition: every finite code's value, and a search for the nearest.
#include "fpsa/numeric/e4m3.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "fpsa/numeric/bounds.h"
#include "fpsa/numeric/scales.h"

namespace fpsa::numeric {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// (-1)^s * 2^(e-7) * (1 + m/8), or (-1)^s * 2^-6 * m/8 for e = 0.
double definition(int code) {
  const int exponent = (code >> 3) & 15, mantissa = code & 7;
  const double magnitude = exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
  return code & 0x80 ? -magnitude : magnitude;
}

// The nearest finite code of the same sign, ties to the even code, by trying all.
uint8_t nearest(float x) {
  if (std::isnan(x)) return 0x7f;
  const int sign = std::signbit(x) ? 0x80 : 0;
  const double magnitude = std::min(std::abs(static_cast<double>(x)), 1e30);
  int best = 0;
  double best_error = kInf;
  for (int code = 0; code < 0x7f; ++code) {
    const double error = std::abs(definition(code) - magnitude);
    if (error < best_error || (error == best_error && code % 2 == 0)) {
      best = code;
      best_error = error;
    }
  }
  return static_cast<uint8_t>(best | sign);
}

void expect_nearest(float x) {
  EXPECT_EQ(int{e4m3_from_f32(x)}, int{nearest(x)}) << "x = " << std::hexfloat << x;
  EXPECT_EQ(int{e4m3_from_f32(-x)}, int{nearest(-x)}) << "x = " << std::hexfloat << -x;
}

TEST(E4m3, EveryCodeHasTheValueOfItsDefinition) {
  for (int code = 0; code < 256; ++code) {
    const float value = f32_from_e4m3(static_cast<uint8_t>(code));
    if ((code & 0x7f) == 0x7f) {
      EXPECT_TRUE(std::isnan(value)) << code;
    } else {
      EXPECT_EQ(static_cast<double>(value), definition(code)) << code;
      EXPECT_EQ(std::signbit(value), code >= 0x80) << code;
    }
  }
  EXPECT_EQ(f32_from_e4m3(0x7e), kE4m3Max);
  EXPECT_EQ(f32_from_e4m3(0x08), kE4m3MinNormal);
  EXPECT_EQ(f32_from_e4m3(0x01), kE4m3Step);
}

TEST(E4m3, EveryCodeSurvivesTheRoundTrip) {
  for (int code = 0; code < 256; ++code) {
    const int expected = (code & 0x7f) == 0x7f ? 0x7f : code;
    EXPECT_EQ(int{e4m3_from_f32(f32_from_e4m3(static_cast<uint8_t>(code)))}, expected);
  }
}

TEST(E4m3, MidpointsGoToTheEvenCodeAndTheirNeighboursToTheNearest) {
  for (int code = 0; code < 0x7e; ++code) {
    const float below = static_cast<float>(definition(code)), above = static_cast<float>(definition(code + 1));
    const float middle = 0.5f * (below + above);
    const int even = code % 2 == 0 ? code : code + 1;
    EXPECT_EQ(int{e4m3_from_f32(middle)}, even) << "midpoint above code " << code;
    EXPECT_EQ(int{e4m3_from_f32(std::nextafter(middle, 0.0f))}, code);
    EXPECT_EQ(int{e4m3_from_f32(std::nextafter(middle, kInf))}, code + 1);
    for (const float x : {below, middle, above}) {
      for (const float y : {std::nextafter(x, -kInf), x, std::nextafter(x, kInf)})
        expect_nearest(y);
    }
  }
}

TEST(E4m3, LargeValuesAndInfinitySaturate) {
  for (const float x :
       {448.0f, 463.99f, 464.0f, 464.01f, 479.0f, 480.0f, 512.0f, 1e9f, std::numeric_limits<float>::max(), kInf}) {
    EXPECT_EQ(int{e4m3_from_f32(x)}, 0x7e) << x;
    EXPECT_EQ(int{e4m3_from_f32(-x)}, 0xfe) << x;
  }
}

TEST(E4m3, EveryNanGivesOneCode) {
  for (const uint32_t bits : {0x7f800001u, 0x7fc00000u, 0x7fffffffu, 0xff800001u, 0xffc00000u, 0xffffffffu}) {
    EXPECT_EQ(int{e4m3_from_f32(std::bit_cast<float>(bits))}, 0x7f) << std::hex << bits;
  }
}

TEST(E4m3, ZeroKeepsItsSignAndTinyValuesBecomeZero) {
  EXPECT_EQ(int{e4m3_from_f32(0.0f)}, 0x00);
  EXPECT_EQ(int{e4m3_from_f32(-0.0f)}, 0x80);
  const float tie = 0.5f * kE4m3Step;
  for (const float x : {std::numeric_limits<float>::denorm_min(), std::numeric_limits<float>::min(), 1e-20f, tie}) {
    EXPECT_EQ(int{e4m3_from_f32(x)}, 0x00) << x;
    EXPECT_EQ(int{e4m3_from_f32(-x)}, 0x80) << x;
  }
  EXPECT_EQ(int{e4m3_from_f32(std::nextafter(tie, 1.0f))}, 0x01);
}

TEST(E4m3, EveryUpperHalfOfAnF32RoundsToTheNearestCode) {
  // All signs, exponents and 7 leading mantissa bits, each just below, at and just above.
  for (uint32_t upper = 0; upper < 0x7f80u; ++upper) {
    for (const uint32_t lower : {0x0000u, 0x0001u, 0xffffu}) {
      const float x = std::bit_cast<float>(upper << 16 | lower);
      ASSERT_EQ(int{e4m3_from_f32(x)}, int{nearest(x)}) << std::hexfloat << x;
      ASSERT_EQ(int{e4m3_from_f32(-x)}, int{nearest(-x)}) << std::hexfloat << -x;
    }
  }
}

TEST(E4m3, RandomValuesStayWithinTheRoundingBound) {
  const unsigned seed = 20250604;
  std::mt19937 random(seed);
  std::uniform_real_distribution<float> exponent(-12.0f, 8.8f);
  for (int i = 0; i < 200000; ++i) {
    const float x = std::exp2(exponent(random));
    if (x > kE4m3Max) continue;
    const double error = std::abs(static_cast<double>(f32_from_e4m3(e4m3_from_f32(x))) - x);
    ASSERT_LE(error, e4m3_rounding_bound(x)) << "seed " << seed << " x = " << x;
  }
}

TEST(E4m3, ArraysGiveTheScalarResultAtEveryLengthAndTouchNothingElse) {
  const unsigned seed = 7;
  std::mt19937 random(seed);
  for (int64_t n = 0; n <= 70; ++n) {
    std::vector<float> in(static_cast<size_t>(n));
    for (float& x : in)
      x = std::bit_cast<float>(static_cast<uint32_t>(random()));
    std::vector<uint8_t> codes(in.size() + 2, 0x5a);
    e4m3_from_f32(in.data(), codes.data() + 1, n);
    std::vector<float> out(in.size() + 2, -7.5f);
    f32_from_e4m3(codes.data() + 1, out.data() + 1, n);
    for (size_t i = 0; i < in.size(); ++i) {
      ASSERT_EQ(int{codes[i + 1]}, int{nearest(in[i])}) << "seed " << seed << " n " << n << " i " << i;
      ASSERT_EQ(std::bit_cast<uint32_t>(out[i + 1]), std::bit_cast<uint32_t>(f32_from_e4m3(codes[i + 1])));
    }
    EXPECT_EQ(codes.front(), 0x5a);
    EXPECT_EQ(codes.back(), 0x5a);
    EXPECT_EQ(out.front(), -7.5f);
    EXPECT_EQ(out.back(), -7.5f);
  }
}

TEST(Scales, AbsmaxCarriesBadValues) {
  const float x[] = {1.0f, -3.0f, 2.0f, -0.0f};
  EXPECT_EQ(absmax(x, 4), 3.0f);
  EXPECT_EQ(absmax(x, 2, 2), 2.0f);
  EXPECT_EQ(absmax(x, 0), 0.0f);
  const float infinite[] = {1.0f, -kInf};
  EXPECT_EQ(absmax(infinite, 2), kInf);
  const float bad[] = {-kInf, -kNan, 1.0f};
  EXPECT_TRUE(std::isnan(absmax(bad, 3)));
}

TEST(Scales, ScaleIsAbsmaxOver448AndOneForZero) {
  EXPECT_EQ(scale_from_absmax(0.0f), 1.0f);
  EXPECT_EQ(scale_from_absmax(448.0f), 1.0f);
  EXPECT_EQ(scale_from_absmax(7.0f), 7.0f / 448.0f);
  EXPECT_EQ(scale_from_absmax(std::numeric_limits<float>::denorm_min()), kMinScale);
  EXPECT_EQ(scale_from_absmax(kInf), kInf);
  EXPECT_TRUE(std::isnan(scale_from_absmax(kNan)));
}

TEST(Scales, TheLargestElementGetsTheLargestCodeAtEveryMagnitude) {
  std::mt19937 random(11);
  std::uniform_real_distribution<float> exponent(-117.0f, 127.9f);
  for (int i = 0; i < 100000; ++i) {
    const float top = std::exp2(exponent(random));
    ASSERT_EQ(int{quantize_e4m3(top, scale_from_absmax(top))}, 0x7e) << std::hexfloat << top;
    ASSERT_EQ(int{quantize_e4m3(-top, scale_from_absmax(top))}, 0xfe) << std::hexfloat << top;
  }
}

TEST(Scales, QuantisedValuesStayWithinHalfAStepOfTheirGroup) {
  const unsigned seed = 12;
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> group(384);
  for (float& x : group)
    x = normal(random);
  const float scale = scale_from_absmax(absmax(group.data(), 384));
  for (const float x : group) {
    const double error = std::abs(static_cast<double>(dequantize_e4m3(quantize_e4m3(x, scale), scale)) - x);
    // The division and the product each round once in F32.
    const double allowed = scale * e4m3_rounding_bound(x / scale) + 2.0 * kF32Epsilon * std::abs(x) * 1.0625;
    ASSERT_LE(error, allowed) << "seed " << seed << " x = " << x;
  }
}

TEST(Scales, ABadGroupDecodesToNan) {
  const float scale = scale_from_absmax(kInf);
  EXPECT_TRUE(std::isnan(dequantize_e4m3(quantize_e4m3(1.0f, scale), scale)));
  EXPECT_TRUE(std::isnan(dequantize_e4m3(quantize_e4m3(kInf, scale), scale)));
}

TEST(Bounds, DotBoundHoldsForF32SumsAndIsNotVacuous) {
  const unsigned seed = 13;
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  double worst = 0.0;
  for (int trial = 0; trial < 200; ++trial) {
    float sum = 0.0f;
    double exact = 0.0, sum_abs = 0.0;
    for (int i = 0; i < 500; ++i) {
      const float a = normal(random), b = normal(random);
      sum += a * b;
      exact += static_cast<double>(a) * b;
      sum_abs += std::abs(static_cast<double>(a) * b);
    }
    const double bound = dot_bound(kF32Epsilon, 500, sum_abs);
    worst = std::max(worst, std::abs(sum - exact) / bound);
  }
  EXPECT_LE(worst, 1.0) << "seed " << seed;
  EXPECT_GE(worst, 1e-3) << "seed " << seed;
}

}  // namespace
}  // namespace fpsa::numeric
