// Error bounds of the number formats, for tests and for tools that report error.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace fpsa::numeric {

inline constexpr double kF32Epsilon = 0x1p-24;  // unit roundoff: half the spacing at 1, 24 significant bits
inline constexpr double kBf16Epsilon = 0x1p-8;  // 8 significant bits
inline constexpr double kE4m3Epsilon = 0x1p-4;  // 4 significant bits, |x| in [2^-6, 448]

/// Largest |x - round(x)| for a value x that a format with this unit roundoff and smallest spacing holds
/// without overflow: relative in the normal range, half the smallest spacing below it.
inline double rounding_bound(double x, double epsilon, double smallest_step) {
  return std::max(std::abs(x) * epsilon, 0.5 * smallest_step);
}
inline double e4m3_rounding_bound(double x) {
  return rounding_bound(x, kE4m3Epsilon, 0x1p-9);
}
inline double bf16_rounding_bound(double x) {
  return rounding_bound(x, kBf16Epsilon, 0x1p-133);
}

/// Bound of |computed - exact| for a dot product or sum of `length` terms in any order, given the exact
/// sum of |a||b|: gamma = n eps / (1 - n eps), one rounding per product and one per addition.
inline double dot_bound(double epsilon, int64_t length, double sum_abs) {
  const double n = static_cast<double>(length + 1) * epsilon;
  return n < 1.0 ? n / (1.0 - n) * sum_abs : sum_abs;
}

}  // namespace fpsa::numeric
