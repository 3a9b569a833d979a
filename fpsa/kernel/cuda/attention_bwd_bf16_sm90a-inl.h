// attention_bwd_bf16_sm90a: FlashAttention's backward over lists of visible pairs, in two passes of one body.
//
// A block of threads takes work items one after the other: up to 2 x 64 rows that see the same columns. One thread of
// the first warpgroup brings rows, and blocks of columns, into shared memory (TMA, a ring of stages); each of the other
// two warpgroups keeps the gradients of 64 rows in registers while the columns go by.
//   pass        rows   columns  products, once for each pair
//   of keys     K, V   Q, dO    S' = K Q',  dP' = V dO',  dV += P' dO,  dK += dS' Q
//   of queries  Q, dO  K, V     S = Q K',   dP = dO V',   dQ += dS K
// P and dS leave the accumulators as the operand fragments of the products that follow, so nothing is written to shared
// memory and the warpgroups never wait for each other.
//
// Why not one pass. Five products would do instead of seven, but then dQ is a sum over blocks of keys that other
// multiprocessors work on. Atomic additions would make its bits depend on their order. Adding in order by semaphores
// keeps five products and costs, for each block of 128 x 64 pairs (D = 128), beside 2,560 clocks of tensor cores: dS to
// shared memory (16 KiB) behind a fence and a barrier of both warpgroups, a product that reads it, 32 KiB of sums
// written there, read by a bulk reduction and added in L2: 368 KiB through shared memory, 2,944 clocks; and the wait
// for the turn, for neighbours in a window share most of their queries. Two passes take 4 x 512 + 3 x 512 = 3,584
// clocks of tensor cores and 384 KiB, 3,072 clocks, of shared memory, with nothing to wait for. By the tensor cores'
// bound that is 5/7 of the peak; but the one pass is bound by shared memory, to 7/8 of the peak, and loses more on
// the way to its bound (docs/gpu/model.md). Keeping dS in memory between passes instead costs 3,150 clocks of HBM for
// each 128 x 128 pairs, more than the 2,048 that it saves.
//
// With codes S is the forward's FP8 product, so that P's codes are the forward's. Scales cost no instruction of
// their own beside exp2's factor: d_out comes divided by 256 times the row sum and times V's scale, and the scale of
// the column goes into dS, where it stands for Q or K in the product.
//
// The same source is compiled by nvcc (attention_bwd_bf16_sm90a.cu) and, on emulated instructions, for tests.
#pragma once

#include "fpsa/kernel/cuda/attention_bwd_bf16_sm90a.h"
#include "fpsa/kernel/cuda/attention_parts-inl.h"
#include "fpsa/kernel/cuda/ptx/barrier.h"
#include "fpsa/kernel/cuda/ptx/copy.h"
#include "fpsa/kernel/cuda/ptx/math.h"
#include "fpsa/kernel/cuda/ptx/thread.h"
#include "fpsa/kernel/cuda/ptx/wgmma.h"

