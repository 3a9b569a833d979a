// INT8 attention forward with AVX2: register tile 6 rows x 16 keys (or channels): 12 of 16 registers.
#include "fpsa/kernel/cpu/attention_fwd_int8_avx2.h"

#include "fpsa/kernel/cpu/vec_avx2-inl.h"
#include "fpsa/kernel/cpu/word_engine-inl.h"

namespace fpsa::kernel::cpu {
namespace {

struct Avx2Words : Avx2 {
  using Int32 = int32_t __attribute__((vector_size(32)));

  static Int32 load_words(const int16_t* p) { return (Int32)_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  static Int32 broadcast_pair(const int16_t* p) {
    int32_t pair;
    __builtin_memcpy(&pair, p, sizeof pair);
    return (Int32)_mm256_set1_epi32(pair);
  }
  static Int32 multiply_add(Int32 a, Int32 b) { return (Int32)_mm256_madd_epi16((__m256i)a, (__m256i)b); }
  static F to_f32(Int32 x) { return _mm256_cvtepi32_ps((__m256i)x); }
  // NaN becomes some code; its row is NaN through the row sum.
  static void store_codes(int16_t* out, F even, F odd) {
    const __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(even), _mm256_cvtps_epi32(odd));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), words);
  }
};

}  // namespace

AttentionFwd attention_fwd_int8_avx2() {
  return flash_fwd<WordDot<Avx2Words, 2>>();
}

}  // namespace fpsa::kernel::cpu
