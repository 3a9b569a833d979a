// INT8 attention forward with AVX-512 BW: register tile 6 rows x 64 keys (or channels): 24 of 32 registers.
#include "fpsa/kernel/cpu/attention_fwd_int8_avx512.h"

#include "fpsa/kernel/cpu/vec_avx512-inl.h"
#include "fpsa/kernel/cpu/word_engine-inl.h"

namespace fpsa::kernel::cpu {
namespace {

struct Avx512Words : Avx512 {
  using Int32 = int32_t __attribute__((vector_size(64)));

  static Int32 load_words(const int16_t* p) { return (Int32)_mm512_loadu_si512(p); }
  static Int32 broadcast_pair(const int16_t* p) {
    int32_t pair;
    __builtin_memcpy(&pair, p, sizeof pair);
    return (Int32)_mm512_set1_epi32(pair);
  }
  static Int32 multiply_add(Int32 a, Int32 b) { return (Int32)_mm512_madd_epi16((__m512i)a, (__m512i)b); }
  static F to_f32(Int32 x) { return _mm512_cvtepi32_ps((__m512i)x); }
  // NaN becomes some code; its row is NaN through the row sum.
  static void store_codes(int16_t* out, F even, F odd) {
    const __m512i words = _mm512_packs_epi32(_mm512_cvtps_epi32(even), _mm512_cvtps_epi32(odd));
    _mm512_storeu_si512(out, words);
  }
};

}  // namespace

AttentionFwd attention_fwd_int8_avx512() {
  return flash_fwd<WordDot<Avx512Words, 4>>();
}

}  // namespace fpsa::kernel::cpu
