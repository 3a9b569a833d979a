#include "fpsa/plan/attention_plan.h"

#include <algorithm>
#include <limits>

#include "fpsa/base/check.h"
#include "fpsa/plan/thread_pool.h"

namespace fpsa::plan {
namespace {

using kernel::Dtype;

// Packed heads that exist at a time share this many bytes: a part of the last-level cache, from which the blocks
// read them. At least three slots: one in use, one ready, one in preparation.
constexpr int64_t kRingBytes = int64_t{32} << 20;
constexpr int64_t kMinSlots = 3, kMaxSlots = 64;

// Two lines: hardware fetches lines in pairs.
constexpr int64_t kApart = 128;

int64_t round_up(int64_t n, int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

// What the tensors become before the kernel sees them.
Dtype kernel_dtype(const AttentionSpec& spec) {
  switch (spec.precision) {
    case Precision::kNone:
      return spec.dtype;
    case Precision::kE4m3:
      return Dtype::kE4m3;
    case Precision::kInt8:
      return Dtype::kInt8;
  }
  FPSA_CHECK(false, "precision: unknown value ", static_cast<int>(spec.precision));
}

}  // namespace

void check_spec(const AttentionSpec& spec) {
  FPSA_CHECK(spec.heads >= 1 && spec.heads <= (int64_t{1} << 20), "heads: expected 1 to 2^20, got ", spec.heads);
  FPSA_CHECK(spec.dim % 8 == 0 && spec.dim >= 8 && spec.dim <= 256,
             "head_dim: expected a multiple of 8 from 8 to 256, got ", spec.dim, "; pad it with zeros");
  FPSA_CHECK(spec.dtype == Dtype::kF32 || spec.dtype == Dtype::kBf16, "dtype: expected f32 or bf16, got ",
             kernel::dtype_name(spec.dtype));
  FPSA_CHECK(!spec.smooth_keys || spec.precision != Precision::kNone,
             "smooth_keys: expected false at precision none, got true; keys that are not coded need no smoothing");
  FPSA_CHECK(!spec.isa || *spec.isa <= kernel::detected_isa(), "isa: '", kernel::isa_name(*spec.isa), "' needs ",
             kernel::isa_requirements(*spec.isa), ", which this machine does not support; its highest level is '",
             kernel::isa_name(kernel::detected_isa()), "'");
}

AttentionPlan::AttentionPlan(std::shared_ptr<const Geometry> geometry, const AttentionSpec& spec)
    : geometry_(std::move(geometry)), spec_(spec) {
  check_spec(spec);
  FPSA_CHECK(geometry_ != nullptr, "geometry: expected one, got null");
  const int64_t mask_heads = geometry_->mask().heads();
  FPSA_CHECK(mask_heads == 1 || mask_heads == spec.heads, "mask: expected one shared by all heads or one for each of ",
             spec.heads, " heads, got ", mask_heads);
  queries_ = keys_ = geometry_->tokens();
  // Without scales and holes the order of tokens does not matter, and raster order is read faster.
  if (geometry_->dense() && spec.precision == Precision::kNone)
    all_ = kernel::Visibility::dense(queries_, keys_);
  else
    index_ = geometry_->order().to_raster().data();
  choose_entries();
  lay_out();
}

AttentionPlan::AttentionPlan(int64_t queries, int64_t keys, const AttentionSpec& spec)
    : spec_(spec), queries_(queries), keys_(keys) {
  check_spec(spec);
  for (const auto& [name, count] : {std::pair("queries", queries), std::pair("keys", keys)})
    FPSA_CHECK(count >= 0 && count <= pattern::kMaxTokens, name, ": expected 0 to 2^31 - 1, got ", count);
  FPSA_CHECK(spec.precision == Precision::kNone,
             "precision: quantisation needs a grid and a granularity; plan it over a geometry");
  all_ = kernel::Visibility::dense(queries, keys);
  choose_entries();
  lay_out();
}

void AttentionPlan::choose_entries() {
  const kernel::Isa level = spec_.isa.value_or(kernel::current_isa());
  entry_ = &kernel::attention_fwd_at(kernel_dtype(spec_), level);
  if (spec_.precision != Precision::kNone) quantizer_ = &kernel::quantize_at(kernel_dtype(spec_), level);
}

void AttentionPlan::lay_out() {
  blocks_before_ = {0};
  for (int64_t head = 0; head < spec_.heads; ++head)
    blocks_before_.push_back(blocks_before_.back() + static_cast<int64_t>(work(head).size()));
  const auto take = [&](int64_t bytes) {
    const int64_t begin = slot_.bytes;
    slot_.bytes += round_up(bytes, kWorkspaceAlignment);
    return begin;
  };
  slot_.packed = take(entry_->kernel.packed_bytes(keys_, spec_.dim));
  if (quantizer_) {
    slot_.q_codes = take(queries_ * spec_.dim);
    slot_.k_codes = take(keys_ * spec_.dim);
    slot_.v_codes = take(keys_ * spec_.dim);
    slot_.q_scale = take(queries_ * 4);
    slot_.k_scale = take(keys_ * 4);
    slot_.v_scale = take(spec_.dim * 4);
    slot_.q_group_scale = take(geometry_->groups().count * 4);
    slot_.k_group_scale = take(geometry_->groups().count * 4);
    slot_.k_mean = take(spec_.smooth_keys ? spec_.dim * 4 : 0);
  }
  slot_.bytes = round_up(slot_.bytes, kApart);
  scratch_stride_ = round_up(std::max<int64_t>(entry_->kernel.scratch_bytes(keys_, spec_.dim), 1), kApart);
}

int64_t AttentionPlan::chunks() const {
  return (keys_ + kKeysPerChunk - 1) / kKeysPerChunk;
}

int64_t AttentionPlan::jobs(int64_t batch) const {
  // Bounds what a run counts for one of the batch: its heads' rows and scales, and its units, of which a head has at
  // most one for each query, one for each 512 keys and 4 more. Below 2^62, with room for what workers count beyond.
  const int64_t most = (int64_t{1} << 62) / (spec_.heads * (queries_ + keys_ + 256));
  FPSA_CHECK(batch >= 0, "batch: expected 0 or more, got ", batch);
  FPSA_CHECK(batch <= most, "batch: expected at most ", most, " for this plan, got ", batch);
  return batch * spec_.heads;
}

int64_t AttentionPlan::slots(int64_t batch) const {
  const int64_t fit = std::clamp(kRingBytes / std::max<int64_t>(slot_.bytes, 1), kMinSlots, kMaxSlots);
  return std::min(fit, jobs(batch));
}

int64_t AttentionPlan::workspace_bytes(int64_t batch, int threads) const {
  FPSA_CHECK(threads >= 1 && threads <= ThreadPool::kMaxWorkers, "threads: expected 1 to ", ThreadPool::kMaxWorkers,
             ", got ", threads);
  const int64_t slots = this->slots(batch);
  return slots * (kSlotStateBytes + slot_.bytes) + threads * scratch_stride_;
}

int64_t AttentionPlan::flops(int64_t batch) const {
  FPSA_CHECK(batch >= 0, "batch: expected 0 or more, got ", batch);
  // At most 2^31 x 2^31 pairs, times 4: one factor more may already be too many.
  int64_t flops = geometry_ ? pattern::attention_flops(geometry_->mask(), geometry_->order(), spec_.heads, spec_.dim)
                            : queries_ * keys_;
  bool fits = true;
  for (const int64_t factor : {batch, geometry_ ? 1 : 4 * spec_.heads * spec_.dim})
    fits = fits && !__builtin_mul_overflow(flops, factor, &flops);
  FPSA_CHECK(fits, "flops: the result is above 2^63 - 1 for batch ", batch);
  return flops;
}

}  // namespace fpsa::plan
