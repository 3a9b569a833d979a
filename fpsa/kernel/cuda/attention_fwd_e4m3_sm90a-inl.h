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
  constexpr int kStages = kTiling.stages;
  int number = 0, item_number = 0;
  const int32_t total = p.item_count * p.batch * (p.shared_mask ? p.heads : 1);
  for (int32_t index = ptx::block_index(); index < total; index += ptx::grid_blocks()) {
    const Place place = place_of(index, p.item_count, p.heads, p.shared_mask, p.items);
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
        const int segment = job * p.key_segments + entry_segment(entries[s]);
        ptx::copy_box_2d(memory + kMap.keys + stage * kMap.key_bytes + s * kSegment * kDim, p.k, 0, segment * kSegment,
                         barriers.keys_full(stage));
        ptx::copy_bytes(memory + kMap.scales + stage * kMap.scale_bytes + s * kSegment * 4,
                        p.k_scale + int64_t{segment} * kSegment, kSegment * 4, barriers.keys_full(stage));
      }
      ptx::mbarrier_wait(barriers.values_free(stage), free_parity);
      ptx::mbarrier_arrive_expect_tx(barriers.values_full(stage), kMap.value_bytes);
      FPSA_UNROLL
      for (int s = 0; s < kSegments; ++s)
        ptx::copy_box_3d(memory + kMap.values + stage * kMap.value_bytes + s * kSegment * kDim, p.v, 0, 0,
                         job * p.key_segments + entry_segment(entries[s]), barriers.values_full(stage));
    }
  }
}

/// One consumer warpgroup. Arrays are registers: every index is a constant after unrolling.
template <AttentionTiling kTiling>
struct Consumer {
  static constexpr SharedMap kMap = shared_map(kTiling);
  static constexpr int kDim = kTiling.dim, kSegments = kTiling.keys / kSegment, kStages = kTiling.stages;
  static constexpr ptx::Swizzle kRowSwizzle = kDim == 128 ? ptx::Swizzle::k128 : ptx::Swizzle::k64;
  static_assert(!kTiling.exact || kTiling.fold_every == 1, "a block's two products use the same sums");
  static_assert(kMap.bytes <= kMaxSharedBytes, "what a block of threads may have");
  static_assert(kDim == 64 || kDim == 128, "a row of codes is one row of a swizzle");

  const AttentionFwdParams& p;
  const ptx::SharedAddress memory;
  const Barriers& barriers;
  const int group, thread;  // of the block's consumers, of the warpgroup

  float scores[kTiling.keys / 2], sums[kDim / 2], out[kDim / 2];
  uint32_t codes[kSegments][4], residues[kTiling.exact ? kSegments : 1][4];
  // Of the thread's two rows: m, the row sum, log2 of a score per unit, and the powers of two that bring the row sum,
  // and `out` at its next fold, to the m of the codes.
  float m[2], sum[2], factor[2], rescale_sum[2], rescale_out[2];
  int number = 0;       // of the block of keys
  bool paired = false;  // the other group works on this item too

  FPSA_DEVICE Consumer(const AttentionFwdParams& p, ptx::SharedAddress memory, const Barriers& barriers, int thread)
      : p(p), memory(memory), barriers(barriers), group(thread / 128 - 1), thread(thread % 128) {}

  // Readers are done with something: each warp says so once, after its last thread.
  FPSA_DEVICE void release(ptx::SharedAddress barrier) {
    ptx::sync_warp();
    if (thread % 32 == 0) ptx::mbarrier_arrive(barrier);
  }

  /// Named barriers 1 and 2 are the turns of the two groups; group 0 begins.
  FPSA_DEVICE void take_turn() {
    if (paired) ptx::barrier_sync(1 + group, 256);
  }
  FPSA_DEVICE void pass_turn() {
    if (paired) ptx::barrier_arrive(2 - group, 256);
  }