namespace fpsa::kernel::cuda::inline FPSA_TARGET {

struct BwdBarriers : BarrierRow {
  FPSA_DEVICE ptx::SharedAddress full(int stage) const { return at(stage); }
  FPSA_DEVICE ptx::SharedAddress free(int stage) const { return at(stages + stage); }
  FPSA_DEVICE ptx::SharedAddress rows_full(int group) const { return at(2 * stages + group); }
  FPSA_DEVICE ptx::SharedAddress rows_free(int group) const { return at(2 * stages + kConsumers + group); }
};

/// Blocks of columns in an item's list, which is filled up to whole blocks of 128: a last block of 64 may be empty.
template <int kColumns>
FPSA_DEVICE int bwd_blocks(const AttentionBwdParams& p, const WorkItem& item) {
  constexpr int kSegments = kColumns / kSegment;
  const int blocks = item.entries / kSegments;
  return blocks > 0 && p.entries[item.first_entry + (blocks - 1) * kSegments] == 0 ? blocks - 1 : blocks;
}

/// A segment of BF16 to strips of 64 channels, each of `rows` rows of 128 bytes.
template <int kDim>
FPSA_DEVICE void copy_strips(ptx::SharedAddress to, int rows, const ptx::TensorMap& map, int segment,
                             ptx::SharedAddress barrier) {
  FPSA_UNROLL
  for (int strip = 0; strip < kDim / 64; ++strip)
    ptx::copy_box_2d(to + static_cast<uint32_t>(strip * rows * 128), map, strip * 128, segment * kSegment, barrier);
}

template <AttentionBwdTiling kTiling>
FPSA_DEVICE void produce_bwd(const AttentionBwdParams& p, ptx::SharedAddress memory, const BwdBarriers& barriers) {
  constexpr BwdSharedMap kMap = bwd_shared_map(kTiling);
  constexpr int kDim = kTiling.dim, kColumns = kTiling.columns, kSegments = kColumns / kSegment;
  constexpr int kStages = kTiling.stages;
  constexpr uint32_t kStripBytes = kSegment * 128, kCodeBytes = kSegment * kDim;
  const ptx::TensorMap &row_first = kTiling.of_keys ? p.k : p.q, &row_second = kTiling.of_keys ? p.v : p.d_out;
  const ptx::TensorMap &first = kTiling.of_keys ? p.q : p.k, &second = kTiling.of_keys ? p.d_out : p.v;
  const ptx::TensorMap& row_codes = kTiling.of_keys ? p.k_codes : p.q_codes;
  const ptx::TensorMap& codes = kTiling.of_keys ? p.q_codes : p.k_codes;
  const int row_segments = kTiling.of_keys ? p.key_segments : p.query_segments;
  const int column_segments = kTiling.of_keys ? p.query_segments : p.key_segments;
  int number = 0, item_number = 0;
  const int32_t total = item_total(p);
  for (int32_t index = ptx::block_index(); index < total; index += ptx::grid_blocks()) {
    const Place place = place_of(index, p.item_count, p.heads, p.shared_mask, p.items);
    const WorkItem& item = p.items[place.item];
    const int job = place.batch * p.heads + place.head;
    const uint32_t rows_free_parity = static_cast<uint32_t>(item_number++ & 1) ^ 1;
    FPSA_UNROLL
    for (int group = 0; group < kConsumers; ++group) {
      const ptx::SharedAddress barrier = barriers.rows_full(group), to = memory + kMap.rows + group * kMap.row_bytes;
      ptx::mbarrier_wait(barriers.rows_free(group), rows_free_parity);
      ptx::mbarrier_arrive_expect_tx(barrier, kMap.row_bytes);
      FPSA_UNROLL
      for (int part = 0; part < 2; ++part) {
        // Where there is no segment, the item's first one: every item fills and frees the same barriers.
        const int listed = item.query_segment[2 * group + part];
        const int segment = job * row_segments + (listed < 0 ? item.query_segment[0] : listed);
        if constexpr (kTiling.coded)
          ptx::copy_box_2d(to + part * kCodeBytes, row_codes, 0, segment * kSegment, barrier);
        else
          copy_strips<kDim>(to + part * kStripBytes, kGroupRows, row_first, segment, barrier);
        copy_strips<kDim>(to + kMap.row_first_bytes + part * kStripBytes, kGroupRows, row_second, segment, barrier);
      }
    }
    const int32_t* entries = p.entries + item.first_entry;
    for (int left = bwd_blocks<kColumns>(p, item); left > 0; --left, ++number, entries += kSegments) {
      const auto stage = static_cast<uint32_t>(stage_of<kStages>(number));
      const ptx::SharedAddress full = barriers.full(stage);
      ptx::mbarrier_wait(barriers.free(stage), parity_of<kStages>(number) ^ 1);
      ptx::mbarrier_arrive_expect_tx(full, kMap.first_bytes + kMap.second_bytes + kMap.code_bytes + kMap.scalar_bytes);
      FPSA_UNROLL
      for (int s = 0; s < kSegments; ++s) {
        const int segment = job * column_segments + entry_segment(entries[s]);
        if constexpr (kTiling.coded)
          ptx::copy_box_2d(memory + kMap.codes + stage * kMap.code_bytes + s * kCodeBytes, codes, 0, segment * kSegment,
                           full);
        copy_strips<kDim>(memory + kMap.first + stage * kMap.first_bytes + s * kStripBytes, kColumns, first, segment,
                          full);
        copy_strips<kDim>(memory + kMap.second + stage * kMap.second_bytes + s * kStripBytes, kColumns, second, segment,
                          full);
        if constexpr (kMap.scalar_arrays > 0) {
          constexpr uint32_t kBytes = kMap.scalar_arrays * kStatisticBytes;
          const float* scalars = kTiling.of_keys ? p.statistics : p.k_scale;
          ptx::copy_bytes(memory + kMap.scalars + stage * kMap.scalar_bytes + s * kBytes,
                          scalars + int64_t{segment} * (kBytes / 4), kBytes, full);
        }
      }
    }
  }
}

/// One consumer warpgroup. Arrays are registers: every index is a constant after unrolling.
template <AttentionBwdTiling kTiling, ptx::Element kElement>
struct BwdConsumer : Warpgroup {
  static constexpr BwdSharedMap kMap = bwd_shared_map(kTiling);
  static constexpr bool kOfKeys = kTiling.of_keys, kCoded = kTiling.coded;
  static constexpr int kDim = kTiling.dim, kColumns = kTiling.columns, kStages = kTiling.stages;
  static constexpr int kSegments = kColumns / kSegment, kSteps = kColumns / 16;
  static_assert(!kCoded || kElement == ptx::Element::kBf16, "codes expand to BF16, which holds 256 P and gradients");
  static constexpr ptx::Swizzle kCodeSwizzle = kDim == 128 ? ptx::Swizzle::k128 : ptx::Swizzle::k64;
  static_assert(kMap.bytes <= kMaxSharedBytes, "what a block of threads may have");
  static_assert(kDim == 64 || kDim == 128, "whole strips, and a row of codes is one row of a swizzle");

