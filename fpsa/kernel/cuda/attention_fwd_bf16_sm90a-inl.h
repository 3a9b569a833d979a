// attention_fwd_bf16_sm90a: FlashAttention on BF16, or F16, over lists of visible keys.
//
// A block of threads takes work items one after the other: up to 2 x 64 query rows that see the same keys. One thread
// of the first warpgroup brings queries, blocks of keys and blocks of values into shared memory (TMA, a ring of
// stages). The other two warpgroups each compute 64 rows: S = Q K^T, softmax, O += P V, and take turns at the tensor
// cores, so that one's products run beside the other's softmax; a group's own P V of the block before runs beside its
// softmax too.
//
// A matrix of D channels lies in shared memory as D / 64 strips of 64 channels, rows of 128 bytes: K's rows are along
// keys and read K-major, V's are along keys too and read MN-major, so nothing is transposed. Scores come out as
// accumulator fragments, and rounded to 16 bits in pairs they are P's operand fragments as they are. The running
// maximum is an integer m, so factors between blocks are powers of two, and most blocks need none.
//
// The same source is compiled by nvcc (attention_fwd_bf16_sm90a.cu) and, on emulated instructions, for tests.
#pragma once

#include "fpsa/kernel/cuda/attention_fwd_bf16_sm90a.h"
#include "fpsa/kernel/cuda/attention_parts-inl.h"
#include "fpsa/kernel/cuda/ptx/barrier.h"
#include "fpsa/kernel/cuda/ptx/copy.h"
#include "fpsa/kernel/cuda/ptx/math.h"
#include "fpsa/kernel/cuda/ptx/thread.h"
#include "fpsa/kernel/cuda/ptx/wgmma.h"
#include "fpsa/kernel/cuda/tiling/attention_tiling.h"

namespace fpsa::kernel::cuda::inline FPSA_TARGET {

inline constexpr int kRowBytes = 2 * kHalfRow;       // of a strip
inline constexpr int kPatternBytes = 8 * kRowBytes;  // 8 rows, after which the swizzle repeats
inline constexpr int kProductDepth = 16;             // 16-bit elements along K of one product

/// One segment of rows as D / 64 boxes into strips of `rows` rows. copy_box(to, x, y) copies a box.
template <int kDim, class CopyBox>
FPSA_DEVICE void copy_segment(ptx::SharedAddress to, int rows, int segment, CopyBox copy_box) {
  FPSA_UNROLL
  for (int strip = 0; strip < kDim / kHalfRow; ++strip)
    copy_box(to + strip * rows * kRowBytes, strip * kHalfRow, segment * kSegment);
}

/// A block of keys or values, or this block of threads' share of it. Entries are the block's.
template <AttentionTiling kTiling>
FPSA_DEVICE void copy_block(const Sharing<kTiling.cluster>& sharing, ptx::SharedAddress to, const ptx::TensorMap& map,
                            int first_segment, const int32_t* entries, ptx::SharedAddress barrier) {
  constexpr int kSegments = kTiling.keys / kSegment;
  FPSA_UNROLL
  for (int s = 0; s < kSegments; ++s)
    if (sharing.brings(s, kSegments))
      copy_segment<kTiling.dim>(
          to + s * kSegment * kRowBytes, kTiling.keys, first_segment + entry_segment(entries[s]),
          [&](ptx::SharedAddress box, int x, int y) { sharing.copy_box_2d(box, map, x, y, barrier); });
}

template <AttentionTiling kTiling>
FPSA_DEVICE void produce_bf16(const AttentionParams& p, ptx::SharedAddress memory, const Barriers& barriers) {
  constexpr SharedMap kMap = shared_map(kTiling);
  constexpr int kSegments = kTiling.keys / kSegment, kDim = kTiling.dim, kStages = kTiling.stages;
  constexpr int kCluster = kTiling.cluster;
  Sharing<kCluster> sharing;
  int number = 0, item_number = 0;
  const int32_t total = item_total(p);
  for (int32_t index = ptx::block_index(); index < total; index += ptx::grid_blocks()) {
    const Place place = place_in<kCluster>(p, index);
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
        copy_segment<kDim>(memory + kMap.queries + group * kMap.query_bytes + part * kSegment * kRowBytes, kGroupRows,
                           job * p.query_segments + segment, [&](ptx::SharedAddress to, int x, int y) {
                             ptx::copy_box_2d(to, p.q, x, y, barriers.queries_full(group));
                           });
      }
    }
    for (int at = 0; at < item.entries; at += kSegments, ++number) {
      const int32_t* entries = p.entries + item.first_entry + at;
      const int stage = stage_of<kStages>(number);
      const uint32_t free_parity = parity_of<kStages>(number) ^ 1;
      ptx::mbarrier_wait(barriers.keys_free(stage), free_parity);
      ptx::mbarrier_arrive_expect_tx(barriers.keys_full(stage), kMap.key_bytes);
      copy_block<kTiling>(sharing, memory + kMap.keys + stage * kMap.key_bytes, p.k, job * p.key_segments, entries,
                          barriers.keys_full(stage));
      ptx::mbarrier_wait(barriers.values_free(stage), free_parity);
      ptx::mbarrier_arrive_expect_tx(barriers.values_full(stage), kMap.value_bytes);
      copy_block<kTiling>(sharing, memory + kMap.values + stage * kMap.value_bytes, p.v, job * p.key_segments, entries,
                          barriers.values_full(stage));
    }
  }
}