  FPSA_DEVICE void issue_scores() {
    const ptx::SharedAddress base = ptx::opaque(memory), q = base + kMap.queries + group * kMap.query_bytes;
    const ptx::SharedAddress k = base + kMap.keys + stage_of<kStages>(number) * kMap.key_bytes;
    FPSA_UNROLL
    for (int at = 0; at < kDim; at += 32)
      ptx::wgmma_e4m3(scores, ptx::matrix_descriptor(q + at, kRowSwizzle, 8 * kDim),
                      ptx::matrix_descriptor(k + at, kRowSwizzle, 8 * kDim), at > 0);
    ptx::wgmma_commit();
  }

  /// Of block `at` of the ring.
  FPSA_DEVICE void issue_values(const uint32_t (&p_codes)[kSegments][4], int at, bool accumulate) {
    const ptx::SharedAddress v = ptx::opaque(memory) + kMap.values + stage_of<kStages>(at) * kMap.value_bytes;
    FPSA_UNROLL
    for (int s = 0; s < kSegments; ++s)
      ptx::wgmma_e4m3(sums, p_codes[s],
                      ptx::matrix_descriptor(v + s * kSegment * kDim, ptx::Swizzle::k32, 8 * kSegment),
                      s > 0 || accumulate);
    ptx::wgmma_commit();
  }

  /// Scores of keys that do not exist become -inf. Entries are the block's.
  FPSA_DEVICE void mask(const int32_t* entries) {
    FPSA_UNROLL
    for (int s = 0; s < kSegments; ++s) {
      const int left = entry_valid(entries[s]) - fragment_column(thread);
      FPSA_UNROLL
      for (int i = 0; i < 16; ++i)
        if (i / 4 * 8 + i % 2 >= left) scores[16 * s + i] = kLowest;
    }
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
    release(barriers.keys_free(stage_of<kStages>(number)));

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
    release(barriers.values_free(stage_of<kStages>(at)));
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
    bool full = true;
    FPSA_UNROLL
    for (int s = 0; s < kSegments; ++s)
      full = full && entry_full(entries[s]);
    take_turn();
    ptx::mbarrier_wait(barriers.keys_full(stage_of<kStages>(number)), parity_of<kStages>(number));
    if constexpr (!kFirst) wait_for_values(number - 1);
    ptx::wgmma_fence();
    issue_scores();
    if constexpr (!kFirst) issue_values(codes, number - 1, (block - 1) % kTiling.fold_every != 0);
    if (group == 0 || !last) pass_turn();
    ptx::wgmma_wait<kFirst ? 0 : 1>();
    ptx::pin(scores);
    if (last) release(barriers.queries_free(group));
    if (!full) mask(entries);
    softmax();
    const bool folded = kFirst || block % kTiling.fold_every == 0;
    if constexpr (!kFirst) finish_values(number - 1, folded);
    follow_m(folded);
    encode();
    ++number;
  }

  FPSA_DEVICE void wait_for_values(int at) {
    ptx::mbarrier_wait(barriers.values_full(stage_of<kStages>(at)), parity_of<kStages>(at));
  }

  /// P V of block `at` of the ring with nothing beside it.
  FPSA_DEVICE void finish_block(int at, int block) {
    wait_for_values(at);
    ptx::wgmma_fence();
    issue_values(codes, at, block % kTiling.fold_every != 0);
    finish_values(at, true);
  }