  const AttentionBwdParams& p;
  const BwdBarriers& barriers;

  float scores[kColumns / 2], d_p[kColumns / 2];          // S, then P (with codes 256 P)
  float first[kDim / 2], second[kOfKeys ? kDim / 2 : 1];  // dK and dV, or dQ
  uint32_t p_words[kOfKeys ? kSteps : 1][4], d_s[kSteps][4];
  // Of the thread's two rows: keys with codes have a scale, queries their statistics and log2 of a score per unit.
  float row_scale[2], row_shift[2], row_delta[2];
  int number = 0;  // of the block of columns

  FPSA_DEVICE BwdConsumer(const AttentionBwdParams& p, ptx::SharedAddress memory, const BwdBarriers& barriers,
                          int thread)
      : Warpgroup(memory, thread), p(p), barriers(barriers) {}

  FPSA_DEVICE ptx::SharedAddress rows() const {
    return ptx::opaque(memory) + kMap.rows + static_cast<uint32_t>(group) * kMap.row_bytes;
  }
  /// What begins at `at` of the stage of a block, `bytes` a stage.
  FPSA_DEVICE ptx::SharedAddress staged(uint32_t at, uint32_t bytes, int block) const {
    return ptx::opaque(memory) + at + static_cast<uint32_t>(stage_of<kStages>(block)) * bytes;
  }
  /// A tile of BF16 strips with K across its rows, or along them; and how far on the next 16 of K are.
  FPSA_DEVICE static uint64_t across(ptx::SharedAddress tile) {
    return ptx::matrix_descriptor(tile, ptx::Swizzle::k128, 1024);
  }
  FPSA_DEVICE static uint64_t along(ptx::SharedAddress tile) {
    return ptx::matrix_descriptor(tile, ptx::Swizzle::k128, 1024, kColumns * 128);
  }
  FPSA_BOTH static uint32_t at_channel(int channel, int rows) {
    return static_cast<uint32_t>(channel / 64 * rows * 128 + channel % 64 * 2);
  }
  FPSA_BOTH static uint32_t at_column(int column) { return static_cast<uint32_t>(column * 128); }

