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

/// A scale and what divides by it.
struct Factor {
  float scale, minus_reciprocal;  // 0: only a division will do
};
static_assert(sizeof(Factor) == 8);

/// Of a group whose largest magnitude has these F32 bits: numeric::scale_from_absmax().
FPSA_DEVICE Factor factor_of(uint32_t magnitude) {
  constexpr uint32_t kLeast = 0x00800000u;  // 2^-126
  uint32_t scale = ptx::bits_of(ptx::divide(ptx::float_of(magnitude), 448.0f));
  if (scale < kLeast) scale = magnitude == 0 ? ptx::bits_of(1.0f) : kLeast;
  const float x = ptx::float_of(scale);
  const bool plain = x > 0x1p-60f && x < 0x1p60f;
  return {x, plain ? -ptx::reciprocal(x) : 0.0f};
}

/// A number q whose code is that of x / scale rounded, for x of 11 bits or fewer (BF16, F16).
///
/// With y = 1 / scale rounded, q0 = x y is within 2 units in the last place of x / scale, and q = q0 - (q0 scale - x) y
/// is x / scale + d rounded, |d| < 2^-21 units, if nothing underflows. Rounding x / scale and q can differ only if a
/// number half a unit beside a float is that close to x / scale; their codes only if that float is m, halfway between
/// two codes. Let B (24 bits) be the mantissa of the scale, A that of x and k (5 bits, 16 or more) that of m: then
/// |A 2^t - B (k 2^20 +- 1)| is an integer e of at most 2^-21 2 B, 8 or less, with t of 37 or more. Modulo 2^20, B = b
/// 2^20 + f with |f| = e and b of 4 bits, so modulo 2^37 also (+-b + f k) 2^20 = 0, and being smaller than 2^17, it is
/// 0: b = |f| k, which 8 <= b < 16 <= k forbids.
/// Nothing that matters underflows: a quotient of 2^-11 or less has code 0, x of others is above 2^-71, and the
/// remainder, 2^-24 of x, is a normal number. The form keeps the sign of a zero.
FPSA_DEVICE float quotient(float x, const Factor& by) {
  const float q0 = ptx::multiply(x, -by.minus_reciprocal);
  return ptx::fused_multiply_add(ptx::fused_multiply_add(q0, by.scale, -x), by.minus_reciprocal, q0);
}

/// The same for every scale, of four numbers at once.
FPSA_DEVICE void divide_all(float (&x)[4], const Factor& by) {
  if (by.minus_reciprocal != 0.0f) {
    FPSA_UNROLL
    for (int i = 0; i < 4; ++i)
      x[i] = quotient(x[i], by);
  } else {
    FPSA_UNROLL
    for (int i = 0; i < 4; ++i)
      x[i] = ptx::divide(x[i], by.scale);
  }
}

}  // namespace fpsa::kernel::cuda::inline FPSA_TARGET
