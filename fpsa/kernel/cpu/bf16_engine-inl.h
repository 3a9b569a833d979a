// The engine of flash_fwd-inl.h and flash_bwd-inl.h on VDPBF16PS: both operands in pairs along the summed dimension.
// E4M3 codes are expanded to BF16, which is exact, when they are packed. Internal linkage; for ISA files only.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "fpsa/kernel/cpu/exp2-inl.h"
#include "fpsa/kernel/cpu/expand-inl.h"
#include "fpsa/kernel/cpu/flash_fwd-inl.h"
#include "fpsa/kernel/cpu/vec_avx512-inl.h"

namespace fpsa::kernel {
namespace {

inline __m512bh load_pairs(const uint16_t* p) {
  return (__m512bh)_mm512_loadu_si512(p);
}

inline __m512bh broadcast_pair(const uint16_t* p) {
  int32_t pair;
  __builtin_memcpy(&pair, p, sizeof pair);
  return (__m512bh)_mm512_set1_epi32(pair);
}

template <class InputType>
struct Bf16Dot {
  using V = Avx512;
  using Input = InputType;
  using Element = uint16_t;
  static constexpr bool kE4m3 = sizeof(Input) == 1, kScales = kE4m3;
  static constexpr float kLog2Offset = kE4m3 ? 8.0f : 0.0f;  // 256 P
  static constexpr double kLog2Unit = kLog2Offset;
  static constexpr int kBlockKeys = kernel::kBlockKeys, kKeyExtra = 0;
  static constexpr int kPanel = 4;      // vectors of a register tile
  static constexpr int kValueStep = 2;  // packed values hold two keys beside each other per channel

  static uint16_t expand(Input x) { return expand_to_bf16(x); }
  static V::F exp2(V::F x) { return exp2_degree4<V>(x); }

  // [dim / 2][16 keys][2]
  template <class T>
  static void pack_keys(const T* const* k, int64_t dim, uint16_t* out) {
    for (int64_t d = 0; d < dim; d += 2) {
      for (int lane = 0; lane < V::kLanes; ++lane) {
        out[d * V::kLanes + 2 * lane] = expand_to_bf16(k[lane][d]);
        out[d * V::kLanes + 2 * lane + 1] = expand_to_bf16(k[lane][d + 1]);
      }
    }
  }

  // [8 pairs of keys][dim_padded][2]
  template <class T>
  static void pack_values(const T* const* v, int64_t dim, int64_t dim_padded, uint16_t* out) {
    for (int pair = 0; pair < V::kLanes / 2; ++pair, out += 2 * dim_padded) {
      const T *even = v[2 * pair], *odd = v[2 * pair + 1];
      for (int64_t d = 0; d < dim; ++d) {
        out[2 * d] = expand_to_bf16(even[d]);
        out[2 * d + 1] = expand_to_bf16(odd[d]);
      }
      for (int64_t d = 2 * dim; d < 2 * dim_padded; ++d)
        out[d] = 0;
    }
  }

  template <int MR, int NC>
  static void scores(const uint16_t* q, int64_t dim, const uint16_t* const* k, float* score) {
    __m512 sum[MR][NC];
    FPSA_UNROLL for (int r = 0; r < MR; ++r) {
      FPSA_UNROLL for (int c = 0; c < NC; ++c) {
        sum[r][c] = _mm512_setzero_ps();
      }
    }
    for (int64_t d = 0; d < dim; d += 2) {
      __m512bh b[NC];
      FPSA_UNROLL for (int c = 0; c < NC; ++c) {
        b[c] = load_pairs(k[c] + d * V::kLanes);
      }
      FPSA_UNROLL for (int r = 0; r < MR; ++r) {
        const __m512bh a = broadcast_pair(q + r * dim + d);
        FPSA_UNROLL for (int c = 0; c < NC; ++c) {
          sum[r][c] = _mm512_dpbf16_ps(sum[r][c], a, b[c]);
        }
      }
    }
    FPSA_UNROLL for (int r = 0; r < MR; ++r) {
      FPSA_UNROLL for (int c = 0; c < NC; ++c) {
        V::store(score + r * kBlockKeys + c * V::kLanes, sum[r][c]);
      }
    }
  }

