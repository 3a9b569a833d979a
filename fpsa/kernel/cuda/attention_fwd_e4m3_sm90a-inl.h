// attention_fwd_e4m3_sm90a: FlashAttention on E4M3 codes over lists of visible keys.
//
// A block of threads takes work items one after the other: up to 2 x 64 query rows that see the same keys. One thread
// of the first warpgroup brings queries, blocks of keys with their scales, and blocks of values into shared memory
// (TMA, a ring of stages). The other two warpgroups each compute 64 rows: S = Q K^T, softmax, O += P V, and take turns
// at the tensor cores, so that one's products run beside the other's softmax; a group's own P V of the block before
// runs beside its softmax too.
//
// Scores come out as accumulator fragments, and P's codes made of them are an operand fragment as they are, because
// values are stored in the order of value_place(). The scale of a key tile goes into the factor of exp2, the scale of a
// channel of V into the last step. The running maximum is an integer m, so factors between blocks are powers of two.
// P = 2^(S2 - m) is kept times 2^8, row sums too: the factor cancels.
//
// The same source is compiled by nvcc (attention_fwd_e4m3_sm90a.cu) and, on emulated instructions, for tests.
#pragma once

#include "fpsa/kernel/cuda/attention_fwd_e4m3_sm90a.h"
#include "fpsa/kernel/cuda/attention_parts-inl.h"
#include "fpsa/kernel/cuda/ptx/barrier.h"
#include "fpsa/kernel/cuda/ptx/copy.h"
#include "fpsa/kernel/cuda/ptx/math.h"
#include "fpsa/kernel/cuda/ptx/thread.h"
#include "fpsa/kernel/cuda/ptx/wgmma.h"
#include "fpsa/kernel/cuda/tiling/attention_tiling.h"

namespace fpsa::kernel::cuda::inline FPSA_TARGET {

inline constexpr float kResidue = 32.0f;  // a code's error is at most 8, so 2^5 times it is a code again

template <AttentionTiling kTiling>
FPSA_DEVICE void produce(const AttentionFwdParams& p, ptx::SharedAddress memory, const Barriers& barriers) {
  constexpr SharedMap kMap = shared_map(kTiling);
  constexpr int kSegments = kTiling.keys / kSegment, kDim = kTiling.dim;
  constexpr int kStages = kTiling.stages, kCluster = kTiling.cluster;
  Sharing<kCluster> sharing;
  int number = 0, item_number = 0;
  const int32_t total = item_total(p);
  for (int32_t index = ptx::block_index(); index < total; index += ptx::grid_blocks()) {
    const Place place = place_in<kTiling.cluster>(p, index);
    sharing.together = in_pair<kCluster>(p, index);
    const WorkItem& item = p.items[place.item];
    const int job = place.batch * p.heads + place.head;
    const uint32_t queries_free_parity = static_cast<uint32_t>(item_number++ & 1) ^ 1;
    FPSA_UNROLL
    for (int group = 0; group < kConsumers; ++group) {
      ptx::mbarrier_wait(barriers.queries_free(group), queries_free_parity);
      ptx::mbarrier_arrive_expect_tx(barriers.queries_full(group), kMap.query_bytes);
      FPSA_UNROLL
      for (int part = 0; part < 2; ++part) {
        // Where there is no segment, the item's first one: every item fills and frees the same barriers.
        const int listed = item.query_segment[2 * group + part];
        const int segment = listed < 0 ? item.query_segment[0] : listed;
        ptx::copy_box_2d(memory + kMap.queries + group * kMap.query_bytes + part * kSegment * kDim, p.q, 0,
                         (job * p.query_segments + segment) * kSegment, barriers.queries_full(group));
      }
    }
    for (int at = 0; at < item.entries; at += kSegments, ++number) {
      const int32_t* entries = p.entries + item.first_entry + at;
      const int stage = stage_of<kStages>(number);
      const uint32_t free_parity = parity_of<kStages>(number) ^ 1;
      ptx::mbarrier_wait(barriers.keys_free(stage), free_parity);
      ptx::mbarrier_arrive_expect_tx(barriers.keys_full(stage), kMap.key_bytes + kMap.scale_bytes);
      FPSA_UNROLL
      for (int s = 0; s < kSegments; ++s) {
        if (!sharing.brings(s, kSegments)) continue;
        const int segment = job * p.key_segments + entry_segment(entries[s]);
        sharing.copy_box_2d(memory + kMap.keys + stage * kMap.key_bytes + s * kSegment * kDim, p.k, 0,
                            segment * kSegment, barriers.keys_full(stage));
        sharing.copy_bytes(memory + kMap.scales + stage * kMap.scale_bytes + s * kSegment * 4,
                           p.k_scale + int64_t{segment} * kSegment, kSegment * 4, barriers.keys_full(stage));
      }
      ptx::mbarrier_wait(barriers.values_free(stage), free_parity);
      ptx::mbarrier_arrive_expect_tx(barriers.values_full(stage), kMap.value_bytes);
      FPSA_UNROLL
      for (int s = 0; s < kSegments; ++s)
        if (sharing.brings(s, kSegments))
          sharing.copy_box_3d(memory + kMap.values + stage * kMap.value_bytes + s * kSegment * kDim, p.v, 0, 0,
                              job * p.key_segments + entry_segment(entries[s]), barriers.values_full(stage));
    }
  }
}

/// One consumer warpgroup.
template <AttentionTiling kTiling>
struct Consumer : ConsumerParts<AttentionFwdParams, kTiling> {
  using Parts = ConsumerParts<AttentionFwdParams, kTiling>;
  using Parts::kMap, Parts::kDim, Parts::kSegments, Parts::kStages;
  using Parts::p, Parts::memory, Parts::barriers, Parts::group, Parts::thread, Parts::number;
  using Parts::scores, Parts::out, Parts::m, Parts::sum;
  static constexpr ptx::Swizzle kRowSwizzle = kDim == 128 ? ptx::Swizzle::k128 : ptx::Swizzle::k64;
  static_assert(!kTiling.exact || kTiling.fold_every == 1, "a block's two products use the same sums");
  static_assert(kMap.bytes <= kMaxSharedBytes, "what a block of threads may have");
  static_assert(kDim == 64 || kDim == 128, "a row of codes is one row of a swizzle");

