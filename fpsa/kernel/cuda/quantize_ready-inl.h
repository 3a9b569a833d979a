// A stage of quantize_sm90a's ring, and the warp that makes it ready (quantize_sm90a-inl.h has the other warps): the
// norms of its rows, or the scales of its groups and what divides by them.
#pragma once

#include "fpsa/kernel/cuda/ptx/barrier.h"
#include "fpsa/kernel/cuda/quantize_parts-inl.h"
#include "fpsa/kernel/cuda/quantize_sm90a.h"
#include "fpsa/kernel/cuda/tiling/quantize_tiling.h"

namespace fpsa::kernel::cuda::inline FPSA_TARGET {

/// A task, as the stages of shared memory hold it.
struct alignas(16) Quad {
  int32_t task, batch, shape, unit;  // task -1: there are no more
  int32_t group[kQuad], row[kQuad];
  float inverse_rms[kQuad];
};
static_assert(sizeof(Quad) == 4 * kQuadWords);

/// Bits of Quad::shape.
inline constexpr int32_t kFourTokens = 1, kOneGroup = 2;

/// Addresses of one stage, and of its barriers: `landed` ends when rows and turns have come, `ready` when the rest has,
/// `free` when every warp that computes has done with it.
struct Stage {
  ptx::SharedAddress rows, turns, quad, factors, landed, ready, free;
  FPSA_DEVICE ptx::SharedAddress field(int number) const { return quad + 4 * static_cast<uint32_t>(number); }
};
FPSA_DEVICE Stage stage_at(ptx::SharedAddress memory, const QuantizeMap& map, int number) {
  const auto at = static_cast<uint32_t>(number % kQuantizeStages);
  const ptx::SharedAddress base = memory + at * map.stage_bytes;
  const ptx::SharedAddress barriers = memory + map.barriers + at * (kQuantizeBarriers * ptx::kBarrierBytes);
  return {base,
          base + map.turns,
          base + map.quads,
          base + map.factors,
          barriers,
          barriers + ptx::kBarrierBytes,
          barriers + 2 * ptx::kBarrierBytes};
}
FPSA_DEVICE uint32_t phase_of(int number) {
  return static_cast<uint32_t>(number / kQuantizeStages) & 1;
}

/// A thread of the warp that makes quads ready.
template <int kDim, bool kNorm>
struct Preparer {
  static constexpr int kRowLanes = 8;  // that share a row's sum

  const QuantizeRowsParams& p;
  const ptx::SharedAddress memory;
  const QuantizeMap& map;
  const int lane;

  /// 1 / rms of row lane / 8, 0 where there is no token: every product and sum of the contract. A lane has the columns
  /// j mod 32 of four j.
  FPSA_DEVICE float inverse_rms(const Stage& stage) const {
    const int width = p.heads * kDim, row = lane / kRowLanes;
    const bool exists = ptx::load_shared<int32_t>(stage.field(8 + row)) >= 0;
    float sum[4] = {};
    if (exists) {
      ptx::SharedAddress at =
          stage.rows + static_cast<uint32_t>(row) * map.row_pitch + 8 * static_cast<uint32_t>(lane % kRowLanes);
      const auto add_next = [&](uint32_t offset) {
        const auto words = ptx::load_shared<ptx::Words2>(at + offset);
        const float x[4] = {low_bf16(words.at[0]), high_bf16(words.at[0]), low_bf16(words.at[1]),
                            high_bf16(words.at[1])};
        FPSA_UNROLL
        for (int i = 0; i < 4; ++i)
          sum[i] = ptx::fused_multiply_add(x[i], x[i], sum[i]);  // the square of a BF16 is an F32
      };
      int left = width / 32;
      for (; left >= 8; left -= 8, at += 8 * 64) {
        FPSA_UNROLL
        for (uint32_t i = 0; i < 8; ++i)
          add_next(64 * i);
      }
      for (; left > 0; --left, at += 64)
        add_next(0);
    }
    // Neighbours among 32 sums, then j and j+8 of those 16, j and j+4, and (w0 + w1) + (w2 + w3).
    float pair[2] = {ptx::add(sum[0], sum[1]), ptx::add(sum[2], sum[3])};
    FPSA_UNROLL
    for (int i = 0; i < 2; ++i)
      pair[i] = ptx::add(pair[i], ptx::shuffle_xor(pair[i], 4));
    FPSA_UNROLL
    for (int i = 0; i < 2; ++i)
      pair[i] = ptx::add(pair[i], ptx::shuffle_xor(pair[i], 2));
    const float half = ptx::add(pair[0], pair[1]), all = ptx::add(half, ptx::shuffle_xor(half, 1));
    const float mean = ptx::divide(all, static_cast<float>(width));
    return exists ? ptx::divide(1.0f, ptx::square_root(ptx::add(mean, p.eps))) : 0.0f;
  }

