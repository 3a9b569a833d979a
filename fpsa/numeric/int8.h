// Signed 8-bit codes in [-127, 127]: real = code x scale. -128 is not used, so that a group is symmetric.
#pragma once

#include <cmath>
#include <cstdint>

#include "fpsa/numeric/scales.h"

namespace fpsa::numeric {

inline constexpr float kInt8Max = 127.0f;

/// Returns the scale of a group whose largest magnitude is `absmax`: absmax / 127; edges as scale_from_absmax.
inline float int8_scale_from_absmax(float absmax) {
  if (absmax == 0.0f) return 1.0f;
  const float scale = absmax / kInt8Max;
  return scale < kMinScale ? kMinScale : scale;
}

/// Returns the code of x in a group with this scale: the F32 quotient rounded to nearest even.
///   Requires  |x| <= the absmax that the scale is from, unless the scale is infinite or NaN
///   Edges     a scale that is infinite or NaN gives 0 for every x, so that code x scale is NaN
inline int8_t quantize_int8(float x, float scale) {
  const float quotient = x / scale;
  return std::isnan(quotient) ? int8_t{0} : static_cast<int8_t>(std::nearbyint(quotient));
}

/// Returns code x scale.
inline float dequantize_int8(int8_t code, float scale) {
  return static_cast<float>(code) * scale;
}

}  // namespace fpsa::numeric
