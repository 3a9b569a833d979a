// F16 (IEEE binary16). Conversion from F32 rounds to nearest even.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace fpsa::numeric {

/// Returns the F16 bits nearest to x.
///   Edges     65,520 and more give infinity, as IEEE rounding does; NaN gives 0x7fff; subnormals are rounded, not
///             flushed
inline uint16_t f16_from_f32(float x) {
  const uint32_t sign = std::signbit(x) ? 0x8000 : 0;
  const double size = std::abs(x);
  if (std::isnan(x)) return 0x7fff;
  if (size >= 65520) return static_cast<uint16_t>(sign | 0x7c00);
  if (size == 0) return static_cast<uint16_t>(sign);
  // Multiples of the last place; a carry moves into the exponent.
  const int exponent = std::max(std::ilogb(size), -14);
  return static_cast<uint16_t>(sign + (static_cast<uint32_t>(exponent + 14) << 10) +
                               static_cast<uint32_t>(std::nearbyint(std::ldexp(size, 10 - exponent))));
}

/// Returns the value of F16 bits, exactly.
inline float f32_from_f16(uint16_t bits) {
  const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
  const double size = exponent == 0    ? std::ldexp(mantissa, -24)
                      : exponent == 31 ? (mantissa ? NAN : INFINITY)
                                       : std::ldexp(1024 + mantissa, exponent - 25);
  return static_cast<float>(bits & 0x8000 ? -size : size);
}

}  // namespace fpsa::numeric