  float sums[kDim / 2];
  uint32_t codes[kSegments][4], residues[kTiling.exact ? kSegments : 1][4];
  // Of the thread's two rows: log2 of a score per unit, and the powers of two that bring the row sum, and `out` at its
  // next fold, to the m of the codes.
  float factor[2], rescale_sum[2], rescale_out[2];

  using Parts::Parts;

  FPSA_DEVICE void issue_scores() {
    const ptx::SharedAddress base = ptx::opaque(memory);
    const uint64_t q = ptx::matrix_descriptor(base + kMap.queries + group * kMap.query_bytes, kRowSwizzle, 8 * kDim);
    const uint64_t k =
        ptx::matrix_descriptor(base + kMap.keys + stage_of<kStages>(number) * kMap.key_bytes, kRowSwizzle, 8 * kDim);
    FPSA_UNROLL
    for (int at = 0; at < kDim; at += 32)
      ptx::wgmma_e4m3(scores, ptx::advance_descriptor(q, at), ptx::advance_descriptor(k, at), at > 0);
    ptx::wgmma_commit();
  }

  /// Of block `at` of the ring.
  FPSA_DEVICE void issue_values(const uint32_t (&p_codes)[kSegments][4], int at, bool accumulate) {
    const uint64_t v = ptx::matrix_descriptor(
        ptx::opaque(memory) + kMap.values + stage_of<kStages>(at) * kMap.value_bytes, ptx::Swizzle::k32, 8 * kSegment);
    FPSA_UNROLL
    for (int s = 0; s < kSegments; ++s)
      ptx::wgmma_e4m3(sums, p_codes[s], ptx::advance_descriptor(v, s * kSegment * kDim), s > 0 || accumulate);
    ptx::wgmma_commit();
  }

