// Units in a fixed order, taken from one counter by all workers. Round r of the order is: the blocks of head
// r - ahead, then the preparation of head r. A unit waits only for units before it, which somebody has already
// taken, so the wait ends; with one worker it never begins.
#include "fpsa/plan/run.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>
#include <utility>

#include "fpsa/base/check.h"
#include "fpsa/kernel/smoothing.h"

namespace fpsa::plan {
namespace {

using kernel::Dtype;

// Counters of a slot, on a line of their own. A slot serves head after head; all but blocks_done run on, so that a
// count also tells which head it belongs to, and wrap around.
struct alignas(AttentionPlan::kSlotStateBytes) SlotState {
  std::atomic<uint32_t> quantised{0};    // units of K and V
  std::atomic<uint32_t> ready{0};        // packed chunks, and Q's unit
  std::atomic<uint32_t> blocks_done{0};  // of the head that it serves now
  std::atomic<uint32_t> heads_done{0};
};
static_assert(sizeof(SlotState) == AttentionPlan::kSlotStateBytes);

void await(const std::atomic<uint32_t>& count, uint32_t target) {
  for (uint32_t seen; static_cast<int32_t>((seen = count.load(std::memory_order_acquire)) - target) < 0;)
    count.wait(seen, std::memory_order_acquire);
}

// Adds one; whoever waits, waits for `target`.
void advance(std::atomic<uint32_t>& count, uint32_t target) {
  if (count.fetch_add(1, std::memory_order_acq_rel) + 1 == target) count.notify_all();
}

class Run {
 public:
  // Exactly one of inputs and codes.
  Run(const AttentionPlan& plan, int64_t batch, const Inputs* inputs, const Codes* codes, float softmax_scale,
      const Output& output, std::byte* workspace, int workers)
      : plan_(plan), inputs_(inputs), codes_(codes), output_(output), softmax_scale_(softmax_scale) {
    jobs_ = plan.jobs(batch);
    slots_ = plan.slots(batch);
    // One slot is left over for the head whose last blocks are still being computed.
    ahead_ = slots_ == jobs_ ? jobs_ : slots_ - 1;
    quantise_units_ = plan.quantizer() && inputs ? 3 : 0;
    prepare_units_ = quantise_units_ + plan.chunks();
    total_ = first_unit(jobs_ + ahead_);
    states_ = reinterpret_cast<SlotState*>(workspace);
    std::uninitialized_default_construct_n(states_, slots_);
    scratch_ = workspace + slots_ * AttentionPlan::kSlotStateBytes;
    data_ = scratch_ + workers * plan.scratch_stride();
  }

  void work(int worker) noexcept {
    for (int64_t unit; (unit = next_.fetch_add(1, std::memory_order_relaxed)) < total_;)
      execute(unit, worker);
  }

 private:
  SlotState& state(int64_t job) const { return states_[job % slots_]; }
  std::byte* data(int64_t job) const { return data_ + job % slots_ * plan_.slot().bytes; }
  uint8_t* codes(int64_t job, int64_t part) const { return reinterpret_cast<uint8_t*>(data(job) + part); }
  float* scales(int64_t job, int64_t part) const { return reinterpret_cast<float*>(data(job) + part); }
  // How many heads the slot has served before this one.
  uint32_t turn(int64_t job) const { return static_cast<uint32_t>(job / slots_); }
  // `quantised` and `ready` once this head is.
  uint32_t quantised_target(int64_t job) const { return (turn(job) + 1) * 2; }
  uint32_t ready_target(int64_t job) const {
    return (turn(job) + 1) * static_cast<uint32_t>(plan_.chunks() + (quantise_units_ > 0 ? 1 : 0));
  }

  int64_t first_unit(int64_t round) const {
    return std::min(round, jobs_) * prepare_units_ + plan_.blocks_before(std::max<int64_t>(round - ahead_, 0));
  }
  // The last round that begins at or before this unit.
  int64_t round_of(int64_t unit) const {
    int64_t low = 0, high = jobs_ + ahead_;
    while (high - low > 1) {
      const int64_t middle = low + (high - low) / 2;
      (first_unit(middle) <= unit ? low : high) = middle;
    }
    return low;
  }

