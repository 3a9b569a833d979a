// BF16: the upper half of an F32. Conversion from F32 rounds to nearest even.
#pragma once

#include <bit>
#include <cstdint>

#include "fpsa/numeric/select.h"

namespace fpsa::numeric {

/// Returns the BF16 bits nearest to x.
///   Edges     overflow gives infinity, as IEEE rounding does; NaN stays a NaN (made quiet, sign and upper
///             payload kept); subnormals are rounded, not flushed
inline uint16_t bf16_from_f32(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const int32_t rounded = static_cast<int32_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
  const int32_t quiet = static_cast<int32_t>((bits >> 16) | 0x40u);
  const bool is_nan = static_cast<int32_t>(bits & 0x7fffffffu) > 0x7f800000;
  return static_cast<uint16_t>(select(is_nan, quiet, rounded));
}

/// Returns the value of BF16 bits, exactly.
inline float f32_from_bf16(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

/// Converts n elements. `in` and `out` must not overlap; no alignment is required; n = 0 does nothing.
void bf16_from_f32(const float* in, uint16_t* out, int64_t n);
void f32_from_bf16(const uint16_t* in, float* out, int64_t n);

}  // namespace fpsa::numeric