/// One consumer warpgroup.
template <AttentionTiling kTiling, ptx::Element kElement>
struct ConsumerBf16 : ConsumerParts<AttentionParams, kTiling> {
  using Parts = ConsumerParts<AttentionParams, kTiling>;
  using Parts::kMap, Parts::kDim, Parts::kStages;
  using Parts::p, Parts::memory, Parts::barriers, Parts::group, Parts::number;
  using Parts::scores, Parts::out, Parts::m, Parts::sum;
  static constexpr int kProducts = kTiling.keys / kProductDepth;  // of P V
  static_assert(kMap.bytes <= kMaxSharedBytes, "what a block of threads may have");
  static_assert(kDim == 64 || kDim == 128, "whole strips, and D is N of a product");
  static_assert(kTiling.element_bytes == 2);

  uint32_t probabilities[kProducts][4];  // operand fragments of P
  float rescale[2];                      // of the thread's two rows: the power of two from the last m to this one

  using Parts::Parts;

  FPSA_DEVICE void issue_scores() {
    const ptx::SharedAddress base = ptx::opaque(memory);
    const uint64_t q =
        ptx::matrix_descriptor(base + kMap.queries + group * kMap.query_bytes, ptx::Swizzle::k128, kPatternBytes);
    const uint64_t k = ptx::matrix_descriptor(base + kMap.keys + stage_of<kStages>(number) * kMap.key_bytes,
                                              ptx::Swizzle::k128, kPatternBytes);
    FPSA_UNROLL
    for (int at = 0; at < kDim; at += kProductDepth) {
      const int strip = at / kHalfRow, byte = at % kHalfRow * 2;
      ptx::wgmma_16bit<kElement, ptx::Major::kK, ptx::Major::kK>(
          scores, ptx::advance_descriptor(q, strip * kGroupRows * kRowBytes + byte),
          ptx::advance_descriptor(k, strip * kTiling.keys * kRowBytes + byte), at > 0);
    }
    ptx::wgmma_commit();
  }

  /// Of block `at` of the ring.
  FPSA_DEVICE void issue_values(int at) {
    const uint64_t v =
        ptx::matrix_descriptor(ptx::opaque(memory) + kMap.values + stage_of<kStages>(at) * kMap.value_bytes,
                               ptx::Swizzle::k128, kPatternBytes, kTiling.keys * kRowBytes);
    FPSA_UNROLL
    for (int i = 0; i < kProducts; ++i)
      ptx::wgmma_16bit<kElement, ptx::Major::kMn>(out, probabilities[i],
                                                  ptx::advance_descriptor(v, i * kProductDepth * kRowBytes), true);
    ptx::wgmma_commit();
  }

