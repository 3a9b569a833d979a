// The engine of flash_fwd-inl.h for INT8 on multiply-adds of 16-bit words, in pairs along the summed dimension:
// without a byte dot product, codes become words when they are packed. Internal linkage; for ISA files only.
//
// A W is the vector operations V of its level with, on words:
//   Int32        vector of int32 sums, a vector_size type: g++ 12 spills arrays of __m256i and __m512i
//   load_words(), broadcast_pair(), multiply_add(), to_f32()
//   store_codes()  two vectors of 255 P as words, packed within 128-bit lanes
#pragma once

#include <cstdint>

#include "fpsa/kernel/cpu/exp2-inl.h"
#include "fpsa/kernel/cpu/flash_fwd-inl.h"

namespace fpsa::kernel {
namespace {

// kPanelVectors: vectors of a register tile, so that 6 rows of them and the operands fit the register file.
template <class W, int kPanelVectors>
struct WordDot {
  using V = W;
  using Input = int8_t;
  using Element = int16_t;
  using Int32 = typename W::Int32;
  static constexpr bool kE4m3 = false, kScales = true;
  static constexpr float kLog2Offset = 0.0f;
  static constexpr double kLog2Unit = 7.994353436858858;  // 255 P: exp2 has the factor
  static constexpr int kBlockKeys = kernel::kBlockKeys, kKeyExtra = 0;
  static constexpr int kPanel = kPanelVectors;
  static constexpr int kValueStep = 2;  // packed values hold two keys beside each other per channel

  static int16_t expand(int8_t code) { return code; }
  static typename V::F exp2(typename V::F x) { return exp2_degree4<V, 255>(x); }

  // [dim / 2][keys][2]
  static void pack_keys(const int8_t* const* k, int64_t dim, int16_t* out) {
    for (int64_t d = 0; d < dim; d += 2) {
      for (int lane = 0; lane < V::kLanes; ++lane) {
        out[d * V::kLanes + 2 * lane] = k[lane][d];
        out[d * V::kLanes + 2 * lane + 1] = k[lane][d + 1];
      }
    }
  }

  // [pairs of keys][dim_padded][2]
  static void pack_values(const int8_t* const* v, int64_t dim, int64_t dim_padded, int16_t* out) {
    for (int pair = 0; pair < V::kLanes / 2; ++pair, out += 2 * dim_padded) {
      const int8_t *even = v[2 * pair], *odd = v[2 * pair + 1];
      for (int64_t d = 0; d < dim; ++d) {
        out[2 * d] = even[d];
        out[2 * d + 1] = odd[d];
      }
      for (int64_t d = 2 * dim; d < 2 * dim_padded; ++d)
        out[d] = 0;
    }
  }

  template <int MR, int NC>
  static void scores(const int16_t* q, int64_t dim, const int16_t* const* k, float* score) {
    Int32 sum[MR][NC];
    clear<MR, NC>(sum);
    for (int64_t d = 0; d < dim; d += 2)
      multiply<MR, NC>(q + d, dim, k, d * V::kLanes, sum);
    FPSA_UNROLL for (int r = 0; r < MR; ++r) {
      FPSA_UNROLL for (int c = 0; c < NC; ++c) {
        V::store(score + r * kBlockKeys + c * V::kLanes, W::to_f32(sum[r][c]));
      }
    }
  }

  template <int MR, int NC>
  static void accumulate(const int16_t* p, const int16_t* const* v, int groups, float* accumulator, int64_t width) {
    Int32 sum[MR][NC];
    clear<MR, NC>(sum);
    for (int g = 0; g < groups; ++g) {
      const int16_t* values[NC];
      FPSA_UNROLL for (int c = 0; c < NC; ++c) {
        values[c] = v[g] + c * 2 * V::kLanes;
      }
      const int16_t* codes = p + g / 2 * 2 * V::kLanes + g % 2 * 4;
      for (int pair = 0; pair < V::kLanes / 2; ++pair)
        multiply<MR, NC>(codes + pair / 2 * 8 + pair % 2 * 2, kBlockKeys, values, pair * 2 * width, sum);
    }
    FPSA_UNROLL for (int r = 0; r < MR; ++r) {
      FPSA_UNROLL for (int c = 0; c < NC; ++c) {
        float* at = accumulator + r * width + c * V::kLanes;
        V::store(at, V::add(V::load(at), W::to_f32(sum[r][c])));
      }
    }
  }

  // Packing works within 128-bit lanes: the codes of two groups lie as [fours of keys][2 groups][4].
  template <int kCount>
  static void put_probabilities(const typename V::F* s, int count, int16_t* out) {
    const int n = kCount > 0 ? kCount : count;
    FPSA_UNROLL for (int c = 0; c < n; c += 2) {
      W::store_codes(out + c * V::kLanes, s[c], s[c + 1]);
    }
  }

 private:
  template <int MR, int NC>
  static void clear(Int32 (&sum)[MR][NC]) {
    FPSA_UNROLL for (int r = 0; r < MR; ++r) {
      FPSA_UNROLL for (int c = 0; c < NC; ++c) {
        sum[r][c] = Int32{};
      }
    }
  }

  // One pair of the summed dimension: a[r * a_stride] times b[c][at].
  template <int MR, int NC>
  static void multiply(const int16_t* a, int64_t a_stride, const int16_t* const* b, int64_t at, Int32 (&sum)[MR][NC]) {
    Int32 words[NC];
    FPSA_UNROLL for (int c = 0; c < NC; ++c) {
      words[c] = W::load_words(b[c] + at);
    }
    FPSA_UNROLL for (int r = 0; r < MR; ++r) {
      const Int32 pair = W::broadcast_pair(a + r * a_stride);
      FPSA_UNROLL for (int c = 0; c < NC; ++c) {
        sum[r][c] += W::multiply_add(pair, words[c]);
      }
    }
  }
};

}  // namespace
}  // namespace fpsa::kernel
