// What attention kernels for sm_90a are made of beside their products: the ring of stages, its barriers, exp2, the walk
// over items, rows and their places.
//
// A forward's blocks of threads may come in clusters of two (AttentionTiling::cluster). The two then take pairs of
// items with the same list of keys, and each copies half of every block of keys and values to both: the same stage, the
// same barrier in each. A stage is free when the consumers of both blocks have let go of it. Items without a partner
// come last; for these each block copies for itself, and its consumers free its own stage once more in place of the
// other's.
#pragma once

#include "fpsa/kernel/cuda/attention_params.h"
#include "fpsa/kernel/cuda/ptx/barrier.h"
#include "fpsa/kernel/cuda/ptx/cluster.h"
#include "fpsa/kernel/cuda/ptx/copy.h"
#include "fpsa/kernel/cuda/ptx/math.h"
#include "fpsa/kernel/cuda/ptx/thread.h"
#include "fpsa/kernel/cuda/tiling/attention_tiling.h"

namespace fpsa::kernel::cuda::inline FPSA_TARGET {

inline constexpr float kLowest = -__builtin_huge_valf();
inline constexpr float kCodeBits = 8.0f;  // P's codes are of 2^8 P: exact, and covers the most of all powers of two

/// The number of a block of keys since the kernel began gives its stage and the parity of its phase there. Who waits
/// for a filled stage waits for `parity`, who waits for a free one for the other.
template <int kStages>
FPSA_DEVICE int stage_of(int number) {
  static_assert((kStages & (kStages - 1)) == 0, "so that one counter in a register serves for both");
  return number & (kStages - 1);
}
template <int kStages>
FPSA_DEVICE uint32_t parity_of(int number) {
  return static_cast<uint32_t>(number / kStages) & 1;
}

/// Addresses of the barriers. "Full" ends a phase when bytes have landed, "free" when all readers are done.
struct BarrierRow {
  ptx::SharedAddress base;
  int stages;
  FPSA_DEVICE ptx::SharedAddress at(int index) const {
    return base + static_cast<uint32_t>(index) * ptx::kBarrierBytes;
  }
};
/// Those of a forward.
struct Barriers : BarrierRow {
  FPSA_DEVICE ptx::SharedAddress keys_full(int stage) const { return at(stage); }
  FPSA_DEVICE ptx::SharedAddress keys_free(int stage) const { return at(stages + stage); }
  FPSA_DEVICE ptx::SharedAddress values_full(int stage) const { return at(2 * stages + stage); }
  FPSA_DEVICE ptx::SharedAddress values_free(int stage) const { return at(3 * stages + stage); }
  FPSA_DEVICE ptx::SharedAddress queries_full(int group) const { return at(4 * stages + group); }
  FPSA_DEVICE ptx::SharedAddress queries_free(int group) const { return at(4 * stages + kConsumers + group); }
};

/// By one thread, before the others use them.
template <int kCluster>
FPSA_DEVICE void init_barriers(const Barriers& barriers) {
  for (int stage = 0; stage < barriers.stages; ++stage) {
    ptx::mbarrier_init(barriers.keys_full(stage), 1);
    ptx::mbarrier_init(barriers.values_full(stage), 1);
    ptx::mbarrier_init(barriers.keys_free(stage), kCluster * kConsumers * 4);  // warps
    ptx::mbarrier_init(barriers.values_free(stage), kCluster * kConsumers * 4);
  }
  for (int group = 0; group < kConsumers; ++group) {
    ptx::mbarrier_init(barriers.queries_full(group), 1);
    ptx::mbarrier_init(barriers.queries_free(group), 4);
  }
  ptx::fence_barrier_init();
}

/// Items of a launch.
template <class Params>
FPSA_DEVICE int32_t item_total(const Params& p) {
  return p.item_count * p.batch * (p.shared_mask ? p.heads : 1);
}

/// Item number `index` of a launch, and whether the cluster's blocks work on a pair there.
template <int kCluster, class Params>
FPSA_DEVICE Place place_in(const Params& p, int32_t index) {
  if constexpr (kCluster == 1)
    return place_of(index, p.item_count, p.heads, p.shared_mask, p.items);
  else
    return place_of_pairs_first(index, p.item_count, p.paired, p.batch, p.heads, p.shared_mask, p.items);
}
template <int kCluster, class Params>
FPSA_DEVICE bool in_pair(const Params& p, int32_t index) {
  return kCluster > 1 && index < p.paired * p.batch * (p.shared_mask ? p.heads : 1);
}

/// How a producer brings keys and values: all of them to its own block, or its share of them to all blocks.
template <int kCluster>
struct Sharing {
  int rank;               // of this block
  bool together = false;  // the blocks work on a pair