  FPSA_DEVICE void wait_for_block() {
    ptx::mbarrier_wait(barriers.full(stage_of<kStages>(number)), parity_of<kStages>(number));
  }

  FPSA_DEVICE void issue_scores() {
    if constexpr (kCoded) {
      const uint64_t a = ptx::matrix_descriptor(rows(), kCodeSwizzle, 8 * kDim);
      const uint64_t b = ptx::matrix_descriptor(staged(kMap.codes, kMap.code_bytes, number), kCodeSwizzle, 8 * kDim);
      FPSA_UNROLL
      for (int at = 0; at < kDim; at += 32)
        ptx::wgmma_e4m3(scores, ptx::advance_descriptor(a, static_cast<uint32_t>(at)),
                        ptx::advance_descriptor(b, static_cast<uint32_t>(at)), at > 0);
    } else {
      const uint64_t a = across(rows()), b = across(staged(kMap.first, kMap.first_bytes, number));
      FPSA_UNROLL
      for (int at = 0; at < kDim; at += 16)
        ptx::wgmma_16bit<kElement, ptx::Major::kK, ptx::Major::kK>(
            scores, ptx::advance_descriptor(a, at_channel(at, kGroupRows)),
            ptx::advance_descriptor(b, at_channel(at, kColumns)), at > 0);
    }
    ptx::wgmma_commit();
  }
  FPSA_DEVICE void issue_d_p() {
    const uint64_t a = across(rows() + kMap.row_first_bytes);
    const uint64_t b = across(staged(kMap.second, kMap.second_bytes, number));
    FPSA_UNROLL
    for (int at = 0; at < kDim; at += 16)
      ptx::wgmma_16bit<kElement, ptx::Major::kK, ptx::Major::kK>(
          d_p, ptx::advance_descriptor(a, at_channel(at, kGroupRows)),
          ptx::advance_descriptor(b, at_channel(at, kColumns)), at > 0);
    ptx::wgmma_commit();
  }
  /// Of the block before.
  FPSA_DEVICE void issue_first() {
    const uint64_t b = along(staged(kMap.first, kMap.first_bytes, number - 1));
    FPSA_UNROLL
    for (int step = 0; step < kSteps; ++step)
      ptx::wgmma_16bit<kElement, ptx::Major::kMn>(first, d_s[step], ptx::advance_descriptor(b, at_column(16 * step)),
                                                  true);
  }
  FPSA_DEVICE void issue_second() {
    const uint64_t b = along(staged(kMap.second, kMap.second_bytes, number - 1));
    FPSA_UNROLL
    for (int step = 0; step < kSteps; ++step)
      ptx::wgmma_16bit<kElement, ptx::Major::kMn>(second, p_words[step],
                                                  ptx::advance_descriptor(b, at_column(16 * step)), true);
  }

  /// Scalar `array` of the thread's two columns among columns 8 j to 8 j + 7 of the block.
  struct alignas(8) Pair {
    float of[2];
  };
  FPSA_DEVICE Pair column_scalars(int j, int array) const {
    const uint32_t at = static_cast<uint32_t>(j / 4) * kMap.scalar_arrays + static_cast<uint32_t>(array);
    const auto both = ptx::load_shared<uint64_t>(
        memory + kMap.scalars + static_cast<uint32_t>(stage_of<kStages>(number)) * kMap.scalar_bytes +
        at * kStatisticBytes + static_cast<uint32_t>(j % 4 * 8 + fragment_column(thread)) * 4);
    return {{ptx::float_of(static_cast<uint32_t>(both)), ptx::float_of(static_cast<uint32_t>(both >> 32))}};
  }