  /// Scores become P; m and the row sums move on.
  FPSA_DEVICE void softmax() {
    FPSA_UNROLL
    for (int half = 0; half < 2; ++half) {
      float top = kLowest;
      FPSA_UNROLL
      for (int i = 0; i < kTiling.keys / 2; ++i)
        if (i / 2 % 2 == half) top = ptx::max_number(top, scores[i]);
      FPSA_UNROLL
      for (int lanes = 1; lanes < 4; lanes *= 2)
        top = ptx::max_number(top, ptx::shuffle_xor(top, lanes));
      const float before = m[half];
      m[half] = ptx::max_number(before, ptx::ceiling(top * p.log2_factor));
      float added = 0;
      FPSA_UNROLL
      for (int i = 0; i < kTiling.keys / 2; ++i) {
        if (i / 2 % 2 != half) continue;
        const float x = ptx::fused_multiply_add(scores[i], p.log2_factor, -m[half]);
        scores[i] = i % 16 < kTiling.polynomial ? exp2_polynomial(x) : ptx::exp2_approx(x);
        added += scores[i];
      }
      rescale[half] = power_of_two(before - m[half]);
      sum[half] = ptx::fused_multiply_add(sum[half], rescale[half], added);
    }
  }

  /// P V of block `at` is under way: waits for it.
  FPSA_DEVICE void finish_values(int at) {
    ptx::wgmma_wait<0>();
    ptx::pin(out);
    this->release_stage(barriers.values_free(stage_of<kStages>(at)));
  }

  /// The sums so far go over to the m of the block's scores, where it has moved.
  FPSA_DEVICE void follow_m() {
    if (!ptx::any_in_warp(rescale[0] != 1.0f || rescale[1] != 1.0f)) return;
    FPSA_UNROLL
    for (int i = 0; i < kDim / 2; ++i)
      out[i] *= rescale[i / 2 % 2];
  }

  /// Register r of product i holds, of row r % 2, both scores of group 2 i + r / 2 of 8 keys: two that lie together.
  FPSA_DEVICE void round_probabilities() {
    FPSA_UNROLL
    for (int i = 0; i < kProducts; ++i) {
      FPSA_UNROLL
      for (int r = 0; r < 4; ++r)
        probabilities[i][r] = ptx::rounded_pair<kElement>(scores[8 * i + 2 * r], scores[8 * i + 2 * r + 1]);
    }
  }

  /// A block of keys; and P V of the block before it.
  template <bool kFirst>
  FPSA_DEVICE void step(int32_t entry, int, bool last) {
    const int32_t* entries = p.entries + entry;
    const bool full = all_exist<Parts::kSegments>(entries);
    this->take_turn();
    this->wait_for_keys(number);
    if constexpr (!kFirst) this->wait_for_values(number - 1);
    ptx::wgmma_fence();
    issue_scores();
    if constexpr (!kFirst) issue_values(number - 1);
    if (group == 0 || !last) this->pass_turn();
    ptx::wgmma_wait<kFirst ? 0 : 1>();
    ptx::pin(scores);
    this->release_stage(barriers.keys_free(stage_of<kStages>(number)));
    if (last) this->release(barriers.queries_free(group));
    if (!full) mask(scores, entries, Parts::thread);
    softmax();
    if constexpr (!kFirst) {
      finish_values(number - 1);
      follow_m();
    }
    round_probabilities();
    ++number;
  }

  /// P V of block `at` of the ring with nothing beside it.
  FPSA_DEVICE void finish_block(int at, int) {
    this->wait_for_values(at);
    ptx::wgmma_fence();
    issue_values(at);
    finish_values(at);
  }

  FPSA_DEVICE void start_item(const Place&, const WorkItem&) { this->start_rows(); }

  FPSA_DEVICE void finish_item(int32_t index) {
    const Place place = place_in<Parts::kCluster>(p, index);
    const WorkItem& item = p.items[place.item];
    float weight[2];
    this->finish_rows(place, item, 0, weight);
    this->store(place, item, [&](int at, int) { return out[at] * weight[at / 2 % 2]; });
  }
};

/// The kernel's body, for every thread of the grid; kElement is the type of Q, K, V and of P as an operand.
template <AttentionTiling kTiling, ptx::Element kElement = ptx::Element::kBf16>
FPSA_DEVICE void attention_fwd_bf16_sm90a(const AttentionParams& p) {
  constexpr SharedMap kMap = shared_map(kTiling);
  const ptx::SharedAddress memory = ptx::shared_memory();
  const Barriers barriers{{memory + kMap.barriers, kTiling.stages}};
  run_forward<kTiling.cluster>(
      p, barriers, [&] { produce_bf16<kTiling>(p, memory, barriers); },
      [&](int thread) {
        ConsumerBf16<kTiling, kElement> consumer(p, memory, barriers, thread);
        consumer.run_items(consumer);
      });
}

}  // namespace fpsa::kernel::cuda::inline FPSA_TARGET