  FPSA_DEVICE Sharing() : rank(kCluster > 1 ? ptx::cluster_rank() : 0) {}

  /// Whether part `part` of `parts` is this block's to copy.
  FPSA_DEVICE bool brings(int part, int parts) const {
    return kCluster == 1 || !together || part / (parts / kCluster) == rank;
  }
  FPSA_DEVICE uint16_t blocks() const { return static_cast<uint16_t>(together ? (1 << kCluster) - 1 : 1 << rank); }
  FPSA_DEVICE void copy_box_2d(ptx::SharedAddress to, const ptx::TensorMap& map, int x, int y,
                               ptx::SharedAddress barrier) const {
    if constexpr (kCluster == 1)
      ptx::copy_box_2d(to, map, x, y, barrier);
    else
      ptx::copy_box_2d_multicast(to, map, x, y, barrier, blocks());
  }
  FPSA_DEVICE void copy_box_3d(ptx::SharedAddress to, const ptx::TensorMap& map, int x, int y, int z,
                               ptx::SharedAddress barrier) const {
    if constexpr (kCluster == 1)
      ptx::copy_box_3d(to, map, x, y, z, barrier);
    else
      ptx::copy_box_3d_multicast(to, map, x, y, z, barrier, blocks());
  }
  FPSA_DEVICE void copy_bytes(ptx::SharedAddress to, const void* from, uint32_t bytes,
                              ptx::SharedAddress barrier) const {
    if constexpr (kCluster == 1)
      ptx::copy_bytes(to, from, bytes, barrier);
    else
      ptx::copy_bytes_multicast(to, from, bytes, barrier, blocks());
  }
};

/// 2^d for an integer d <= 0, exactly (ex2.approx does not promise that); 0 below -126, for -inf and NaN too.
FPSA_DEVICE float power_of_two(float d) {
  return d >= -126.0f ? ptx::float_of(static_cast<uint32_t>(static_cast<int>(d) + 127) << 23) : 0.0f;
}

/// 2^x on FMA units: x = n + f with |f| <= 1/2, a polynomial of degree 4 within 3e-6 of 2^f, times 2^n. NaN stays NaN.
FPSA_DEVICE float exp2_polynomial(float x) {
  constexpr float kRound = 12582912.0f;  // 1.5 2^23: adding it rounds to an integer, which its low bits then hold
  x = ptx::max_nan(x, -126.0f);
  const float shifted = x + kRound;
  const float f = x - (shifted - kRound);
  float y = ptx::fused_multiply_add(f, 0x1.3997d6p-7f, 0x1.ca1444p-5f);
  y = ptx::fused_multiply_add(f, y, 0x1.ec06dap-3f);
  y = ptx::fused_multiply_add(f, y, 0x1.62e0dcp-1f);
  y = ptx::fused_multiply_add(f, y, 0x1.ffffe8p-1f);
  return y * ptx::float_of((ptx::bits_of(shifted) << 23) + 0x3f800000u);
}

/// Whether every column of the block exists. Entries are the block's.
template <int kSegments>
FPSA_DEVICE bool all_exist(const int32_t* entries) {
  bool full = true;
  FPSA_UNROLL
  for (int s = 0; s < kSegments; ++s)
    full = full && entry_full(entries[s]);
  return full;
}
/// Scores of columns that do not exist become -inf. `thread` is of the warpgroup.
template <int kScores>
FPSA_DEVICE void mask(float (&scores)[kScores], const int32_t* entries, int thread) {
  FPSA_UNROLL
  for (int s = 0; s < kScores / 16; ++s) {
    const int left = entry_valid(entries[s]) - fragment_column(thread);
    FPSA_UNROLL
    for (int i = 0; i < 16; ++i)
      if (i / 4 * 8 + i % 2 >= left) scores[16 * s + i] = kLowest;
  }
}

/// A consumer warpgroup.
struct Warpgroup {
  const ptx::SharedAddress memory;
  const int group, thread;  // of the block's consumers, of the warpgroup