  /// Scores become P, with codes 256 P.
  FPSA_DEVICE void probabilities() {
    FPSA_UNROLL
    for (int j = 0; j < kColumns / 8; ++j) {
      Pair shift{}, scale{};
      if constexpr (kOfKeys) shift = column_scalars(j, kBwdShift);
      if constexpr (kCoded) scale = column_scalars(j, kOfKeys ? kBwdScale : 0);
      FPSA_UNROLL
      for (int i = 0; i < 4; ++i) {
        // (log2_factor q_scale) k_scale, whichever is the row's, as in the forward: 2^-126, else lost in rounding,
        // keeps a masked score at -inf where the product would underflow.
        float to_log2 = p.log2_factor;
        if constexpr (kCoded) {
          const float q_scale = kOfKeys ? scale.of[i % 2] : row_scale[i / 2];
          const float k_scale = kOfKeys ? row_scale[i / 2] : scale.of[i % 2];
          to_log2 = ptx::fused_multiply_add(p.log2_factor * q_scale, k_scale, 0x1p-126f);
        }
        const float down = kOfKeys ? shift.of[i % 2] : row_shift[i / 2];
        float& score = scores[4 * j + i];
        score = ptx::exp2_approx(ptx::fused_multiply_add(score, to_log2, -down));
      }
    }
  }

  /// P of dV as A's registers: rounded, or the value of its code.
  FPSA_DEVICE void pack_p() {
    FPSA_UNROLL
    for (int at = 0; at < kColumns / 2; at += 2) {
      float low = scores[at], high = scores[at + 1];
      if constexpr (kCoded) ptx::values_of_e4m3x2(ptx::e4m3x2(low, high), low, high);
      p_words[at / 8][at / 4 % 2 * 2 + at / 2 % 2] = ptx::rounded_pair<kElement>(low, high);
    }
  }

  /// dS, times the scale of its column, as A's registers.
  FPSA_DEVICE void pack_d_s() {
    FPSA_UNROLL
    for (int j = 0; j < kColumns / 8; ++j) {
      Pair delta{}, scale{};
      if constexpr (kOfKeys) delta = column_scalars(j, kBwdDelta);
      if constexpr (kCoded) scale = column_scalars(j, kOfKeys ? kBwdScale : 0);
      FPSA_UNROLL
      for (int half = 0; half < 2; ++half) {
        float value[2];
        FPSA_UNROLL
        for (int e = 0; e < 2; ++e) {
          const int at = 4 * j + 2 * half + e;
          const float lost = kOfKeys ? delta.of[e] : row_delta[half];
          if constexpr (kCoded && kOfKeys)
            value[e] = scores[at] * ptx::fused_multiply_add(d_p[at], scale.of[e], -lost);
          else if constexpr (kCoded)
            value[e] = scores[at] * scale.of[e] * (d_p[at] - lost);
          else
            value[e] = scores[at] * (d_p[at] - lost);
        }
        d_s[j / 2][j % 2 * 2 + half] = ptx::rounded_pair<kElement>(value[0], value[1]);
      }
    }
  }

  /// The gradients' products of the block before.
  FPSA_DEVICE void issue_gradients() {
    // Written before the fence, in the compiler's eyes too.
    FPSA_UNROLL
    for (int step = 0; step < kSteps; ++step) {
      ptx::pin(d_s[step]);
      if constexpr (kOfKeys) ptx::pin(p_words[step]);
    }
    ptx::wgmma_fence();
    if constexpr (kOfKeys) issue_second();
    issue_first();
    ptx::wgmma_commit();
  }
  /// They are done with their operands, and so is all else.
  FPSA_DEVICE void release_block_before() { release(barriers.free(stage_of<kStages>(number - 1))); }