  /// Rows of an accumulator, scaled, to their places.
  FPSA_DEVICE void store(const Place& place, const float (&weight)[2], const float* v_scale, const WorkItem& item) {
    const OutView& to = p.out;
    const int64_t base = place.batch * to.batch_stride + place.head * to.head_stride;
    const ptx::SharedAddress staging = memory + kMap.staging + group * kMap.staging_bytes;
    const int lane = thread % 32, first_row = thread / 32 * 16;
    // Rows of the last item have been read: its warp has met in release() since.
    FPSA_UNROLL
    for (int j = 0; j < kDim / 8; j += 2) {
      uint32_t packed[4];
      FPSA_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int column = 8 * (j + i / 2) + fragment_column(thread), at = 4 * (j + i / 2) + 2 * (i % 2);
        const float low = out[at] * weight[i % 2] * v_scale[column];
        const float high = out[at + 1] * weight[i % 2] * v_scale[column + 1];
        packed[i] = to.type == OutType::kF16 ? ptx::f16x2(low, high) : ptx::bf16x2(low, high);
        const int row = row_of(fragment_row(thread, i % 2), item);
        if (to.type == OutType::kF32 && row >= 0) {
          float* cell = static_cast<float*>(to.data) + base + row * to.row_stride + column;
          cell[0] = low;
          cell[1] = high;
        }
      }
      ptx::store_matrix_x4(staging + (first_row + lane % 16) * kMap.staging_pitch + (8 * j + lane / 16 * 8) * 2,
                           packed);
    }
    if (to.type == OutType::kF32) return;
    ptx::sync_warp();
    // 16 bytes a thread: a row's bytes are neighbours in memory.
    constexpr int kPieces = kDim / 8;
    FPSA_UNROLL
    for (int at = lane; at < 16 * kPieces; at += 32) {
      const int r = first_row + at / kPieces, row = row_of(r, item);
      if (row < 0) continue;
      auto* cell = static_cast<uint16_t*>(to.data) + base + row * to.row_stride + at % kPieces * 8;
      *reinterpret_cast<Piece*>(cell) = ptx::load_shared<Piece>(staging + r * kMap.staging_pitch + at % kPieces * 16);
    }
  }
  struct alignas(16) Piece {
    uint32_t words[4];
  };

  FPSA_DEVICE int slot_of(int row, const WorkItem& item) const {
    const int segment = item.query_segment[2 * group + row / kSegment];
    return segment < 0 ? -1 : segment * kSegment + row % kSegment;
  }
  FPSA_DEVICE int row_of(int row, const WorkItem& item) const {
    const int slot = slot_of(row, item);
    return slot < 0 ? -1 : p.row_of_slot[slot];
  }

  // Its place and its rows are found again rather than kept in registers beside the products.
  FPSA_DEVICE void finish_item(int32_t index) {
    const Place place = place_of(index, p.item_count, p.heads, p.shared_mask, p.items);
    const WorkItem& item = p.items[place.item];
    const int job = place.batch * p.heads + place.head;
    float weight[2];
    FPSA_UNROLL
    for (int half = 0; half < 2; ++half) {
      FPSA_UNROLL
      for (int lanes = 1; lanes < 4; lanes *= 2)
        sum[half] += ptx::shuffle_xor(sum[half], lanes);
      weight[half] = item.entries > 0 ? ptx::divide(1.0f, sum[half]) : 0.0f;
      const int row = row_of(fragment_row(thread, half), item);
      if (thread % 4 != 0 || row < 0) continue;
      // A NaN among the scores is lost in m but not in the sum.
      const float top = sum[half] == sum[half] ? m[half] : sum[half];
      const int64_t at = job * p.queries + row;
      if (p.row_max) p.row_max[at] = top;
      if (p.lse)
        p.lse[at] = item.entries > 0 ? (top - kCodeBits + ptx::log2_approx(sum[half])) * 0.69314718056f : kLowest;
    }
    const float* v_scale = p.v_scale + int64_t{job} * kDim;
    store(place, weight, v_scale, item);
  }

  FPSA_DEVICE void start_item(int job, const WorkItem& item) {
    FPSA_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int slot = slot_of(fragment_row(thread, half), item);
      factor[half] = slot < 0 ? 0.0f : p.log2_factor * p.q_scale[(int64_t{job} * p.query_segments) * kSegment + slot];
      m[half] = kLowest;
      sum[half] = 0;
    }
    FPSA_UNROLL
    for (int i = 0; i < kDim / 2; ++i)
      out[i] = 0;
  }

  /// An item without rows for this group: it only lets the stages go by.
  FPSA_DEVICE void stand_by(int blocks) {
    for (const int end = number + blocks; number < end; ++number) {
      ptx::mbarrier_wait(barriers.keys_full(stage_of<kStages>(number)), parity_of<kStages>(number));
      release(barriers.keys_free(stage_of<kStages>(number)));
      wait_for_values(number);
      release(barriers.values_free(stage_of<kStages>(number)));
    }
  }

  FPSA_DEVICE void run() {
    const int32_t total = p.item_count * p.batch * (p.shared_mask ? p.heads : 1);
    for (int32_t index = ptx::block_index(); index < total; index += ptx::grid_blocks()) {
      const Place place = place_of(index, p.item_count, p.heads, p.shared_mask, p.items);
      const WorkItem& item = p.items[place.item];
      const int blocks = item.entries / kSegments;
      // The parity is that of the number of items before; a counter would cost a register.
      ptx::mbarrier_wait(barriers.queries_full(group), static_cast<uint32_t>(index / ptx::grid_blocks() & 1));
      const bool idle = item.query_segment[2 * group] < 0;
      if (idle || blocks == 0) release(barriers.queries_free(group));
      if (idle) {
        stand_by(blocks);
        continue;
      }
      start_item(place.batch * p.heads + place.head, item);
      if (blocks > 0) {
        paired = item.query_segment[2 * (1 - group)] >= 0;
        if (group == 1) pass_turn();
        const int32_t first = item.first_entry, last = first + (blocks - 1) * kSegments;
        step<true>(first, 0, first == last);
        for (int32_t entry = first + kSegments; entry <= last; entry += kSegments)
          step<false>(entry, (entry - first) / kSegments, entry == last);
        finish_block(number - 1, (last - first) / kSegments);
      }
      finish_item(static_cast<int32_t>(ptx::opaque(static_cast<uint32_t>(index))));
    }
  }
};