  /// `thread` is of the block.
  FPSA_DEVICE Warpgroup(ptx::SharedAddress memory, int thread)
      : memory(memory), group(thread / 128 - 1), thread(thread % 128) {}

  // Readers are done with something: each warp says so once, after its last thread.
  FPSA_DEVICE void release(ptx::SharedAddress barrier) {
    ptx::sync_warp();
    if (thread % 32 == 0) ptx::mbarrier_arrive(barrier);
  }
  FPSA_DEVICE int slot_of(int row, const WorkItem& item) const {
    const int segment = item.query_segment[2 * group + row / kSegment];
    return segment < 0 ? -1 : segment * kSegment + row % kSegment;
  }
};

/// Until every thread of the cluster has come.
FPSA_DEVICE void sync_cluster() {
  ptx::cluster_arrive();
  ptx::cluster_wait();
}

/// A kernel's body, for every thread of the grid: one thread readies barriers and maps, one of the first warpgroup
/// brings what the others, the consumers, compute with. consume(thread) receives the thread's number in the block.
template <int kCluster, class Ready, class Produce, class Consume>
FPSA_DEVICE void run_warpgroups(Ready ready, Produce produce, Consume consume) {
  const int thread = ptx::thread_index();
  if (thread == 0) ready();
  // Not before its barriers are made may another block's copies and arrivals come to this one.
  if constexpr (kCluster == 1)
    ptx::sync_block();
  else
    sync_cluster();
  if (thread < ptx::kWarpgroupThreads) {
    ptx::set_max_registers_lower<kProducerRegisters>();
    if (thread < ptx::kWarpThreads && ptx::elect_one()) produce();
  } else {
    ptx::set_max_registers_raise<kConsumerRegisters>();
    consume(thread);
  }
  // Nor after its end: the other block's consumers may still be about to free its last stages.
  if constexpr (kCluster > 1) sync_cluster();
}

/// run_warpgroups() for a forward.
template <int kCluster, class Params, class Produce, class Consume>
FPSA_DEVICE void run_forward(const Params& p, const Barriers& barriers, Produce produce, Consume consume) {
  const auto ready = [&] {
    init_barriers<kCluster>(barriers);
    ptx::prefetch_map(p.q);
    ptx::prefetch_map(p.k);
    ptx::prefetch_map(p.v);
  };
  run_warpgroups<kCluster>(ready, produce, consume);
}

/// What a consumer warpgroup of a forward has and does around its products. Arrays are registers: every index is a
/// constant after unrolling.
template <class Params, AttentionTiling kTiling>
struct ConsumerParts : Warpgroup {
  static constexpr SharedMap kMap = shared_map(kTiling);
  static constexpr int kDim = kTiling.dim, kSegments = kTiling.keys / kSegment, kStages = kTiling.stages;
  static constexpr int kCluster = kTiling.cluster;

  const Params& p;
  const Barriers& barriers;

  float scores[kTiling.keys / 2], out[kDim / 2];
  float m[2], sum[2];   // of the thread's two rows
  int number = 0;       // of the block of keys
  bool paired = false;  // the other group works on this item too
  int frees = 0;        // of a cluster: the block whose stages this thread frees, if it is one of the first of its warp

  FPSA_DEVICE ConsumerParts(const Params& p, ptx::SharedAddress memory, const Barriers& barriers, int thread)
      : Warpgroup(memory, thread), p(p), barriers(barriers) {}

  /// Named barriers 1 and 2 are the turns of the two groups; group 0 begins.
  FPSA_DEVICE void take_turn() {
    if (paired) ptx::barrier_sync(1 + group, 256);
  }
  FPSA_DEVICE void pass_turn() {
    if (paired) ptx::barrier_arrive(2 - group, 256);
  }

