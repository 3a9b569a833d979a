// INT8 attention forward with VPDPBUSD, unsigned by signed bytes in fours: register tile 6 rows x 64 keys (or
// channels), 24 accumulators.
//
// First product: queries become unsigned by adding 128; -128 * sum(k), kept with each key group, starts the sums, so
// they end as the signed dot products. Second product: codes of P are unsigned as they are; a block's sums are exact.
#include "fpsa/kernel/cpu/attention_fwd_int8_avx512bf16.h"

#include <immintrin.h>

#include "fpsa/kernel/cpu/exp2-inl.h"
#include "fpsa/kernel/cpu/flash_fwd-inl.h"
#include "fpsa/kernel/cpu/vec_avx512-inl.h"

namespace fpsa::kernel::cpu {
namespace {

// Sums are of this type: g++ 12 spills arrays of __m512i that go through the dot-product intrinsic.
using Int32x16 = int32_t __attribute__((vector_size(64)));

inline Int32x16 load(const uint8_t* p) {
  return (Int32x16)_mm512_loadu_si512(p);
}

inline Int32x16 broadcast_four(const uint8_t* p) {
  int32_t four;
  __builtin_memcpy(&four, p, sizeof four);
  return (Int32x16)_mm512_set1_epi32(four);
}

inline Int32x16 dot(Int32x16 sum, Int32x16 unsigned_bytes, Int32x16 signed_bytes) {
  return (Int32x16)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)unsigned_bytes, (__m512i)signed_bytes);
}

inline __m512 to_f32(Int32x16 x) {
  return _mm512_cvtepi32_ps((__m512i)x);
}

struct ByteDot {
  using V = Avx512;
  using Input = uint8_t;  // signed codes
  using Element = uint8_t;
  static constexpr bool kE4m3 = false, kScales = true;
  static constexpr float kLog2Offset = 0.0f;
  static constexpr double kLog2Unit = 7.994353436858858;  // 255 P: exp2 has the factor
  static constexpr int kBlockKeys = 128;                  // a block's sums are added to the accumulators in F32
  static constexpr int kKeyExtra = 64;                    // -128 * sum(k), int32
  static constexpr int kPanel = 4;                        // vectors of a register tile
  static constexpr int kValueStep = 4;                    // packed values hold four keys beside each other per channel

  static uint8_t expand(uint8_t code) { return code ^ 0x80; }
  static V::F exp2(V::F x) { return exp2_degree4<V, 255>(x); }

  // [dim / 4][16 keys][4], then the starts of the 16 sums
  static void pack_keys(const uint8_t* const* k, int64_t dim, uint8_t* out) {
    for (int lane = 0; lane < V::kLanes; ++lane) {
      int32_t sum = 0;
      for (int64_t d = 0; d < dim; d += 4) {
        __builtin_memcpy(out + d * V::kLanes + 4 * lane, k[lane] + d, 4);
        for (int i = 0; i < 4; ++i)
          sum += static_cast<int8_t>(k[lane][d + i]);
      }
      sum *= -128;
      __builtin_memcpy(out + dim * V::kLanes + 4 * lane, &sum, sizeof sum);
    }
  }

  // [4 fours of keys][dim_padded][4]
  static void pack_values(const uint8_t* const* v, int64_t dim, int64_t dim_padded, uint8_t* out) {
    for (int four = 0; four < V::kLanes; four += 4, out += 4 * dim_padded) {
      for (int64_t d = 0; d < dim; ++d)
        for (int i = 0; i < 4; ++i)
          out[4 * d + i] = v[four + i][d];
      for (int64_t d = 4 * dim; d < 4 * dim_padded; ++d)
        out[d] = 0;
    }
  }

  template <int MR, int NC>
  static void scores(const uint8_t* q, int64_t dim, const uint8_t* const* k, float* score) {
    Int32x16 sum[MR][NC];
    FPSA_UNROLL for (int r = 0; r < MR; ++r) {
      FPSA_UNROLL for (int c = 0; c < NC; ++c) {
        sum[r][c] = load(k[c] + dim * V::kLanes);
      }
    }
    for (int64_t d = 0; d < dim; d += 4) {
      Int32x16 b[NC];
      FPSA_UNROLL for (int c = 0; c < NC; ++c) {
        b[c] = load(k[c] + d * V::kLanes);
      }
      FPSA_UNROLL for (int r = 0; r < MR; ++r) {
        const Int32x16 a = broadcast_four(q + r * dim + d);
        FPSA_UNROLL for (int c = 0; c < NC; ++c) {
          sum[r][c] = dot(sum[r][c], a, b[c]);
        }
      }
    }
    FPSA_UNROLL for (int r = 0; r < MR; ++r) {
      FPSA_UNROLL for (int c = 0; c < NC; ++c) {
        V::store(score + r * kBlockKeys + c * V::kLanes, to_f32(sum[r][c]));
      }
    }
  }

  template <int MR, int NC>
  static void accumulate(const uint8_t* p, const uint8_t* const* v, int groups, float* accumulator, int64_t width) {
    Int32x16 sum[MR][NC];
    FPSA_UNROLL for (int r = 0; r < MR; ++r) {
      FPSA_UNROLL for (int c = 0; c < NC; ++c) {
        sum[r][c] = Int32x16{};
      }
    }
    for (int g = 0; g < groups; ++g) {
      const uint8_t *values = v[g], *codes = p + g / 4 * 64 + g % 4 * 4;
      for (int four = 0; four < V::kLanes / 4; ++four, values += 4 * width, codes += 16) {
        Int32x16 b[NC];
        FPSA_UNROLL for (int c = 0; c < NC; ++c) {
          b[c] = load(values + c * 4 * V::kLanes);
        }
        FPSA_UNROLL for (int r = 0; r < MR; ++r) {
          const Int32x16 a = broadcast_four(codes + r * kBlockKeys);
          FPSA_UNROLL for (int c = 0; c < NC; ++c) {
            sum[r][c] = dot(sum[r][c], a, b[c]);
          }
        }
      }
    }
    FPSA_UNROLL for (int r = 0; r < MR; ++r) {
      FPSA_UNROLL for (int c = 0; c < NC; ++c) {
        float* at = accumulator + r * width + c * V::kLanes;
        V::store(at, V::add(V::load(at), to_f32(sum[r][c])));
      }
    }
  }

  // Packing works within 128-bit lanes: the codes of four groups lie as [4 fours of keys][4 groups][4].
  template <int kCount>
  static void put_probabilities(const V::F* s, int count, uint8_t* out) {
    const int n = kCount > 0 ? kCount : count;
    FPSA_UNROLL for (int c = 0; c < n; c += 4) {
      const __m512i low = _mm512_packs_epi32(_mm512_cvtps_epi32(s[c]), _mm512_cvtps_epi32(s[c + 1]));
      const __m512i high = _mm512_packs_epi32(_mm512_cvtps_epi32(s[c + 2]), _mm512_cvtps_epi32(s[c + 3]));
      _mm512_storeu_si512(out + c * V::kLanes, _mm512_packus_epi16(low, high));
    }
  }
};

}  // namespace

AttentionFwd attention_fwd_int8_avx512bf16() {
  return flash_fwd<ByteDot>();
}

}  // namespace fpsa::kernel::cpu
