// The pre-pass with AVX2: 16 values at a time, 8 at the end of a head.
#include "fpsa/kernel/cpu/prepass_avx2.h"

#include <immintrin.h>

#include "fpsa/kernel/cpu/prepass-inl.h"

namespace fpsa::kernel::cpu {
namespace {

struct Avx2Prepass {
  using F = __m256;
  using I = __m256i;
  static constexpr int kLanes = 8;
  struct Pair {
    F even, odd;
  };

  static FPSA_INLINE Pair load(const uint16_t* p, int n) {
    const auto* from = reinterpret_cast<const __m128i*>(p);
    const I x =
        n == 16 ? _mm256_loadu_si256(reinterpret_cast<const I*>(p)) : _mm256_zextsi128_si256(_mm_loadu_si128(from));
    return {floats(_mm256_slli_epi32(x, 16)), floats(bit_and(x, set1_i(static_cast<int32_t>(0xffff0000u))))};
  }
  // A shuffle works within halves: the halves are put in place first.
  static FPSA_INLINE Pair load(const float* p, int n) {
    const F low = _mm256_loadu_ps(p), high = n == 16 ? _mm256_loadu_ps(p + 8) : _mm256_setzero_ps();
    const F a = _mm256_permute2f128_ps(low, high, 0x20), b = _mm256_permute2f128_ps(low, high, 0x31);
    return {_mm256_shuffle_ps(a, b, 0x88), _mm256_shuffle_ps(a, b, 0xdd)};
  }
  static FPSA_INLINE void store(float* p, Pair x, int n) {
    const F a = _mm256_unpacklo_ps(x.even, x.odd), b = _mm256_unpackhi_ps(x.even, x.odd);
    _mm256_storeu_ps(p, _mm256_permute2f128_ps(a, b, 0x20));
    if (n == 16) _mm256_storeu_ps(p + 8, _mm256_permute2f128_ps(a, b, 0x31));
  }
  // Values that BF16 holds exactly.
  static FPSA_INLINE void store(uint16_t* p, Pair x, int n) {
    const I pairs = _mm256_or_si256(_mm256_srli_epi32(bits(x.even), 16), bits(x.odd));
    if (n == 16)
      _mm256_storeu_si256(reinterpret_cast<I*>(p), pairs);
    else
      _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(pairs));
  }
  static FPSA_INLINE void store_codes(I even, I odd, uint8_t* p, int n) {
    const I pairs = _mm256_or_si256(even, _mm256_slli_epi32(odd, 8));
    const __m128i codes = _mm_packus_epi32(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
    if (n == 16)
      _mm_storeu_si128(reinterpret_cast<__m128i*>(p), codes);
    else
      _mm_storel_epi64(reinterpret_cast<__m128i*>(p), codes);
  }
  static FPSA_INLINE F load_whole(const float* p) { return _mm256_load_ps(p); }
  static FPSA_INLINE void store_whole(float* p, F x) { _mm256_store_ps(p, x); }

  static FPSA_INLINE F set1(float x) { return _mm256_set1_ps(x); }
  static FPSA_INLINE I set1_i(int32_t x) { return _mm256_set1_epi32(x); }
  static FPSA_INLINE F floats(I x) { return _mm256_castsi256_ps(x); }
  static FPSA_INLINE I bits(F x) { return _mm256_castps_si256(x); }
  static FPSA_INLINE F add(F a, F b) { return _mm256_add_ps(a, b); }
  static FPSA_INLINE F sub(F a, F b) { return _mm256_sub_ps(a, b); }
  static FPSA_INLINE F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static FPSA_INLINE F div(F a, F b) { return _mm256_div_ps(a, b); }
  static FPSA_INLINE F abs(F x) { return floats(bit_and(bits(x), set1_i(0x7fffffff))); }
  static FPSA_INLINE float sqrt(float x) { return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(x))); }
  // The nearest integer, ties to even; NaN gives -2^31.
  static FPSA_INLINE I nearest(F x) { return _mm256_cvtps_epi32(x); }
  static FPSA_INLINE I add_i(I a, I b) { return _mm256_add_epi32(a, b); }
  static FPSA_INLINE I sub_i(I a, I b) { return _mm256_sub_epi32(a, b); }
  static FPSA_INLINE I max(I a, I b) { return _mm256_max_epi32(a, b); }
  static FPSA_INLINE I bit_and(I a, I b) { return _mm256_and_si256(a, b); }
  // a | (b & mask)
  static FPSA_INLINE I or_masked(I a, I b, I mask) { return _mm256_or_si256(a, bit_and(b, mask)); }
  template <int n>
  static FPSA_INLINE I shift_right(I x) {
    return _mm256_srli_epi32(x, n);
  }
  // yes where x is NaN, else no
  static FPSA_INLINE I select_nan(F x, I yes, I no) {
    return _mm256_blendv_epi8(no, yes, bits(_mm256_cmp_ps(x, x, _CMP_UNORD_Q)));
  }
  static FPSA_INLINE bool all_finite(Pair x) {
    const I limit = set1_i(0x7f7fffff);
    const I above = _mm256_or_si256(_mm256_cmpgt_epi32(bits(x.even), limit), _mm256_cmpgt_epi32(bits(x.odd), limit));
    return _mm256_testz_si256(above, above) != 0;
  }
  static FPSA_INLINE uint32_t reduce_max(I x) {
    __m128i r = _mm_max_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    r = _mm_max_epi32(r, _mm_shuffle_epi32(r, 0x4e));
    return static_cast<uint32_t>(_mm_cvtsi128_si32(_mm_max_epi32(r, _mm_shuffle_epi32(r, 0xb1))));
  }
  static FPSA_INLINE float sum16(const Pair* sums) {
    const F v = add(add(sums[0].even, sums[0].odd), add(sums[1].even, sums[1].odd));
    const __m128 w = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    const __m128 pairs = _mm_add_ps(w, _mm_movehdup_ps(w));
    return _mm_cvtss_f32(_mm_add_ss(pairs, _mm_movehl_ps(pairs, pairs)));
  }
};

}  // namespace

Prepass prepass_e4m3_avx2() {
  return prepass<Avx2Prepass, E4m3Code>();
}
Prepass prepass_int8_avx2() {
  return prepass<Avx2Prepass, Int8Code>();
}

}  // namespace fpsa::kernel::cpu