  void execute(int64_t unit, int worker) noexcept;
  void quantise(int64_t job, int64_t part) noexcept;
  void pack(int64_t job, int64_t chunk) noexcept;
  void attend(int64_t job, int64_t block, int64_t blocks, int worker) noexcept;
  void correct_lse(int64_t job, const kernel::QueryBlock& block) noexcept;
  kernel::RowsView rows(const Source& x, Dtype dtype, int64_t job, const int32_t* index) const {
    return head_rows(x, dtype, job, plan_.spec().heads, index);
  }
  kernel::AttentionHead head(int64_t job) const;
  kernel::AttentionOut out(int64_t job) const;

  const AttentionPlan& plan_;
  const Inputs* inputs_;
  const Codes* codes_;
  const Output& output_;
  float softmax_scale_;
  int64_t jobs_ = 0, slots_ = 0, ahead_ = 0, quantise_units_ = 0, prepare_units_ = 0, total_ = 0;
  SlotState* states_ = nullptr;
  std::byte *scratch_ = nullptr, *data_ = nullptr;
  alignas(64) std::atomic<int64_t> next_{0};
};

void Run::execute(int64_t unit, int worker) noexcept {
  const int64_t round = round_of(unit), job = round - ahead_;
  int64_t part = unit - first_unit(round);
  if (job >= 0) {
    const int64_t blocks = plan_.blocks_before(job + 1) - plan_.blocks_before(job);
    if (part < blocks) return attend(job, part, blocks, worker);
    part -= blocks;
  }
  if (part < quantise_units_)
    quantise(round, part);
  else
    pack(round, part - quantise_units_);
}

// Part 0 is V, 1 K, 2 Q: packing needs the first two.
void Run::quantise(int64_t job, int64_t part) noexcept {
  SlotState& state = this->state(job);
  await(state.heads_done, turn(job));
  const auto& slot = plan_.slot();
  const kernel::Quantize& kernel = plan_.quantizer()->kernel;
  const Dtype dtype = plan_.spec().dtype;
  const Source& x = part == 0 ? inputs_->v : part == 1 ? inputs_->k : inputs_->q;
  kernel::QuantizeInput in{rows(x, dtype, job, plan_.index()), dtype, plan_.keys(), plan_.spec().dim};
  if (part == 0) {
    kernel.channels(in, codes(job, slot.v_codes), scales(job, slot.v_scale));
    return advance(state.quantised, quantised_target(job));
  }
  const pattern::TokenGroups& groups = plan_.geometry()->groups();
  if (part == 1) {
    if (plan_.spec().smooth_keys) {
      kernel::key_means(in, scales(job, slot.k_mean));
      in.mean = scales(job, slot.k_mean);
    }
    kernel.tokens(in, groups.of_token.data(), groups.count, codes(job, slot.k_codes), scales(job, slot.k_group_scale),
                  scales(job, slot.k_scale));
    return advance(state.quantised, quantised_target(job));
  }
  kernel.tokens(in, groups.of_token.data(), groups.count, codes(job, slot.q_codes), scales(job, slot.q_group_scale),
                scales(job, slot.q_scale));
  advance(state.ready, ready_target(job));
}

void Run::pack(int64_t job, int64_t chunk) noexcept {
  SlotState& state = this->state(job);
  await(state.heads_done, turn(job));
  if (quantise_units_ > 0) await(state.quantised, quantised_target(job));
  const int64_t begin = chunk * AttentionPlan::kKeysPerChunk;
  const int64_t end = std::min(begin + AttentionPlan::kKeysPerChunk, plan_.keys());
  plan_.entry().kernel.pack(head(job), begin, end, data(job) + plan_.slot().packed);
  advance(state.ready, ready_target(job));
}

void Run::attend(int64_t job, int64_t block, int64_t blocks, int worker) noexcept {
  SlotState& state = this->state(job);
  await(state.ready, ready_target(job));
  const kernel::QueryBlock& rows = plan_.work(job % plan_.spec().heads)[static_cast<size_t>(block)];
  plan_.entry().kernel.run(head(job), data(job) + plan_.slot().packed, rows, out(job),
                           scratch_ + worker * plan_.scratch_stride());
  if (plan_.spec().smooth_keys && output_.lse) correct_lse(job, rows);
  if (state.blocks_done.fetch_add(1, std::memory_order_acq_rel) + 1 < static_cast<uint32_t>(blocks)) return;
  state.blocks_done.store(0, std::memory_order_relaxed);
  advance(state.heads_done, turn(job) + 1);
}

// Adds what the scores of these rows lack since the keys lost their mean.
void Run::correct_lse(int64_t job, const kernel::QueryBlock& block) noexcept {
  const Dtype dtype = plan_.spec().dtype;
  const int32_t* index = plan_.index() + block.begin;
  const int64_t count = block.end - block.begin;
  float shift[kernel::kMaxQueryRows];
  kernel::lse_shift({rows(inputs_->q, dtype, job, index), dtype, count, plan_.spec().dim},
                    scales(job, plan_.slot().k_mean), softmax_scale_, shift);
  float* lse = output_.lse + job * plan_.queries();
  for (int64_t i = 0; i < count; ++i)
    lse[index[i]] += shift[i];
}

kernel::AttentionHead Run::head(int64_t job) const {
  kernel::AttentionHead head;
  head.queries = plan_.queries();
  head.keys = plan_.keys();
  head.dim = plan_.spec().dim;
  head.softmax_scale = softmax_scale_;
  if (codes_) {
    const Dtype dtype = plan_.entry().dtype;
    head.q = rows(codes_->q, dtype, job, nullptr);
    head.k = rows(codes_->k, dtype, job, nullptr);
    head.v = rows(codes_->v, dtype, job, nullptr);
    head.q_scale = codes_->q_scale + job * head.queries;
    head.k_scale = codes_->k_scale + job * head.keys;
    head.v_scale = codes_->v_scale + job * head.dim;
  } else if (plan_.quantizer()) {
    const auto& slot = plan_.slot();
    head.q = {codes(job, slot.q_codes), head.dim, nullptr};
    head.k = {codes(job, slot.k_codes), head.dim, nullptr};
    head.v = {codes(job, slot.v_codes), head.dim, nullptr};
    head.q_scale = scales(job, slot.q_scale);
    head.k_scale = scales(job, slot.k_scale);
    head.v_scale = scales(job, slot.v_scale);
  } else {
    const Dtype dtype = plan_.spec().dtype;
    head.q = rows(inputs_->q, dtype, job, plan_.index());
    head.k = rows(inputs_->k, dtype, job, plan_.index());
    head.v = rows(inputs_->v, dtype, job, plan_.index());
  }
  return head;
}

kernel::AttentionOut Run::out(int64_t job) const {
  const Target& out = output_.out;
  const Dtype dtype = plan_.spec().dtype;
  const auto view = rows({out.data, out.batch, out.head, out.token}, dtype, job, plan_.index());
  const int64_t row = job * plan_.queries();
  kernel::AttentionOut result{const_cast<void*>(view.data),
                              view.stride,
                              dtype,
                              view.index,
                              output_.lse ? output_.lse + row : nullptr,
                              output_.row_max ? output_.row_max + row : nullptr};
  if (const Target& exact = output_.exact; exact.data) {
    result.exact =
        const_cast<void*>(rows({exact.data, exact.batch, exact.head, exact.token}, dtype, job, nullptr).data);
    result.exact_stride = exact.token;
  }
  return result;
}

void check_source(const char* name, const Source& x, int64_t tokens, const void* out) {
  FPSA_CHECK(x.data != nullptr || tokens == 0, name, ": expected a pointer to its elements, got null");
  FPSA_CHECK(x.data != out || tokens == 0, "out: must not share memory with ", name, "; pass another buffer");
}

void check_common(const AttentionPlan& plan, int64_t batch, float softmax_scale, const Output& output, const Source& q,
                  const Source& k, const Source& v) {
  check_source("q", q, plan.queries(), output.out.data);
  check_source("k", k, plan.keys(), output.out.data);
  check_source("v", v, plan.keys(), output.out.data);
  FPSA_CHECK(output.out.data != nullptr, "out: expected a pointer to its elements, got null");
  FPSA_CHECK(output.exact.data == nullptr || plan.spec().precision != Precision::kInt8,
             "exact: it is for the backward, which INT8 attention does not have; plan with another precision");
  FPSA_CHECK(std::isfinite(softmax_scale), "softmax_scale: must be finite, got ", softmax_scale);
}

// As many workers as there are, as the workspace has scratch for, and as have a block to compute.
int count_workers(const AttentionPlan& plan, int64_t batch, std::span<std::byte> workspace, int most) {
  const int64_t bytes = static_cast<int64_t>(workspace.size()), least = plan.workspace_bytes(batch, 1);
  FPSA_CHECK(bytes >= least, "workspace: expected at least ", least, " bytes for batch ", batch,
             " and one thread, got ", bytes, "; ask the plan for the size");
  const auto address = reinterpret_cast<uintptr_t>(workspace.data());
  FPSA_CHECK(address != 0 && address % kWorkspaceAlignment == 0,
             "workspace: expected an address that is a multiple of ", kWorkspaceAlignment, ", got ", workspace.data());
  const int64_t room = 1 + (bytes - least) / plan.scratch_stride();
  const int64_t blocks = plan.blocks_before(plan.jobs(batch));
  return static_cast<int>(std::min({int64_t{most}, room, blocks}));
}

void execute(const AttentionPlan& plan, int64_t batch, const Inputs* inputs, const Codes* codes, float softmax_scale,
             const Output& output, std::span<std::byte> workspace, ParallelRunner& runner) {
  const int workers = count_workers(plan, batch, workspace, runner.workers());
  Run run(plan, batch, inputs, codes, softmax_scale, output, workspace.data(), workers);
  runner.run(
      workers, [](void* context, int worker) noexcept { static_cast<Run*>(context)->work(worker); }, &run);
}

bool nothing_to_do(const AttentionPlan& plan, int64_t batch) {
  return plan.jobs(batch) == 0 || plan.queries() == 0;
}

}  // namespace

void run(const AttentionPlan& plan, int64_t batch, const Inputs& inputs, float softmax_scale, const Output& output,
         std::span<std::byte> workspace, ParallelRunner& runner) {
  if (nothing_to_do(plan, batch)) return;
  check_common(plan, batch, softmax_scale, output, inputs.q, inputs.k, inputs.v);
  execute(plan, batch, &inputs, nullptr, softmax_scale, output, workspace, runner);
}

void run_codes(const AttentionPlan& plan, int64_t batch, const Codes& codes, float softmax_scale, const Output& output,
               std::span<std::byte> workspace, ParallelRunner& runner) {
  FPSA_CHECK(plan.quantizer() != nullptr, "codes: the plan's precision is none; plan with the precision of the codes");
  FPSA_CHECK(!plan.spec().smooth_keys,
             "codes: the plan smooths keys, which needs the keys themselves; plan without smooth_keys");
  if (nothing_to_do(plan, batch)) return;
  check_common(plan, batch, softmax_scale, output, codes.q, codes.k, codes.v);
  for (const auto& [name, scale] :
       {std::pair("q_scale", codes.q_scale), std::pair("k_scale", codes.k_scale), std::pair("v_scale", codes.v_scale)})
    FPSA_CHECK(scale != nullptr, name, ": expected a pointer to its elements, got null");
  execute(plan, batch, nullptr, &codes, softmax_scale, output, workspace, runner);
}

}  // namespace fpsa::plan