  template <int MR, int NC>
  static void accumulate(const uint16_t* p, const uint16_t* const* v, int groups, float* accumulator, int64_t width) {
    __m512 sum[MR][NC];
    FPSA_UNROLL for (int r = 0; r < MR; ++r) {
      FPSA_UNROLL for (int c = 0; c < NC; ++c) {
        sum[r][c] = V::load(accumulator + r * width + c * V::kLanes);
      }
    }
    for (int g = 0; g < groups; ++g) {
      const uint16_t* values = v[g];
      for (int key = 0; key < V::kLanes; key += 2, values += 2 * width, p += 2) {
        __m512bh b[NC];
        FPSA_UNROLL for (int c = 0; c < NC; ++c) {
          b[c] = load_pairs(values + c * 2 * V::kLanes);
        }
        FPSA_UNROLL for (int r = 0; r < MR; ++r) {
          const __m512bh a = broadcast_pair(p + r * kBlockKeys);
          FPSA_UNROLL for (int c = 0; c < NC; ++c) {
            sum[r][c] = _mm512_dpbf16_ps(sum[r][c], a, b[c]);
          }
        }
      }
    }
    FPSA_UNROLL for (int r = 0; r < MR; ++r) {
      FPSA_UNROLL for (int c = 0; c < NC; ++c) {
        V::store(accumulator + r * width + c * V::kLanes, sum[r][c]);
      }
    }
  }

  template <int kCount>
  static void put_probabilities(const V::F* s, int count, uint16_t* out) {
    if constexpr (kCount > 0) {
      FPSA_UNROLL for (int c = 0; c < kCount; c += 2) {
        _mm512_storeu_si512(out + c * V::kLanes, (__m512i)_mm512_cvtne2ps_pbh(s[c + 1], s[c]));
      }
    } else {
      for (int c = 0; c < count; ++c)
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + c * V::kLanes), (__m256i)_mm512_cvtneps_pbh(s[c]));
    }
  }

  // The backward's part. Columns are [pair of keys][queries][2].
  static constexpr int kColumnTile = 6;  // 16 = 6 + 6 + 4 rows
  static constexpr int kColumnStep = 2;

  static uint16_t from_f32(float x) { return round_to_bf16(x); }
  static void put(V::F x, uint16_t* out) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), (__m256i)_mm512_cvtneps_pbh(x));
  }
  static void put_columns(V::F even, V::F odd, uint16_t* out) {
    // Lane i of both beside each other: 0, 16, 1, 17, ...
    const __m512i order =
        _mm512_add_epi32(_mm512_set1_epi32(16 << 16),
                         _mm512_mullo_epi32(_mm512_set1_epi32(0x10001),
                                            _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)));
    const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(odd, even);
    _mm512_storeu_si512(out, _mm512_permutexvar_epi16(order, both));
  }

  template <int MR, int NC>
  static void accumulate_columns(const uint16_t* p, const uint16_t* k, int steps, float* accumulator, int64_t width) {
    __m512 sum[MR][NC];
    FPSA_UNROLL for (int r = 0; r < MR; ++r) {
      FPSA_UNROLL for (int c = 0; c < NC; ++c) {
        sum[r][c] = V::load(accumulator + r * width + c * V::kLanes);
      }
    }
    for (int pair = 0; pair < steps; ++pair, k += 2 * width, p += 2 * kBlockKeys) {
      __m512bh b[NC];
      FPSA_UNROLL for (int c = 0; c < NC; ++c) {
        b[c] = load_pairs(k + c * 2 * V::kLanes);
      }
      FPSA_UNROLL for (int r = 0; r < MR; ++r) {
        const __m512bh a = broadcast_pair(p + 2 * r);
        FPSA_UNROLL for (int c = 0; c < NC; ++c) {
          sum[r][c] = _mm512_dpbf16_ps(sum[r][c], a, b[c]);
        }
      }
    }
    FPSA_UNROLL for (int r = 0; r < MR; ++r) {
      FPSA_UNROLL for (int c = 0; c < NC; ++c) {
        V::store(accumulator + r * width + c * V::kLanes, sum[r][c]);
      }
    }
  }
};

}  // namespace
}  // namespace fpsa::kernel
