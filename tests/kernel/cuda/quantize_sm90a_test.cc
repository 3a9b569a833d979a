// The source of quantize_sm90a on emulated instructions: codes, scales and places of the CPU reference, bit for bit.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <random>

#include "fpsa/base/check.h"
#include "fpsa/kernel/cuda/quantize_parts-inl.h"
#include "fpsa/kernel/cuda/tiling/quantize_tiling.h"
#include "fpsa/numeric/bf16.h"
#include "fpsa/numeric/scales.h"
#include "tests/kernel/cuda/emulated_quantize.h"

namespace fpsa::kernel::cuda {
namespace {

using testing_support::EmulatedQuantize;
using testing_support::expect_same;
using testing_support::QuantizeProblem;
using testing_support::QuantizeResult;

constexpr uint16_t kNan = 0x7fc0, kInfinity = 0x7f80, kMinusZero = 0x8000;

// Ragged tiles: 64 tokens, or fewer at the ends of all axes.
QuantizeProblem ragged(int64_t heads, int64_t dim) {
  QuantizeProblem problem;
  problem.grid = {3, 5, 10};
  problem.tile = problem.granularity = {2, 4, 8};
  problem.heads = heads;
  problem.dim = dim;
  problem.lag = 20;
  return problem;
}

emulation::Options seeded(uint64_t seed) {
  emulation::Options options;
  options.seed = seed;
  return options;
}

void check(const EmulatedQuantize& x, int seeds = 2) {
  const QuantizeResult rows = x.reference_rows(), values = x.reference_values();
  for (int seed = 1; seed <= seeds; ++seed) {
    SCOPED_TRACE(join("seed ", seed));
    expect_same(x.emulated_rows(1 + seed, 1 + seed % 3, seeded(static_cast<uint64_t>(seed))), rows);
    if (testing::Test::HasFatalFailure()) return;
  }
  SCOPED_TRACE("values");
  expect_same(x.emulated_values(1, {}), values);
}

TEST(QuantizeSm90a, HasTheReferencesBitsWithAndWithoutNormAndTurns) {
  for (const int64_t dim : {64, 128})
    for (const int64_t heads : {int64_t{3}, 2 * kSpanColumns / dim})  // a span that is not whole, and two that are
      for (const bool norm : {true, false})
        for (const bool turn : {true, false}) {
          SCOPED_TRACE(join("dim ", dim, " heads ", heads, norm ? " norm" : "", turn ? " turn" : ""));
          QuantizeProblem problem = ragged(heads, dim);
          problem.norm = norm;
          problem.turn = turn;
          check(EmulatedQuantize(problem), 1);
        }
}

TEST(QuantizeSm90a, TakesEveryGranularity) {
  for (const pattern::Grid& granularity :
       {pattern::Grid{1, 1, 1}, {1, 2, 4}, {2, 4, 4}, {4, 4, 16}, {4, 2, 8}, {100, 100, 96}}) {
    SCOPED_TRACE(pattern::to_string(granularity));
    for (const int64_t heads : {2, 4}) {  // half a span, or all of one
      QuantizeProblem problem = ragged(heads, 64);
      problem.granularity = granularity;
      check(EmulatedQuantize(problem));
    }
  }
}

TEST(QuantizeSm90a, TakesManyHeadsAndBatchesAndStrides) {
  for (const int64_t dim : {64, 128}) {
    QuantizeProblem problem = ragged(dim == 64 ? 7 : 5, dim);  // a warp's last span is not whole
    problem.grid = {1, 3, 7};
    problem.batch = 3;
    problem.row_gap = 24;
    check(EmulatedQuantize(problem), 3);
    problem.head_gap = 8;
    check(EmulatedQuantize(problem), 3);
  }
}

TEST(QuantizeSm90a, TakesAGridSmallerThanASegmentAndAWideRow) {
  QuantizeProblem problem = ragged(1, 64);
  problem.grid = {1, 1, 1};
  check(EmulatedQuantize(problem), 4);
  problem.heads = 41;  // more spans than the most warps of a block
  problem.dim = 128;
  problem.grid = {1, 1, 3};
  check(EmulatedQuantize(problem), 1);
}

// The loops without branches, of which every warp goes round more than once, the last time not all of them.
TEST(QuantizeSm90a, TakesWholeSpansInMoreRoundsThanOne) {
  for (const int64_t dim : {64, 128}) {
    SCOPED_TRACE(join("dim ", dim));
    QuantizeProblem problem = ragged(22 * 128 / dim, dim);
    const int spans = static_cast<int>(problem.heads * dim / kSpanColumns), warps = quantize_warps(problem.heads * dim);
    ASSERT_EQ(problem.heads * dim % kSpanColumns, 0);
    ASSERT_GT(spans, warps);
    problem.grid = {1, 2, 4};  // two quads of four tokens, of one group
    for (const bool norm : {true, false}) {
      problem.norm = problem.turn = norm;
      check(EmulatedQuantize(problem));
    }
  }
}

TEST(QuantizeSm90a, ZerosGetScaleOneAndKeepTheirSign) {
  for (const bool norm : {true, false}) {
    QuantizeProblem problem = ragged(2, 64);
    problem.norm = norm;
    problem.turn = false;
    EmulatedQuantize x(problem);
    // One group of zeros in one head, and one of V's channels.
    for (int64_t row = 0; row < x.order().tokens(); ++row)
      for (int64_t d = 0; d < 64; ++d)
        x.at(0, row, 1, d) = d % 2 == 0 ? kMinusZero : 0;
    const QuantizeResult want = x.reference_rows();
    EXPECT_EQ(want.scale.back(), 1.0f);
    EXPECT_EQ(want.codes[static_cast<size_t>(x.plan().slots) * 64], 0x80);
    check(x);
  }
}

TEST(QuantizeSm90a, BadValuesReachTheScalesOfTheirGroupsOnly) {
  for (const uint16_t bad : {kNan, kInfinity})
    for (const bool norm : {true, false}) {
      SCOPED_TRACE(join(bad, norm));
      QuantizeProblem problem = ragged(4, 64);
      problem.norm = norm;
      EmulatedQuantize x(problem);
      x.at(0, 7, 1, 3) = bad;
      const QuantizeResult want = x.reference_rows();
      int64_t spoilt = 0;
      for (const float scale : want.scale)
        spoilt += !std::isfinite(scale);
      EXPECT_GT(spoilt, 0);
      EXPECT_LT(spoilt, static_cast<int64_t>(want.scale.size()));
      check(x);
    }
}

TEST(QuantizeSm90a, TinyAndHugeGroupsAreDividedExactly) {
  QuantizeProblem problem = ragged(4, 64);  // of which two heads are changed
  problem.norm = problem.turn = false;
  for (const int power : {-130, -110, -70, 60, 100, 120}) {
    SCOPED_TRACE(join("power ", power));
    EmulatedQuantize x(problem);
    for (int64_t row = 0; row < x.order().tokens(); ++row)
      for (int64_t head = 0; head < 2; ++head)
        for (int64_t d = 0; d < 64; ++d) {
          uint16_t& at = x.at(0, row, head, d);
          at = numeric::bf16_from_f32(std::ldexp(numeric::f32_from_bf16(at), power));
        }
    check(x, 1);
  }
}

// x is BF16, so is the magnitude of its group: all scales and all elements there are, up to powers of two.
TEST(Quotient, HasTheCodeOfTheDivisionForAllBf16) {
  for (uint32_t top = 0x3f80; top < 0x4000; ++top) {
    const float scale = scale_of(top << 16);
    ASSERT_EQ(scale, numeric::scale_from_absmax(numeric::f32_from_bf16(static_cast<uint16_t>(top))));
    const Divisor by = divisor_of(scale);
    ASSERT_TRUE(by.plain());
    for (uint32_t bits = 0x3f80 - 24 * 0x80; bits <= top; ++bits) {
      const float x = numeric::f32_from_bf16(static_cast<uint16_t>(bits));
      ASSERT_EQ(numeric::e4m3_from_f32(quotient(x, by)), numeric::quantize_e4m3(x, scale)) << x << " / " << scale;
      ASSERT_EQ(numeric::e4m3_from_f32(quotient(-x, by)), numeric::quantize_e4m3(-x, scale));
    }
  }
}

TEST(Quotient, NoMagnitudeMakesTheScaleThatItCannotDivideBy) {
  for (uint32_t mantissa = 1024; mantissa < 2048; ++mantissa)  // the 11 bits of F16
    for (const float unit : {0x1p-30f, 0x1p-10f, 1.0f, 0x1p20f}) {
      const float scale = numeric::scale_from_absmax(static_cast<float>(mantissa) * unit);
      ASSERT_NE(std::bit_cast<uint32_t>(scale) & 0x7fffff, 0x7fffffu) << mantissa;
    }
}

// Scales of 24 bits at which a quotient lies beside the middle between two codes: as close as any can. One mantissa of
// a scale is left out, which quotient() says that no magnitude makes.
TEST(Quotient, HasTheCodeOfTheDivisionBesideTheMiddlesOfCodes) {
  int64_t beside = 0;
  for (int middle = 16; middle < 32; ++middle)
    for (int mantissa = 1024; mantissa < 2048; ++mantissa)  // the 11 bits of F16
      for (int nudge = -4; nudge <= 4; ++nudge) {
        const double target = static_cast<double>(mantissa) / middle;
        const float near = static_cast<float>(target);
        const float scale = std::bit_cast<float>(std::bit_cast<uint32_t>(near) + static_cast<uint32_t>(nudge));
        if ((std::bit_cast<uint32_t>(scale) & 0x7fffff) == 0x7fffff) continue;
        const Divisor by = divisor_of(scale);
        const auto x = static_cast<float>(mantissa);
        const float q = x / scale;
        beside += std::abs(q - static_cast<float>(middle)) < 8e-6f;
        for (const float unit : {0x1p-14f, 0x1p-11f, 1.0f, 8.0f}) {  // subnormal codes too
          const float at = x * unit;
          ASSERT_EQ(numeric::e4m3_from_f32(quotient(at, by)), numeric::quantize_e4m3(at, scale))
              << at << " / " << scale;
        }
      }
  EXPECT_GT(beside, 1000);
}

TEST(Quotient, DividesWhereAReciprocalWouldNotDo) {
  std::mt19937 random(1);
  for (int i = 0; i < 300000; ++i) {
    const uint32_t magnitude = static_cast<uint32_t>(random()) & 0x7fff0000u;
    const float scale = scale_of(magnitude);
    const float top = std::bit_cast<float>(magnitude);
    const float want = numeric::scale_from_absmax(top);
    if (std::isnan(want)) {
      ASSERT_TRUE(std::isnan(scale));
    } else {
      ASSERT_EQ(scale, want) << top;
    }
    // Nothing in a group is above its magnitude.
    const auto sign = static_cast<uint16_t>(random() & 0x8000u);
    const float x = numeric::f32_from_bf16(sign | static_cast<uint16_t>(random() % ((magnitude >> 16) + 1)));
    const float elements[4] = {x, 0.0f, -0.0f, -x};
    const uint32_t codes = codes_of<false>(elements, divisor_of(scale));
    for (int j = 0; j < 4; ++j)
      ASSERT_EQ(codes >> 8 * j & 0xff, numeric::quantize_e4m3(elements[j], scale)) << elements[j] << " / " << scale;
  }
}

}  // namespace
}  // namespace fpsa::kernel::cuda
