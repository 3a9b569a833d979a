// What the backward's passes read, made in one pass over the gradient and the output: a warp takes a segment, row by
// row.
//
// With codes the gradient is scaled here, once for each element instead of once for each pair: by V's scale, which dP
// needs and dV gives back, and by 1 / (256 row sum), which turns the 256 P of both passes into probabilities. It is
// rounded to BF16 after that, and D is made of the rounded values, so that a row's dS still adds up to 0 where P V
// gives the output.
#pragma once

#include "fpsa/kernel/cuda/attention_bwd_bf16_sm90a.h"
#include "fpsa/kernel/cuda/attention_parts-inl.h"
#include "fpsa/kernel/cuda/ptx/math.h"
#include "fpsa/kernel/cuda/ptx/thread.h"

namespace fpsa::kernel::cuda::inline FPSA_TARGET {

inline constexpr int kPrepareThreads = 128;
inline constexpr float kLog2E = 1.44269504089f;

template <ptx::Element kElement>
FPSA_DEVICE float value_of(uint32_t bits) {
  if constexpr (kElement == ptx::Element::kF16)
    return ptx::value_of_f16(bits);
  else
    return ptx::float_of(bits << 16);
}

/// kCount neighbouring elements, as one access.
template <int kCount>
FPSA_DEVICE void load_elements(const InView& from, int64_t at, float (&x)[kCount]) {
  struct alignas(kCount * 4) Wide {
    float of[kCount];
  };
  struct alignas(kCount * 2) Narrow {
    uint16_t of[kCount];
  };
  if (from.type == OutType::kF32) {
    const Wide wide = *reinterpret_cast<const Wide*>(static_cast<const float*>(from.data) + at);
    FPSA_UNROLL
    for (int i = 0; i < kCount; ++i)
      x[i] = wide.of[i];
  } else {
    const Narrow narrow = *reinterpret_cast<const Narrow*>(static_cast<const uint16_t*>(from.data) + at);
    FPSA_UNROLL
    for (int i = 0; i < kCount; ++i)
      x[i] = from.type == OutType::kF16 ? value_of<ptx::Element::kF16>(narrow.of[i])
                                        : value_of<ptx::Element::kBf16>(narrow.of[i]);
  }
}

/// 1 / (256 row sum) of a row; 0 where it sees no key.
FPSA_DEVICE float inverse_sum(const AttentionBwdPrepareParams& p, int64_t row) {
  const float lse = p.lse[row];
  return lse == kLowest ? 0.0f : ptx::exp2_approx(p.row_max[row] - kCodeBits - lse * kLog2E);
}

/// kElement: of `packed`.
template <int kDim, bool kCoded, ptx::Element kElement = ptx::Element::kBf16>
FPSA_DEVICE void attention_bwd_prepare(const AttentionBwdPrepareParams& p) {
  constexpr int kCount = kDim / ptx::kWarpThreads, kArrays = bwd_statistics(kCoded);
  constexpr int kWarps = kPrepareThreads / ptx::kWarpThreads;
  struct alignas(kCount * 2) Packed {
    uint32_t of[kCount / 2];
  };
  const int lane = ptx::thread_index() % ptx::kWarpThreads, warp = ptx::thread_index() / ptx::kWarpThreads;
  const int64_t total = int64_t{p.batch} * p.heads * p.segments;
  for (int64_t at = int64_t{ptx::block_index()} * kWarps + warp; at < total;
       at += int64_t{ptx::grid_blocks()} * kWarps) {
    const int job = static_cast<int>(at / p.segments), first = static_cast<int>(at % p.segments) * kSegment;
    const int batch = job / p.heads, head = job % p.heads;
    // Every lane has the statistics of its slot.
    const int own_row = p.row_of_slot[first + lane];
    const float lse = own_row < 0 ? kLowest : p.lse[job * p.queries + own_row];
    const bool empty = lse == kLowest;
    float shift = empty ? -kLowest : lse * kLog2E, delta = 0, scale = 1;
    if constexpr (kCoded) {
      if (!empty) shift = p.row_max[job * p.queries + own_row] - kCodeBits;
      scale = p.q_scale[at * kSegment + lane];
    }
    float v_scale[kCount], v_inverse[kCount];
    if constexpr (kCoded) {
      FPSA_UNROLL
      for (int i = 0; i < kCount; ++i) {
        v_scale[i] = p.v_scale[job * kDim + lane * kCount + i];
        v_inverse[i] = ptx::divide(1.0f, v_scale[i]);
      }
    }
    for (int slot = 0; slot < kSegment; ++slot) {
      const int row = p.row_of_slot[first + slot];
      float d_out[kCount] = {}, out[kCount] = {};
      if (row >= 0) {
        load_elements(p.d_out, p.d_out.at(batch, head, row) + lane * kCount, d_out);
        load_elements(p.out, p.out.at(batch, head, row) + lane * kCount, out);
      }
      if constexpr (kCoded) {
        const float weight = row < 0 ? 0.0f : inverse_sum(p, job * p.queries + row);
        FPSA_UNROLL
        for (int i = 0; i < kCount; ++i) {
          d_out[i] *= v_scale[i] * weight;
          out[i] *= v_inverse[i];
        }
      }
      Packed packed;
      float sum = 0;
      FPSA_UNROLL
      for (int i = 0; i < kCount; i += 2) {
        packed.of[i / 2] = ptx::rounded_pair<kElement>(d_out[i], d_out[i + 1]);
        sum = ptx::fused_multiply_add(value_of<kElement>(packed.of[i / 2] & 0xffffu), out[i], sum);
        sum = ptx::fused_multiply_add(value_of<kElement>(packed.of[i / 2] >> 16), out[i + 1], sum);
      }
      FPSA_UNROLL
      for (int lanes = 1; lanes < ptx::kWarpThreads; lanes *= 2)
        sum += ptx::shuffle_xor(sum, lanes);
      if (slot == lane) delta = sum;
      *reinterpret_cast<Packed*>(p.packed + (at * kSegment + slot) * kDim + lane * kCount) = packed;
    }
    float* statistics = p.statistics + at * kArrays * kSegment + lane;
    statistics[kBwdShift * kSegment] = shift;
    statistics[kBwdDelta * kSegment] = empty ? 0.0f : delta * scale;
    if constexpr (kCoded) statistics[kBwdScale * kSegment] = scale;
  }
}

/// Codes to BF16, which holds every one of them; a warp takes a segment.
template <int kDim>
FPSA_DEVICE void attention_bwd_expand(const AttentionBwdExpandParams& p) {
  constexpr int kWarps = kPrepareThreads / ptx::kWarpThreads;
  const int lane = ptx::thread_index() % ptx::kWarpThreads, warp = ptx::thread_index() / ptx::kWarpThreads;
  struct alignas(8) Four {
    uint32_t of[2];
  };
  for (int64_t at = int64_t{ptx::block_index()} * kWarps + warp; at < p.segments;
       at += int64_t{ptx::grid_blocks()} * kWarps) {
    const uint8_t* codes = p.codes + at * kSegment * kDim;
    uint16_t* values = p.values + at * kSegment * kDim;
    if (!p.of_values) {
      FPSA_UNROLL
      for (int i = 0; i < kDim / 4; ++i) {
        const uint32_t four = reinterpret_cast<const uint32_t*>(codes)[i * 32 + lane];
        float x[4];
        ptx::values_of_e4m3x2(four & 0xffffu, x[0], x[1]);
        ptx::values_of_e4m3x2(four >> 16, x[2], x[3]);
        reinterpret_cast<Four*>(values)[i * 32 + lane] = {{ptx::bf16x2(x[0], x[1]), ptx::bf16x2(x[2], x[3])}};
      }
      continue;
    }
    // A lane has the 32 codes of a channel, and lanes write neighbouring channels of a slot.
    FPSA_UNROLL
    for (int strip = 0; strip < kDim / 32; ++strip) {
      const int channel = strip * 32 + lane;
      uint32_t words[kSegment / 4];
      FPSA_UNROLL
      for (int i = 0; i < kSegment / 4; ++i)
        words[i] = reinterpret_cast<const uint32_t*>(codes + channel * kSegment)[i];
      FPSA_UNROLL
      for (int slot = 0; slot < kSegment; ++slot) {
        const int place = value_place(slot);
        float value, unused;
        ptx::values_of_e4m3x2(words[place / 4] >> place % 4 * 8 & 0xffu, value, unused);
        values[slot * kDim + channel] = static_cast<uint16_t>(ptx::bf16x2(value, 0.0f));
      }
    }
  }
}

}  // namespace fpsa::kernel::cuda::inline FPSA_TARGET
