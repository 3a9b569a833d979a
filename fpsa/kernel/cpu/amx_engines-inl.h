// What differs between the dtypes of the AMX kernels: engines of flash_fwd-inl.h for the softmax, and of
// attention_fwd_amx-inl.h for the products. Internal linkage; for ISA files only.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "fpsa/kernel/cpu/exp2-inl.h"
#include "fpsa/kernel/cpu/expand-inl.h"
#include "fpsa/kernel/cpu/flash_fwd-inl.h"
#include "fpsa/kernel/cpu/vec_avx512-inl.h"

namespace fpsa::kernel {
namespace {

// P enters the second product as BF16; E4M3 codes are expanded, exactly, when a head is packed.
template <class TilesType, class InputType>
struct Bf16Tiles {
  using Tiles = TilesType;
  using V = Avx512;
  using Input = InputType;
  using Element = uint16_t;
  static constexpr bool kE4m3 = sizeof(Input) == 1, kScales = kE4m3, kExactSums = false;
  static constexpr float kLog2Offset = kE4m3 ? 8.0f : 0.0f;  // 256 P
  static constexpr double kLog2Unit = kLog2Offset;
  static constexpr int kBlockKeys = kernel::kBlockKeys;
  static constexpr int kStep = 32;

  static uint16_t expand(Input x) { return expand_to_bf16(x); }
  static V::F exp2(V::F x) { return exp2_degree4<V>(x); }
  static constexpr int first_key(int row) { return 2 * row; }

  template <int kC, int kA, int kB>
  static void dot_scores() {
    Tiles::template dot_bf16<kC, kA, kB>();
  }
  template <int kC, int kA, int kB>
  static void dot_values() {
    Tiles::template dot_bf16<kC, kA, kB>();
  }

  // An even number of vectors: groups have 32 keys.
  template <int kCount>
  static void put_probabilities(const V::F* s, int count, uint16_t* out) {
    const int n = kCount > 0 ? kCount : count;
    FPSA_UNROLL for (int c = 0; c < n; c += 2) {
      _mm512_storeu_si512(out + c * V::kLanes, (__m512i)_mm512_cvtne2ps_pbh(s[c + 1], s[c]));
    }
  }
};

// Both products sum in int32. P enters the second one as the byte nearest to 255 P.
template <class TilesType>
struct Int8Tiles {
  using Tiles = TilesType;
  using V = Avx512;
  using Input = uint8_t;  // signed codes
  using Element = uint8_t;
  static constexpr bool kE4m3 = false, kScales = true, kExactSums = true;
  static constexpr float kLog2Offset = 0.0f;
  static constexpr double kLog2Unit = 7.994353436858858;  // 255 P: exp2 has the factor
  static constexpr int kBlockKeys = kernel::kBlockKeys;
  static constexpr int kStep = 64;

  static uint8_t expand(uint8_t code) { return code; }
  static V::F exp2(V::F x) { return exp2_degree4<V, 255>(x); }
  static V::F to_f32(const void* sums) { return _mm512_cvtepi32_ps(_mm512_loadu_si512(sums)); }

  template <int kC, int kA, int kB>
  static void dot_scores() {
    Tiles::template dot_s8s8<kC, kA, kB>();
  }
  template <int kC, int kA, int kB>
  static void dot_values() {
    Tiles::template dot_u8s8<kC, kA, kB>();
  }

  // Packing works within 128-bit lanes: the codes of 64 keys lie as [4 fours of keys][4 vectors][4]. NaN becomes some
  // code; its row is NaN through the row sum.
  template <int kCount>
  static void put_probabilities(const V::F* s, int, uint8_t* out) {
    const __m512i low = _mm512_packs_epi32(_mm512_cvtps_epi32(s[0]), _mm512_cvtps_epi32(s[1]));
    const __m512i high = _mm512_packs_epi32(_mm512_cvtps_epi32(s[2]), _mm512_cvtps_epi32(s[3]));
    _mm512_storeu_si512(out, _mm512_packus_epi16(low, high));
  }
  static constexpr int first_key(int row) { return row % 4 * 16 + row / 4 * 4; }
};

}  // namespace
}  // namespace fpsa::kernel