  FPSA_DEVICE void wait_for_keys(int at) {
    ptx::mbarrier_wait(barriers.keys_full(stage_of<kStages>(at)), parity_of<kStages>(at));
  }
  FPSA_DEVICE void wait_for_values(int at) {
    ptx::mbarrier_wait(barriers.values_full(stage_of<kStages>(at)), parity_of<kStages>(at));
  }

  /// The warp is done with a stage of keys or values. In a pair its first threads say so to a block each.
  FPSA_DEVICE void release_stage(ptx::SharedAddress barrier) {
    if constexpr (kCluster == 1) {
      this->release(barrier);
    } else {
      ptx::sync_warp();
      if (this->thread % 32 < kCluster) ptx::mbarrier_arrive_cluster(ptx::map_to_block(barrier, frees));
    }
  }

  FPSA_DEVICE int row_of(int row, const WorkItem& item) const {
    const int slot = slot_of(row, item);
    return slot < 0 ? -1 : p.row_of_slot[slot];
  }

  /// An item without rows for this group: it only lets the stages go by.
  FPSA_DEVICE void stand_by(int blocks) {
    for (const int end = number + blocks; number < end; ++number) {
      wait_for_keys(number);
      release_stage(barriers.keys_free(stage_of<kStages>(number)));
      wait_for_values(number);
      release_stage(barriers.values_free(stage_of<kStages>(number)));
    }
  }

  FPSA_DEVICE void start_rows() {
    FPSA_UNROLL
    for (int half = 0; half < 2; ++half) {
      m[half] = kLowest;
      sum[half] = 0;
    }
    FPSA_UNROLL
    for (int i = 0; i < kDim / 2; ++i)
      out[i] = 0;
  }

  /// The rows' sums, of 2^bits P, are complete: writes lse and row_max, and gives the weights that end the rows.
  FPSA_DEVICE void finish_rows(const Place& place, const WorkItem& item, float bits, float (&weight)[2]) {
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
      const int64_t at = (place.batch * p.heads + place.head) * p.queries + row;
      if (p.row_max) p.row_max[at] = top;
      if (p.lse) p.lse[at] = item.entries > 0 ? (top - bits + ptx::log2_approx(sum[half])) * 0.69314718056f : kLowest;
    }
  }

  /// Rows to their places. value(at, column) is what becomes of out[at], which is of that channel and of row at / 2
  /// % 2.
  template <class Value>
  FPSA_DEVICE void store(const Place& place, const WorkItem& item, Value value) {
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
        const float low = value(at, column), high = value(at + 1, column + 1);
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

  /// Every item of this block of threads. `kernel` is this object as what it is; it has
  ///   start_item(place, item)
  ///   step<kFirst>(entry, block, last)   the block of keys whose entries begin at `entry`, the item's number `block`;
  ///                                      the last one lets go of the queries
  ///   finish_block(at, block)            the last block's P V, `at` in the ring
  ///   finish_item(index)                 finds place and item again rather than keep them in registers
  template <class Kernel>
  FPSA_DEVICE void run_items(Kernel& kernel) {
    const int32_t total = item_total(p);
    for (int32_t index = ptx::block_index(); index < total; index += ptx::grid_blocks()) {
      const Place place = place_in<kCluster>(p, index);
      if constexpr (kCluster > 1) frees = in_pair<kCluster>(p, index) ? thread % 32 : ptx::cluster_rank();
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
      kernel.start_item(place, item);
      if (blocks > 0) {
        paired = item.query_segment[2 * (1 - group)] >= 0;
        if (group == 1) pass_turn();
        const int32_t first = item.first_entry, last = first + (blocks - 1) * kSegments;
        kernel.template step<true>(first, 0, first == last);
        for (int32_t entry = first + kSegments; entry <= last; entry += kSegments)
          kernel.template step<false>(entry, (entry - first) / kSegments, entry == last);
        kernel.finish_block(number - 1, (last - first) / kSegments);
      }
      kernel.finish_item(static_cast<int32_t>(ptx::opaque(static_cast<uint32_t>(index))));
    }
  }
};

}  // namespace fpsa::kernel::cuda::inline FPSA_TARGET