  /// The block of columns `number`, whose entries are given, and the gradients of the block before.
  template <bool kFirst>
  FPSA_DEVICE void step(const int32_t* entries, bool last) {
    const bool full = all_exist<kSegments>(entries);
    wait_for_block();
    if constexpr (kFirst)
      ptx::wgmma_fence();
    else
      issue_gradients();
    issue_scores();
    if constexpr (!kFirst) {
      // Only now are the registers of A free, which dP's accumulators may be.
      ptx::wgmma_wait<1>();
      ptx::pin(first);
      ptx::pin(second);
      release_block_before();
    }
    ptx::wgmma_fence();
    issue_d_p();
    ptx::wgmma_wait<1>();
    ptx::pin(scores);
    if (!full) mask(scores, entries, thread);
    probabilities();
    if constexpr (kOfKeys) pack_p();
    ptx::wgmma_wait<0>();
    ptx::pin(d_p);
    if (last) release(barriers.rows_free(group));
    pack_d_s();
    ++number;
  }

  FPSA_DEVICE void start_item(int job, const WorkItem& item) {
    FPSA_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int slot = slot_of(fragment_row(thread, half), item);
      if constexpr (kOfKeys && kCoded)
        row_scale[half] = slot < 0 ? 0.0f : p.k_scale[int64_t{job} * p.key_segments * kSegment + slot];
      if constexpr (!kOfKeys) {
        constexpr int kArrays = bwd_statistics(kCoded);
        const int64_t segment = int64_t{job} * p.query_segments + slot / kSegment;
        const float* statistics = p.statistics + segment * kArrays * kSegment + slot % kSegment;
        row_shift[half] = slot < 0 ? -kLowest : statistics[kBwdShift * kSegment];
        row_delta[half] = slot < 0 ? 0.0f : statistics[kBwdDelta * kSegment];
        if constexpr (kCoded) {
          row_scale[half] = slot < 0 ? 1.0f : statistics[kBwdScale * kSegment];
          row_delta[half] = ptx::divide(row_delta[half], row_scale[half]);
        }
      }
    }
    FPSA_UNROLL
    for (int i = 0; i < kDim / 2; ++i) {
      first[i] = 0;
      if constexpr (kOfKeys) second[i] = 0;
    }
    ptx::pin(first);
    ptx::pin(second);
  }

