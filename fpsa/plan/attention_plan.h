// The plan of one attention: everything that does not depend on the values, decided once, so that running allocates
// nothing and decides nothing.
//
// A run is a sequence of units in a fixed order: quantise and pack a head's keys and values, then its blocks of query
// rows, the next heads' preparation a few heads ahead. Workers take units from one counter; a unit waits for the
// earlier units that it reads. So there is one fork and one join per run, whatever the number of heads. Packed heads
// live in a ring of slots.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "fpsa/kernel/table.h"
#include "fpsa/plan/geometry.h"
#include "fpsa/plan/workspace.h"

namespace fpsa::plan {

enum class Precision {
  kNone,  // the tensors' own dtype
  kE4m3,  // Q, K, V quantised in the run, P inside the kernel
  kInt8,  // likewise
};

/// What a head looks like in memory and how it is computed.
struct AttentionSpec {
  int64_t heads = 1, dim = 64;
  kernel::Dtype dtype = kernel::Dtype::kF32;  // of q, k, v and out: kF32 or kBf16
  Precision precision = Precision::kNone;
  bool smooth_keys = false;  // K is coded less its mean over the tokens (kernel/smoothing.h); LSE stays the true one
  std::optional<kernel::Isa> isa;  // the level to choose entries at; the one in force when absent
};

/// Errors    fpsa::Error: a head dim that is no multiple of 8 from 8 to 256, heads outside 1 .. 2^20, another dtype,
///           smooth_keys at precision kNone, an ISA level that this machine does not support
void check_spec(const AttentionSpec& spec);

/// Immutable, so any number of threads may run one at a time, each with its own workspace.
class AttentionPlan {
 public:
  /// Self-attention over a grid.
  ///   Errors    as check_spec(); a per-head mask of another number of heads
  AttentionPlan(std::shared_ptr<const Geometry> geometry, const AttentionSpec& spec);
  /// Every query sees every key, without a grid; precision kNone.
  ///   Errors    as above; counts below 0 or above pattern::kMaxTokens; another precision
  AttentionPlan(int64_t queries, int64_t keys, const AttentionSpec& spec);

  int64_t queries() const { return queries_; }
  int64_t keys() const { return keys_; }
  const AttentionSpec& spec() const { return spec_; }
  const Geometry* geometry() const { return geometry_.get(); }  // null without a grid
  /// The kernel that runs, and the quantiser; null at precision kNone.
  const kernel::AttentionFwdEntry& entry() const { return *entry_; }
  const kernel::QuantizeEntry* quantizer() const { return quantizer_; }
  /// Position in tile order -> row of q, k, v, out; null where the order does not matter.
  const int32_t* index() const { return index_; }

  /// Visible pairs / all pairs, averaged over heads; 1 where there are no pairs.
  double density() const { return geometry_ ? geometry_->density() : 1.0; }
  /// Floating-point operations of one run: 4 D for each visible pair, the softmax not counted.
  ///   Errors    batch below 0; a result above 2^63 - 1
  int64_t flops(int64_t batch) const;

  /// Bytes of the workspace of a run: grows with both, by scratch for each thread and by slots up to a bound.
  ///   Errors    as jobs(); threads outside 1 .. ThreadPool::kMaxWorkers
  int64_t workspace_bytes(int64_t batch, int threads) const;

  // The rest is for run().
  std::span<const kernel::QueryBlock> work(int64_t head) const { return all_ ? all_->blocks() : geometry_->work(head); }
  /// Blocks of the heads before this one; heads of all batches in one row.
  int64_t blocks_before(int64_t job) const {
    const int64_t heads = spec_.heads;
    return job / heads * blocks_before_.back() + blocks_before_[static_cast<size_t>(job % heads)];
  }
  /// Heads of all batches.
  ///   Errors    batch below 0, or above 2^62 / (heads * (queries + keys + 256)): what a run counts fits 63 bits
  int64_t jobs(int64_t batch) const;
  int64_t slots(int64_t batch) const;
  int64_t chunks() const;  // units that pack one head
  /// Keys of a chunk: a multiple of 64, few enough to spread one head over threads.
  static constexpr int64_t kKeysPerChunk = 512;

  /// What a slot keeps beside its data: counters, on a line of their own.
  static constexpr int64_t kSlotStateBytes = 64;
  /// Where the parts of a slot begin, in bytes.
  struct SlotLayout {
    int64_t packed = 0, q_codes = 0, k_codes = 0, v_codes = 0;
    int64_t q_scale = 0, k_scale = 0, v_scale = 0, q_group_scale = 0, k_group_scale = 0, k_mean = 0;
    int64_t bytes = 0;
  };
  const SlotLayout& slot() const { return slot_; }
  int64_t scratch_stride() const { return scratch_stride_; }

 private:
  void choose_entries();
  void lay_out();

  std::shared_ptr<const Geometry> geometry_;
  std::optional<kernel::Visibility> all_;  // where every query sees every key and the order does not matter
  AttentionSpec spec_;
  int64_t queries_ = 0, keys_ = 0;
  const kernel::AttentionFwdEntry* entry_ = nullptr;
  const kernel::QuantizeEntry* quantizer_ = nullptr;
  const int32_t* index_ = nullptr;
  std::vector<int64_t> blocks_before_;  // [heads + 1]
  SlotLayout slot_;
  int64_t scratch_stride_ = 0;
};

}  // namespace fpsa::plan
