// The pre-pass with AVX-512 F, BW, DQ, VL: 32 values at a time, masks at the end of a head.
#include "fpsa/kernel/cpu/prepass_avx512.h"

#include <immintrin.h>

#include "fpsa/kernel/cpu/prepass-inl.h"

namespace fpsa::kernel::cpu {
namespace {

struct Avx512Prepass {
  using F = __m512;
  using I = __m512i;
  static constexpr int kLanes = 16;
  struct Pair {
    F even, odd;
  };

  static FPSA_INLINE __mmask32 first(int n) { return n >= 32 ? ~0u : (1u << n) - 1; }
  static FPSA_INLINE Pair load(const uint16_t* p, int n) {
    const I x = n == 32 ? _mm512_loadu_si512(p) : _mm512_maskz_loadu_epi16(first(n), p);
    return {floats(_mm512_slli_epi32(x, 16)), floats(bit_and(x, set1_i(static_cast<int32_t>(0xffff0000u))))};
  }
  static FPSA_INLINE Pair load(const float* p, int n) {
    const I even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const I odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
    const F low = n >= 16 ? _mm512_loadu_ps(p) : _mm512_maskz_loadu_ps(static_cast<__mmask16>(first(n)), p);
    const F high = n == 32  ? _mm512_loadu_ps(p + 16)
                   : n > 16 ? _mm512_maskz_loadu_ps(static_cast<__mmask16>(first(n - 16)), p + 16)
                            : _mm512_setzero_ps();
    return {_mm512_permutex2var_ps(low, even, high), _mm512_permutex2var_ps(low, odd, high)};
  }
  static FPSA_INLINE void store(float* p, Pair x, int n) {
    const I low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const I high = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    _mm512_mask_storeu_ps(p, static_cast<__mmask16>(first(n)), _mm512_permutex2var_ps(x.even, low, x.odd));
    _mm512_mask_storeu_ps(p + 16, static_cast<__mmask16>(first(n) >> 16), _mm512_permutex2var_ps(x.even, high, x.odd));
  }
  // Values that BF16 holds exactly.
  static FPSA_INLINE void store(uint16_t* p, Pair x, int n) {
    const I pairs = _mm512_or_si512(_mm512_srli_epi32(bits(x.even), 16), bits(x.odd));
    _mm512_mask_storeu_epi16(p, first(n), pairs);
  }
  static FPSA_INLINE void store_codes(I even, I odd, uint8_t* p, int n) {
    const __m256i codes = _mm512_cvtepi32_epi16(_mm512_or_si512(even, _mm512_slli_epi32(odd, 8)));
    if (n == 32)
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), codes);
    else
      _mm256_mask_storeu_epi8(p, first(n), codes);
  }
  static FPSA_INLINE F load_whole(const float* p) { return _mm512_load_ps(p); }
  static FPSA_INLINE void store_whole(float* p, F x) { _mm512_store_ps(p, x); }

  static FPSA_INLINE F set1(float x) { return _mm512_set1_ps(x); }
  static FPSA_INLINE I set1_i(int32_t x) { return _mm512_set1_epi32(x); }
  static FPSA_INLINE F floats(I x) { return _mm512_castsi512_ps(x); }
  static FPSA_INLINE I bits(F x) { return _mm512_castps_si512(x); }
  static FPSA_INLINE F add(F a, F b) { return _mm512_add_ps(a, b); }
  static FPSA_INLINE F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static FPSA_INLINE F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static FPSA_INLINE F div(F a, F b) { return _mm512_div_ps(a, b); }
  static FPSA_INLINE F abs(F x) { return floats(bit_and(bits(x), set1_i(0x7fffffff))); }
  static FPSA_INLINE float sqrt(float x) { return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(x))); }
  // The nearest integer, ties to even; NaN gives -2^31.
  static FPSA_INLINE I nearest(F x) { return _mm512_cvtps_epi32(x); }
  static FPSA_INLINE I add_i(I a, I b) { return _mm512_add_epi32(a, b); }
  static FPSA_INLINE I sub_i(I a, I b) { return _mm512_sub_epi32(a, b); }
  static FPSA_INLINE I max(I a, I b) { return _mm512_max_epi32(a, b); }
  static FPSA_INLINE I bit_and(I a, I b) { return _mm512_and_si512(a, b); }
  // a | (b & mask)
  static FPSA_INLINE I or_masked(I a, I b, I mask) { return _mm512_ternarylogic_epi32(a, b, mask, 0xf8); }
  template <int n>
  static FPSA_INLINE I shift_right(I x) {
    return _mm512_srli_epi32(x, n);
  }
  // yes where x is NaN, else no
  static FPSA_INLINE I select_nan(F x, I yes, I no) {
    return _mm512_mask_mov_epi32(no, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), yes);
  }
  static FPSA_INLINE bool all_finite(Pair x) {
    const I limit = set1_i(0x7f800000);
    return (_mm512_cmpge_epi32_mask(bits(x.even), limit) | _mm512_cmpge_epi32_mask(bits(x.odd), limit)) == 0;
  }
  static FPSA_INLINE uint32_t reduce_max(I x) { return static_cast<uint32_t>(_mm512_reduce_max_epi32(x)); }
  static FPSA_INLINE float sum16(const Pair* sums) {
    const F u = add(sums[0].even, sums[0].odd);
    const __m256 v = _mm256_add_ps(_mm512_castps512_ps256(u), _mm512_extractf32x8_ps(u, 1));
    const __m128 w = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    const __m128 pairs = _mm_add_ps(w, _mm_movehdup_ps(w));
    return _mm_cvtss_f32(_mm_add_ss(pairs, _mm_movehl_ps(pairs, pairs)));
  }
};

}  // namespace

Prepass prepass_e4m3_avx512() {
  return prepass<Avx512Prepass, E4m3Code>();
}
Prepass prepass_int8_avx512() {
  return prepass<Avx512Prepass, Int8Code>();
}

}  // namespace fpsa::kernel::cpu
