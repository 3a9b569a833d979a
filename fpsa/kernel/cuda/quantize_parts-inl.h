// What the kernels of quantize_sm90a share: BF16 as numbers, magnitudes, and codes by exact division.
#pragma once

#include "fpsa/kernel/cuda/ptx/global.h"
#include "fpsa/kernel/cuda/ptx/math.h"
#include "fpsa/kernel/cuda/ptx/thread.h"

namespace fpsa::kernel::cuda::inline FPSA_TARGET {

/// The two elements of a word.
FPSA_DEVICE float low_bf16(uint32_t word) {
  return ptx::float_of(word << 16);
}
FPSA_DEVICE float high_bf16(uint32_t word) {
  return ptx::float_of(word & 0xffff0000u);
}
/// Their magnitudes. Bits of non-negative BF16 are ordered as numbers are, NaN above infinity.
FPSA_DEVICE uint32_t magnitudes_of(uint32_t word) {
  return word & 0x7fff7fffu;
}

/// numeric::scale_from_absmax() of a group whose largest magnitude has these F32 bits.
FPSA_DEVICE float scale_of(uint32_t magnitude) {
  constexpr uint32_t kLeast = 0x00800000u;  // 2^-126
  uint32_t scale = ptx::bits_of(ptx::divide(ptx::float_of(magnitude), 448.0f));
  if (scale < kLeast) scale = magnitude == 0 ? ptx::bits_of(1.0f) : kLeast;
  return ptx::float_of(scale);
}

/// What divides by a scale: its reciprocal in two parts, that rounded towards zero and what it lacks, 0 or more. Or,
/// for scales of which no reciprocal will do, the scale and a negative number.
struct Divisor {
  float high, low;
  FPSA_DEVICE bool plain() const { return low >= 0.0f; }
};
static_assert(sizeof(Divisor) == 8);

FPSA_DEVICE Divisor divisor_of(float scale) {
  if (!(scale > 0x1p-60f && scale < 0x1p60f)) return {scale, -1.0f};
  const float y = ptx::reciprocal_below(scale);
  return {y, ptx::multiply(ptx::fused_multiply_add(-y, scale, 1.0f), y)};
}

/// A number q whose code is that of x / scale rounded, for x and group magnitudes of 11 bits or fewer (BF16, F16).
///
/// With y the high part, r = 1 - y scale is a float, at least 0 and below 2^-23, and the low part is r y rounded, so
/// that both parts make 1 / scale within r^2 + 2^-24 r, relative. x low is rounded as well: what is rounded last is
/// x / scale within 2^-45, relative: x / scale + d, |d| < 2^-21 units in the last place, if nothing underflows.
/// Rounding x / scale and q can differ only if a number half a unit beside a float is that close to x / scale; their
/// codes only if that float is m, halfway between two codes. Let B (24 bits) be the mantissa of the scale, A that of x
/// and k (5 bits, 16 or more) that of m: then |A 2^t - B (k 2^20 +- 1)| is an integer e below 2^-20 B, 15 or less, with
/// t of 37 or more. Modulo 2^20, B = b 2^20 + f with |f| = e and 8 <= b <= 16, so modulo 2^37 also (+-b + f k) 2^20 =
/// 0, and being smaller than 2^17, it is 0: b = |f| k, which only B = 2^24 - 1 and k = 16 allow. No magnitude of 11
/// bits or fewer has that B: it would be 7 times a power of two but for 2^-23 of it. Nothing that matters underflows: a
/// quotient of 2^-11 or less has code 0, x of others is above 2^-71, and x low, 2^-24 of the quotient or none of it, is
/// a normal number. Zeros keep their sign, since the low part is not negative.
FPSA_DEVICE float quotient(float x, const Divisor& by) {
  return ptx::fused_multiply_add(x, by.high, ptx::multiply(x, by.low));
}

/// The codes of four numbers, the first in bits 0 to 7. kPlain: by.plain() is known to hold.
template <bool kPlain>
FPSA_DEVICE uint32_t codes_of(const float (&x)[4], const Divisor& by) {
  float q[4];
  if (kPlain || by.plain()) {
    FPSA_UNROLL
    for (int i = 0; i < 4; ++i)
      q[i] = quotient(x[i], by);
  } else {
    FPSA_UNROLL
    for (int i = 0; i < 4; ++i)
      q[i] = ptx::divide(x[i], by.high);
  }
  return ptx::e4m3x2(q[0], q[1]) | ptx::e4m3x2(q[2], q[3]) << 16;
}

}  // namespace fpsa::kernel::cuda::inline FPSA_TARGET