  /// Scores become 2^8 P; m and the sums move on.
  FPSA_DEVICE void softmax() {
    const ptx::SharedAddress scales = memory + kMap.scales + stage_of<kStages>(number) * kMap.scale_bytes;
    float scale[kSegments];
    if constexpr (kTiling.column_scales) {
      FPSA_UNROLL
      for (int j = 0; j < kTiling.keys / 8; ++j) {
        const auto pair = ptx::load_shared<uint64_t>(scales + (8 * j + fragment_column(thread)) * 4);
        FPSA_UNROLL
        for (int i = 0; i < 4; ++i)
          scores[4 * j + i] *= ptx::float_of(static_cast<uint32_t>(i % 2 ? pair >> 32 : pair));
      }
      FPSA_UNROLL
      for (int s = 0; s < kSegments; ++s)
        scale[s] = 1.0f;
    } else {
      FPSA_UNROLL
      for (int s = 0; s < kSegments; ++s)
        scale[s] = ptx::load_shared<float>(scales + s * kSegment * 4);
    }
    this->release_stage(barriers.keys_free(stage_of<kStages>(number)));

    FPSA_UNROLL
    for (int half = 0; half < 2; ++half) {
      // Factors are positive, so the largest product belongs to the largest score of its segment. Where a product of
      // two tiny scales would underflow to 0, 2^-126 keeps a masked score at -inf; elsewhere it is lost in rounding.
      float to_log2[kSegments];
      FPSA_UNROLL
      for (int s = 0; s < kSegments; ++s)
        to_log2[s] = ptx::fused_multiply_add(factor[half], scale[s], 0x1p-126f);
      float top = kLowest;
      FPSA_UNROLL
      for (int s = 0; s < kSegments; ++s) {
        float segment_top = kLowest;
        FPSA_UNROLL
        for (int i = 0; i < 16; ++i)
          if (i / 2 % 2 == half) segment_top = ptx::max_number(segment_top, scores[16 * s + i]);
        top = ptx::max_number(top, segment_top * to_log2[s]);
      }
      FPSA_UNROLL
      for (int lanes = 1; lanes < 4; lanes *= 2)
        top = ptx::max_number(top, ptx::shuffle_xor(top, lanes));
      const float before = m[half];
      m[half] = ptx::max_number(before, ptx::ceiling(top));
      float added = 0;
      const float shift = kCodeBits - m[half];
      FPSA_UNROLL
      for (int s = 0; s < kSegments; ++s) {
        FPSA_UNROLL
        for (int i = 0; i < 16; ++i) {
          if (i / 2 % 2 != half) continue;
          float& score = scores[16 * s + i];
          const float x = ptx::fused_multiply_add(score, to_log2[s], shift);
          score = i < kTiling.polynomial ? exp2_polynomial(x) : ptx::exp2_approx(x);
          added += score;
        }
      }
      rescale_sum[half] = power_of_two(before - m[half]);
      sum[half] = ptx::fused_multiply_add(sum[half], rescale_sum[half], added);
    }
  }

  /// Scores, now 2^8 P, become codes in the order of A's registers, and the codes of what rounding left.
  FPSA_DEVICE void encode() {
    FPSA_UNROLL
    for (int s = 0; s < kSegments; ++s) {
      FPSA_UNROLL
      for (int r = 0; r < 4; ++r) {
        // Register 2 g + h holds, of row h, both scores of 8-key groups 2 g and 2 g + 1.
        const float* score = scores + 16 * s + 8 * (r / 2) + 2 * (r % 2);
        const uint32_t low = ptx::e4m3x2(score[0], score[1]), high = ptx::e4m3x2(score[4], score[5]);
        codes[s][r] = low | high << 16;
        if constexpr (kTiling.exact) {
          float rounded[4];
          ptx::values_of_e4m3x2(low, rounded[0], rounded[1]);
          ptx::values_of_e4m3x2(high, rounded[2], rounded[3]);
          residues[s][r] = ptx::e4m3x2((score[0] - rounded[0]) * kResidue, (score[1] - rounded[1]) * kResidue) |
                           ptx::e4m3x2((score[4] - rounded[2]) * kResidue, (score[5] - rounded[3]) * kResidue) << 16;
        }
      }
    }
  }