  /// Rows of an accumulator to their places: once an item, so straight from registers.
  template <int kCount, class Scale>
  FPSA_DEVICE void store(const OutView& to, const Place& place, const WorkItem& item, const float (&sums)[kCount],
                         Scale scale) {
    const int64_t base = place.batch * to.batch_stride + place.head * to.head_stride;
    FPSA_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int slot = slot_of(fragment_row(thread, half), item);
      const int row = slot < 0 ? -1 : p.row_of_slot[slot];
      if (row < 0) continue;
      FPSA_UNROLL
      for (int j = 0; j < kDim / 8; ++j) {
        const int column = 8 * j + fragment_column(thread);
        const int64_t at = base + row * to.row_stride + column;
        const float low = sums[4 * j + 2 * half] * scale(column), high = sums[4 * j + 2 * half + 1] * scale(column + 1);
        if (to.type == OutType::kF32) {
          *reinterpret_cast<Pair*>(static_cast<float*>(to.data) + at) = {{low, high}};
        } else {
          *reinterpret_cast<uint32_t*>(static_cast<uint16_t*>(to.data) + at) =
              to.type == OutType::kF16 ? ptx::f16x2(low, high) : ptx::bf16x2(low, high);
        }
      }
    }
  }

  // Its place and its rows are found again rather than kept in registers beside the products.
  FPSA_DEVICE void finish_item(int32_t index) {
    const Place place = place_of(index, p.item_count, p.heads, p.shared_mask, p.items);
    const WorkItem& item = p.items[place.item];
    store(p.first, place, item, first, [&](int) { return p.softmax_scale; });
    if constexpr (kOfKeys) {
      // d_out had V's scale for dP; here it is undone.
      const float* v_scale = kCoded ? p.v_scale + int64_t{place.batch * p.heads + place.head} * kDim : nullptr;
      store(p.second, place, item, second,
            [&](int channel) { return kCoded ? ptx::divide(1.0f, v_scale[channel]) : 1.0f; });
    }
  }

  /// An item without rows for this group: it only lets the stages go by.
  FPSA_DEVICE void stand_by(int blocks) {
    for (const int end = number + blocks; number < end; ++number) {
      wait_for_block();
      release(barriers.free(stage_of<kStages>(number)));
    }
  }

  FPSA_DEVICE void run() {
    const int32_t total = item_total(p);
    for (int32_t index = ptx::block_index(); index < total; index += ptx::grid_blocks()) {
      const Place place = place_of(index, p.item_count, p.heads, p.shared_mask, p.items);
      const WorkItem& item = p.items[place.item];
      const int blocks = bwd_blocks<kColumns>(p, item);
      // The parity is that of the number of items before; a counter would cost a register.
      ptx::mbarrier_wait(barriers.rows_full(group), static_cast<uint32_t>(index / ptx::grid_blocks() & 1));
      const bool idle = item.query_segment[2 * group] < 0;
      if (idle || blocks == 0) release(barriers.rows_free(group));
      if (idle) {
        stand_by(blocks);
        continue;
      }
      start_item(place.batch * p.heads + place.head, item);
      if (blocks > 0) {
        const int32_t *entries = p.entries + item.first_entry, *last = entries + (blocks - 1) * kSegments;
        step<true>(entries, entries == last);
        while (entries != last) {
          entries += kSegments;
          step<false>(entries, entries == last);
        }
        issue_gradients();
        ptx::wgmma_wait<0>();
        ptx::pin(first);
        ptx::pin(second);
        release_block_before();
      }
      finish_item(static_cast<int32_t>(ptx::opaque(static_cast<uint32_t>(index))));
    }
  }
};

/// The kernel's body, for every thread of the grid; kElement is the type of every 16-bit operand. Codes come as BF16.
template <AttentionBwdTiling kTiling, ptx::Element kElement = ptx::Element::kBf16>
FPSA_DEVICE void attention_bwd_bf16_sm90a(const AttentionBwdParams& p) {
  constexpr BwdSharedMap kMap = bwd_shared_map(kTiling);
  const ptx::SharedAddress memory = ptx::shared_memory();
  const BwdBarriers barriers{{memory + kMap.barriers, kTiling.stages}};
  const auto ready = [&] {
    constexpr uint32_t kWarps = kConsumers * 4;
    for (int stage = 0; stage < kTiling.stages; ++stage) {
      ptx::mbarrier_init(barriers.full(stage), 1);
      ptx::mbarrier_init(barriers.free(stage), kWarps);
    }
    for (int group = 0; group < kConsumers; ++group) {
      ptx::mbarrier_init(barriers.rows_full(group), 1);
      ptx::mbarrier_init(barriers.rows_free(group), 4);
    }
    ptx::fence_barrier_init();
    ptx::prefetch_map(p.q);
    ptx::prefetch_map(p.k);
    ptx::prefetch_map(p.v);
    ptx::prefetch_map(p.d_out);
  };
  run_warpgroups<1>(
      ready, [&] { produce_bwd<kTiling>(p, memory, barriers); },
      [&](int thread) { BwdConsumer<kTiling, kElement>(p, memory, barriers, thread).run(); });
}

}  // namespace fpsa::kernel::cuda::inline FPSA_TARGET
