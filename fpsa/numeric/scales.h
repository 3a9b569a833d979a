// Scales of the E4M3 quantisation: real = code x scale.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "fpsa/numeric/e4m3.h"

namespace fpsa::numeric {

/// Smallest scale that is used: the smallest normal F32. Below it the division x / scale would lose its
/// meaning (and its inverse would overflow); a group with an absmax under 448 x 2^-126 is zero for all purposes.
inline constexpr float kMinScale = 0x1p-126f;

/// Returns max |x[i]| over n elements with stride in elements; 0 for n = 0.
///   Edges     any infinity gives infinity, any NaN gives NaN: bad values are carried, never skipped
inline float absmax(const float* x, int64_t n, int64_t stride = 1) {
  // The order of non-negative floats is the order of their bits, and NaN sorts above infinity.
  uint32_t top = 0;
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t bits = std::bit_cast<uint32_t>(x[i * stride]) & 0x7fffffffu;
    top = bits > top ? bits : top;
  }
  return std::bit_cast<float>(top);
}

/// Returns the scale of a group whose largest magnitude is `absmax`: absmax / 448.
///   Edges     0 gives 1; a tiny absmax gives kMinScale; infinity and NaN pass through, so that code x scale
///             is NaN for the whole group and a bad input shows in the output
inline float scale_from_absmax(float absmax) {
  if (absmax == 0.0f) return 1.0f;
  const float scale = absmax / kE4m3Max;
  return scale < kMinScale ? kMinScale : scale;
}

/// Returns the code of x in a group with this scale. The division is exact rounding; multiplying by 1 / scale
/// would give a different code for some x.
inline uint8_t quantize_e4m3(float x, float scale) {
  return e4m3_from_f32(x / scale);
}

/// Returns code x scale.
inline float dequantize_e4m3(uint8_t code, float scale) {
  return f32_from_e4m3(code) * scale;
}

}  // namespace fpsa::numeric
