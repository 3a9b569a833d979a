// Vector operations on 8 F32 lanes (AVX2, FMA). Internal linkage; for ISA files only.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace fpsa::kernel {
namespace {

struct Avx2 {
  using F = __m256;
  using Mask = __m256;
  static constexpr int kLanes = 8;

  static F load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, F x) { _mm256_storeu_ps(p, x); }
  static F set1(float x) { return _mm256_set1_ps(x); }
  static F add(F a, F b) { return _mm256_add_ps(a, b); }
  static F sub(F a, F b) { return _mm256_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  // The second operand when either is NaN.
  static F max(F a, F b) { return _mm256_max_ps(a, b); }
  static Mask mask(uint32_t bits) {
    const __m256i lane_bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    const __m256i set = _mm256_and_si256(_mm256_set1_epi32(static_cast<int>(bits)), lane_bit);
    return _mm256_castsi256_ps(_mm256_cmpeq_epi32(set, lane_bit));
  }
  static F select(Mask m, F yes, F no) { return _mm256_blendv_ps(no, yes, m); }
  static bool any_greater(F a, F b) { return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ)) != 0; }
  static float reduce_max(F x) {
    __m128 r = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    r = _mm_max_ps(r, _mm_movehl_ps(r, r));
    return _mm_cvtss_f32(_mm_max_ss(r, _mm_shuffle_ps(r, r, 1)));
  }
  static float reduce_add(F x) {
    __m128 r = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    r = _mm_add_ps(r, _mm_movehl_ps(r, r));
    return _mm_cvtss_f32(_mm_add_ss(r, _mm_shuffle_ps(r, r, 1)));
  }
  // Multiplies by 2^n, n + 127 being the integer in the low bits of `n`, a float that had 1.5 * 2^23 + 127 added.
  // A multiplication, because adding to the exponent would turn some NaNs into numbers.
  static F scale_by_magic(F x, F n) {
    return mul(x, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(n), 23)));
  }
  // Nearest E4M3 value of x in [0, 448]: adding 2^20 times the power of two below x (at least 2^-6) leaves three
  // mantissa bits, rounded to nearest even.
  static F round_e4m3(F x) {
    const __m256i exponent = _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(0x7f800000));
    const __m256i floor = _mm256_max_epi32(exponent, _mm256_set1_epi32(0x3c800000));
    const F magic = _mm256_castsi256_ps(_mm256_add_epi32(floor, _mm256_set1_epi32(20 << 23)));
    return _mm256_sub_ps(_mm256_add_ps(x, magic), magic);
  }
};

}  // namespace
}  // namespace fpsa::kernel
