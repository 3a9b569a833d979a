// E4M3 (the finite "fn" variant): 1 sign, 4 exponent (bias 7), 3 mantissa bits; no infinity, largest value 448,
// NaN at 0x7f and 0xff, smallest subnormal 2^-9.
//
// The scalar forms are branch-free integer code that a compiler turns into vector code; the array forms give
// the same results. They are the specification that ISA-specific kernels are tested against.
#pragma once

#include <bit>
#include <cstdint>

#include "fpsa/numeric/select.h"

namespace fpsa::numeric {

inline constexpr float kE4m3Max = 448.0f;         // code 0x7e
inline constexpr float kE4m3MinNormal = 0x1p-6f;  // code 0x08
inline constexpr float kE4m3Step = 0x1p-9f;       // spacing below the smallest normal
inline constexpr uint8_t kE4m3Nan = 0x7f;

/// Returns the E4M3 code nearest to x.
///   Edges     |x| > 448 and infinity give +-448; every NaN gives 0x7f; -0 and small negatives give 0x80
///   Numerics  round to nearest even; needs the default floating-point rounding mode; denormal inputs and a
///             flush-to-zero mode give the same codes
inline uint8_t e4m3_from_f32(float x) {
  // Signed comparisons: vector units have them at every level, unsigned ones only at some.
  const int32_t bits = std::bit_cast<int32_t>(x);
  const int32_t abs = bits & 0x7fffffff;
  // Below 2^-6 codes are multiples of 2^-9: adding 2^14, whose last place is 2^-9, rounds to one of them.
  constexpr float kMagic = 0x1p14f;
  const int32_t small = std::bit_cast<int32_t>(std::bit_cast<float>(abs) + kMagic) - std::bit_cast<int32_t>(kMagic);
  // Otherwise round the 23-bit mantissa to 3 bits; a carry moves into the exponent, which is what is wanted.
  // 120 = 127 - 7 rebiases the exponent.
  const uint32_t carried = static_cast<uint32_t>(abs) + 0x7ffffu + static_cast<uint32_t>((abs >> 20) & 1);
  const int32_t rounded = static_cast<int32_t>(carried >> 20) - (120 << 3);
  const int32_t large = rounded < 0x7e ? rounded : 0x7e;
  const int32_t code = select(abs < 0x3c800000, small, large) | ((bits >> 24) & 0x80);
  return static_cast<uint8_t>(select(abs > 0x7f800000, kE4m3Nan, code));
}

/// Returns the value of a code, exactly. The NaN codes give a quiet NaN of their sign.
constexpr float f32_from_e4m3(uint8_t code) {
  const int32_t abs = code & 0x7f;
  const int32_t normal = (abs << 20) + (120 << 23);
  const int32_t subnormal = std::bit_cast<int32_t>(static_cast<float>(abs) * kE4m3Step);
  const int32_t finite = select(abs < 8, subnormal, normal);
  const uint32_t sign = static_cast<uint32_t>(code & 0x80u) << 24;
  return std::bit_cast<float>(static_cast<uint32_t>(select(abs == kE4m3Nan, 0x7fc00000, finite)) | sign);
}

/// Converts n elements. `in` and `out` must not overlap; no alignment is required; n = 0 does nothing.
void e4m3_from_f32(const float* in, uint8_t* out, int64_t n);
void f32_from_e4m3(const uint8_t* in, float* out, int64_t n);

}  // namespace fpsa::numeric
