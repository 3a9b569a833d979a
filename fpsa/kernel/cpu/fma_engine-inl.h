// The engine of flash_fwd-inl.h on F32 multiply-adds: every dtype is expanded to F32 when it is packed.
// Internal linkage; for ISA files only.
#pragma once

#include <cstdint>

#include "fpsa/kernel/cpu/exp2-inl.h"
#include "fpsa/kernel/cpu/expand-inl.h"
#include "fpsa/kernel/cpu/flash_fwd-inl.h"

namespace fpsa::kernel {
namespace {

// kPanelVectors: vectors of a register tile, so that 6 rows of them and the operands fit the register file.
template <class VectorType, class InputType, int kPanelVectors>
struct Fma {
  using V = VectorType;
  using Input = InputType;
  using Element = float;
  static constexpr bool kE4m3 = sizeof(Input) == 1, kScales = kE4m3;
  static constexpr float kLog2Offset = kE4m3 ? 8.0f : 0.0f;  // 256 P
  static constexpr double kLog2Unit = kLog2Offset;
  static constexpr int kBlockKeys = kernel::kBlockKeys, kKeyExtra = 0;
  static constexpr int kPanel = kPanelVectors;
  static constexpr int kValueStep = 1;

  static float expand(Input x) { return expand_to_f32(x); }
  static typename V::F exp2(typename V::F x) { return exp2_degree6<V>(x); }

  // [dim][keys]
  template <class T>
  static void pack_keys(const T* const* k, int64_t dim, float* out) {
    for (int64_t d = 0; d < dim; ++d)
      for (int lane = 0; lane < V::kLanes; ++lane)
        out[d * V::kLanes + lane] = expand_to_f32(k[lane][d]);
  }

  // [keys][dim_padded]
  template <class T>
  static void pack_values(const T* const* v, int64_t dim, int64_t dim_padded, float* out) {
    for (int lane = 0; lane < V::kLanes; ++lane, out += dim_padded) {
      for (int64_t d = 0; d < dim; ++d)
        out[d] = expand_to_f32(v[lane][d]);
      for (int64_t d = dim; d < dim_padded; ++d)
        out[d] = 0.0f;
    }
  }

  template <int MR, int NC>
  static void scores(const float* q, int64_t dim, const float* const* k, float* score) {
    typename V::F sum[MR][NC];
    FPSA_UNROLL for (int r = 0; r < MR; ++r) {
      FPSA_UNROLL for (int c = 0; c < NC; ++c) {
        sum[r][c] = V::set1(0.0f);
      }
    }
    for (int64_t d = 0; d < dim; ++d) {
      typename V::F b[NC];
      FPSA_UNROLL for (int c = 0; c < NC; ++c) {
        b[c] = V::load(k[c] + d * V::kLanes);
      }
      FPSA_UNROLL for (int r = 0; r < MR; ++r) {
        const auto a = V::set1(q[r * dim + d]);
        FPSA_UNROLL for (int c = 0; c < NC; ++c) {
          sum[r][c] = V::fma(a, b[c], sum[r][c]);
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
  static void accumulate(const float* p, const float* const* v, int groups, float* accumulator, int64_t width) {
    typename V::F sum[MR][NC];
    FPSA_UNROLL for (int r = 0; r < MR; ++r) {
      FPSA_UNROLL for (int c = 0; c < NC; ++c) {
        sum[r][c] = V::load(accumulator + r * width + c * V::kLanes);
      }
    }
    for (int g = 0; g < groups; ++g) {
      const float* values = v[g];
      for (int key = 0; key < V::kLanes; ++key, values += width, ++p) {
        typename V::F b[NC];
        FPSA_UNROLL for (int c = 0; c < NC; ++c) {
          b[c] = V::load(values + c * V::kLanes);
        }
        FPSA_UNROLL for (int r = 0; r < MR; ++r) {
          const auto a = V::set1(p[r * kBlockKeys]);
          FPSA_UNROLL for (int c = 0; c < NC; ++c) {
            sum[r][c] = V::fma(a, b[c], sum[r][c]);
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

  // BF16 and F32 probabilities stay F32; E4M3 ones hold the exact value of their code.
  template <int kCount>
  static void put_probabilities(const typename V::F* s, int count, float* out) {
    const int n = kCount > 0 ? kCount : count;
    FPSA_UNROLL for (int c = 0; c < n; ++c) {
      V::store(out + c * V::kLanes, s[c]);
    }
  }

  // The backward's part. Columns are [key][queries].
  static constexpr int kColumnTile = V::kLanes == 8 ? 4 : 6;  // 8 = 4 + 4 rows, 16 = 6 + 6 + 4
  static constexpr int kColumnStep = 1;

  static float from_f32(float x) { return x; }
  static void put(typename V::F x, float* out) { V::store(out, x); }
  static void put_columns(typename V::F even, typename V::F odd, float* out) {
    V::store(out, even);
    V::store(out + kBlockKeys, odd);
  }

  template <int MR, int NC>
  static void accumulate_columns(const float* p, const float* k, int steps, float* accumulator, int64_t width) {
    typename V::F sum[MR][NC];
    FPSA_UNROLL for (int r = 0; r < MR; ++r) {
      FPSA_UNROLL for (int c = 0; c < NC; ++c) {
        sum[r][c] = V::load(accumulator + r * width + c * V::kLanes);
      }
    }
    for (int key = 0; key < steps; ++key, k += width, p += kBlockKeys) {
      typename V::F b[NC];
      FPSA_UNROLL for (int c = 0; c < NC; ++c) {
        b[c] = V::load(k + c * V::kLanes);
      }
      FPSA_UNROLL for (int r = 0; r < MR; ++r) {
        const auto a = V::set1(p[r]);
        FPSA_UNROLL for (int c = 0; c < NC; ++c) {
          sum[r][c] = V::fma(a, b[c], sum[r][c]);
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
