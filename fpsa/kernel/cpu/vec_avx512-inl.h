// Vector operations on 16 F32 lanes (AVX-512 F, DQ). Internal linkage; for ISA files only.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace fpsa::kernel {
namespace {

struct Avx512 {
  using F = __m512;
  using Mask = __mmask16;
  static constexpr int kLanes = 16;

  static F load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, F x) { _mm512_storeu_ps(p, x); }
  static F set1(float x) { return _mm512_set1_ps(x); }
  static F add(F a, F b) { return _mm512_add_ps(a, b); }
  static F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  // The second operand when either is NaN.
  static F max(F a, F b) { return _mm512_max_ps(a, b); }
  static Mask mask(uint32_t bits) { return static_cast<Mask>(bits); }
  static F select(Mask m, F yes, F no) { return _mm512_mask_blend_ps(m, no, yes); }
  static bool any_greater(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ) != 0; }
  static float reduce_max(F x) { return _mm512_reduce_max_ps(x); }
  static float reduce_add(F x) { return _mm512_reduce_add_ps(x); }
  // Multiplies by 2^n, n + 127 being the integer in the low bits of `n`, a float that had 1.5 * 2^23 + 127 added.
  // A multiplication, because adding to the exponent would turn some NaNs into numbers.
  static F scale_by_magic(F x, F n) {
    return mul(x, _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(n), 23)));
  }
  // Nearest E4M3 value of x in [0, 448]: adding 2^20 times the power of two below x (at least 2^-6) leaves three
  // mantissa bits, rounded to nearest even.
  static F round_e4m3(F x) {
    const __m512i exponent = _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7f800000));
    const __m512i floor = _mm512_max_epi32(exponent, _mm512_set1_epi32(0x3c800000));
    const F magic = _mm512_castsi512_ps(_mm512_add_epi32(floor, _mm512_set1_epi32(20 << 23)));
    return _mm512_sub_ps(_mm512_add_ps(x, magic), magic);
  }
};

}  // namespace
}  // namespace fpsa::kernel