  /// P V of block `at` is under way: waits for it and takes it over. `last` ends a chain of blocks in the tensor core.
  FPSA_DEVICE void finish_values(int at, bool last) {
    ptx::wgmma_wait<0>();
    ptx::pin(sums);
    if (last) {
      // The F32 registers go over to the m of the codes that the sums are of.
      FPSA_UNROLL
      for (int i = 0; i < kDim / 2; ++i)
        out[i] = ptx::fused_multiply_add(out[i], rescale_out[i / 2 % 2], sums[i]);
    }
    if constexpr (kTiling.exact) {
      ptx::wgmma_fence();
      issue_values(residues, at, false);
      ptx::wgmma_wait<0>();
      ptx::pin(sums);
      FPSA_UNROLL
      for (int i = 0; i < kDim / 2; ++i)
        out[i] = ptx::fused_multiply_add(sums[i], 1 / kResidue, out[i]);
    }
    this->release_stage(barriers.values_free(stage_of<kStages>(at)));
  }

  /// m has moved since the codes of the sums: says so to the next fold or, inside a chain, to the sums.
  FPSA_DEVICE void follow_m(bool folded) {
    if (kTiling.fold_every > 1 && !folded && ptx::any_in_warp(rescale_sum[0] != 1.0f || rescale_sum[1] != 1.0f)) {
      FPSA_UNROLL
      for (int i = 0; i < kDim / 2; ++i)
        sums[i] *= rescale_sum[i / 2 % 2];
    }
    FPSA_UNROLL
    for (int half = 0; half < 2; ++half)
      rescale_out[half] = folded ? rescale_sum[half] : rescale_out[half] * rescale_sum[half];
  }

  /// The block of keys whose entries begin at `entry`, the item's number `block`; and P V of the block before it.
  template <bool kFirst>
  FPSA_DEVICE void step(int32_t entry, int block, bool last) {
    const int32_t* entries = p.entries + entry;
    const bool full = all_exist<kSegments>(entries);
    this->take_turn();
    this->wait_for_keys(number);
    if constexpr (!kFirst) this->wait_for_values(number - 1);
    ptx::wgmma_fence();
    issue_scores();
    if constexpr (!kFirst) issue_values(codes, number - 1, (block - 1) % kTiling.fold_every != 0);
    if (group == 0 || !last) this->pass_turn();
    ptx::wgmma_wait<kFirst ? 0 : 1>();
    ptx::pin(scores);
    if (last) this->release(barriers.queries_free(group));
    if (!full) mask(scores, entries, thread);
    softmax();
    const bool folded = kFirst || block % kTiling.fold_every == 0;
    if constexpr (!kFirst) finish_values(number - 1, folded);
    follow_m(folded);
    encode();
    ++number;
  }

  /// P V of block `at` of the ring with nothing beside it.
  FPSA_DEVICE void finish_block(int at, int block) {
    this->wait_for_values(at);
    ptx::wgmma_fence();
    issue_values(codes, at, block % kTiling.fold_every != 0);
    finish_values(at, true);
  }

  FPSA_DEVICE void start_item(const Place& place, const WorkItem& item) {
    const float* scale = p.q_scale + int64_t{place.batch * p.heads + place.head} * p.query_segments * kSegment;
    FPSA_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int slot = this->slot_of(fragment_row(thread, half), item);
      factor[half] = slot < 0 ? 0.0f : p.log2_factor * scale[slot];
    }
    this->start_rows();
  }

  FPSA_DEVICE void finish_item(int32_t index) {
    const Place place = place_in<kTiling.cluster>(p, index);
    const WorkItem& item = p.items[place.item];
    const float* v_scale = p.v_scale + int64_t{place.batch * p.heads + place.head} * kDim;
    float weight[2];
    this->finish_rows(place, item, kCodeBits, weight);
    this->store(place, item, [&](int at, int column) { return out[at] * weight[at / 2 % 2] * v_scale[column]; });
  }
};

/// The kernel's body, for every thread of the grid.
template <AttentionTiling kTiling>
FPSA_DEVICE void attention_fwd_e4m3_sm90a(const AttentionFwdParams& p) {
  constexpr SharedMap kMap = shared_map(kTiling);
  const ptx::SharedAddress memory = ptx::shared_memory();
  const Barriers barriers{{memory + kMap.barriers, kTiling.stages}};
  run_forward<kTiling.cluster>(
      p, barriers, [&] { produce<kTiling>(p, memory, barriers); },
      [&](int thread) {
        Consumer<kTiling> consumer(p, memory, barriers, thread);
        consumer.run_items(consumer);
      });
}

}  // namespace fpsa::kernel::cuda::inline FPSA_TARGET