  FPSA_DEVICE void norms(const Stage& stage, int batch, int slot) const {
    const float found = inverse_rms(stage);
    if (lane % kRowLanes != 0) return;
    const int row = lane / kRowLanes;
    ptx::store_shared(stage.field(12 + row), found);
    p.inverse_rms[int64_t{batch} * p.slots + slot + row] = found;
  }

  /// What divides, by head and row, and the scales.
  FPSA_DEVICE void divisors(const Stage& stage, int batch, int slot, int unit) const {
    ptx::wait_at_least(p.complete + int64_t{batch} * p.units + unit, static_cast<uint32_t>(p.plan.quads_of_unit[unit]));
    if (kNorm && lane < kQuad)
      ptx::store_shared(stage.field(12 + lane), ptx::load_shared_by_blocks(reinterpret_cast<const uint32_t*>(
                                                    p.inverse_rms + int64_t{batch} * p.slots + slot + lane)));
    const auto groups = ptx::load_shared<ptx::Words4>(stage.field(4));
    bool special = false;  // a scale that the short loop cannot divide by
    for (int head = lane; head < p.heads; head += 32) {
      uint32_t magnitude[kQuad];
      FPSA_UNROLL
      for (int row = 0; row < kQuad; ++row)
        magnitude[row] =
            ptx::load_shared_by_blocks(p.magnitudes + (int64_t{batch} * p.groups + groups.at[row]) * p.heads + head);
      ptx::Floats4 scales = {}, pairs[2] = {};
      float scale = 0.0f;
      Divisor by = {};
      FPSA_UNROLL
      for (int row = 0; row < kQuad; ++row) {
        if (row == 0 || magnitude[row] != magnitude[row - 1]) {
          scale = scale_of(magnitude[row]);
          by = divisor_of(scale);
          special |= !by.plain();
        }
        scales.at[row] = scale;
        pairs[row / 2].at[row % 2 * 2] = by.high;
        pairs[row / 2].at[row % 2 * 2 + 1] = by.low;
      }
      const ptx::SharedAddress to = stage.factors + kFactorBytes * static_cast<uint32_t>(head);
      ptx::store_shared(to, pairs[0]);
      ptx::store_shared(to + 16, pairs[1]);
      *reinterpret_cast<ptx::Floats4*>(p.scale + (int64_t{batch} * p.heads + head) * p.slots + slot) = scales;
    }
    if (ptx::any_in_warp(special) && lane == 0) ptx::store_shared(stage.field(2), int32_t{0});
  }

  FPSA_DEVICE void run() const {
    for (int number = 0;; ++number) {
      const Stage stage = stage_at(memory, map, number);
      ptx::mbarrier_wait(stage.landed, phase_of(number));
      // Not the word after them, which divisors() may write.
      const auto quad = ptx::load_shared<ptx::Words2>(stage.quad);
      const auto task = static_cast<int32_t>(quad.at[0]), batch = static_cast<int32_t>(quad.at[1]);
      if (task < 0) return;
      if (task_has_codes(task))
        divisors(stage, batch, task_quad(task) * kQuad, ptx::load_shared<int32_t>(stage.field(3)));
      else if (kNorm)
        norms(stage, batch, task_quad(task) * kQuad);
      ptx::sync_warp();
      if (lane == 0) ptx::mbarrier_arrive(stage.ready);
    }
  }
};

}  // namespace fpsa::kernel::cuda::inline FPSA_TARGET