/// The kernel's body, for every thread of the grid.
template <AttentionTiling kTiling>
FPSA_DEVICE void attention_fwd_e4m3_sm90a(const AttentionFwdParams& p) {
  constexpr SharedMap kMap = shared_map(kTiling);
  const ptx::SharedAddress memory = ptx::shared_memory();
  const Barriers barriers{memory + kMap.barriers, kTiling.stages};
  const int thread = ptx::thread_index();
  if (thread == 0) {
    constexpr uint32_t kWarps = kConsumers * 4;
    for (int stage = 0; stage < kTiling.stages; ++stage) {
      ptx::mbarrier_init(barriers.keys_full(stage), 1);
      ptx::mbarrier_init(barriers.values_full(stage), 1);
      ptx::mbarrier_init(barriers.keys_free(stage), kWarps);
      ptx::mbarrier_init(barriers.values_free(stage), kWarps);
    }
    for (int group = 0; group < kConsumers; ++group) {
      ptx::mbarrier_init(barriers.queries_full(group), 1);
      ptx::mbarrier_init(barriers.queries_free(group), 4);
    }
    ptx::fence_barrier_init();
    ptx::prefetch_map(p.q);
    ptx::prefetch_map(p.k);
    ptx::prefetch_map(p.v);
  }
  ptx::sync_block();
  if (thread < ptx::kWarpgroupThreads) {
    ptx::set_max_registers_lower<kProducerRegisters>();
    if (thread < ptx::kWarpThreads && ptx::elect_one()) produce<kTiling>(p, memory, barriers);
  } else {
    ptx::set_max_registers_raise<kConsumerRegisters>();
    Consumer<kTiling>(p, memory, barriers, thread).run();
  }
}

}  // namespace fpsa::kernel::cuda::inline FPSA_TARGET
