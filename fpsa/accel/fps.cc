// FPSAttention: 8-bit precision and tile sparsity by a schedule over steps. STA, FP8 and INT8 are schedules with one
// half removed.
#include <algorithm>
#include <optional>
#include <utility>

#include "fpsa/accel/head_runs.h"
#include "fpsa/accel/precision.h"
#include "fpsa/accel/recorder.h"
#include "fpsa/accel/torch_dense.h"
#include "fpsa/base/check.h"
#include "fpsa/kernel/table.h"
#include "fpsa/ops/attention.h"
#include "fpsa/ops/attention_grad.h"
#include "fpsa/ops/cuda_attention.h"
#include "fpsa/ops/p_coding.h"
#include "fpsa/ops/plan.h"
#include "fpsa/ops/prepass.h"
#include "fpsa/ops/views.h"

namespace fpsa::accel {
namespace {

using pattern::Grid;
using schedule::Quant;
using schedule::Schedule;

class Fps : public RecordingMethod {
 public:
  // or_dense: torch's dense attention where the kernels do not serve a CUDA device
  Fps(Schedule schedule, std::string name, std::optional<ops::PCoding> coding = std::nullopt, bool or_dense = false)
      : schedule_(std::move(schedule)), name_(std::move(name)), coding_(coding), or_dense_(or_dense) {
    schedule::validate(schedule_);
  }

 protected:
  at::Tensor compute(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const nn::AttentionContext& context,
                     Explain& entry) override {
    FPSA_CHECK(q.dim() == 4, name_, ": q must be [B,L,H,D], got ", q.dim(), " dimensions");
    check_fits(context, q.size(2));
    FPSA_CHECK(q.size(1) == context.grid.volume(), name_, ": q must have the ", context.grid.volume(),
               " tokens of grid ", pattern::to_string(context.grid), ", got ", q.size(1));
    const auto runs = head_runs(schedule_, phase_of(context), context.layer, q.size(2));
    const bool gradients = ops::gradients_wanted({q, k, v});
    if (or_dense_ && q.device().is_cuda())
      if (const auto refusal = refusal_of(runs, q); !refusal.empty())
        return torch_dense(q, k, v, refusal, entry);
    FPSA_CHECK(!gradients || !coding_, name_, ": an emulated coding of P has no backward; run without gradients");
    // Autograd needs tensors of their own for the runs of heads.
    auto out = gradients ? at::Tensor() : at::empty(q.sizes(), q.options());
    std::vector<at::Tensor> parts;
    entry.method = name_;
    entry.density = 0;
    for (const HeadRun& run : runs) {
      const auto plan = plan_of(run, schedule_, context.grid);
      auto heads = [&](const at::Tensor& x) { return x.narrow(2, run.first, run.count); };
      auto options = attention_options(run.setting.quant);
      if (!gradients) options.out = heads(out);
      const auto result = gradients          ? ops::differentiable_attention(heads(q), heads(k), heads(v), plan, options)
                          : emulated(run) ? emulate(heads(q), heads(k), heads(v), *plan, heads(out))
                                          : ops::attention(heads(q), heads(k), heads(v), *plan, options);
      if (gradients) parts.push_back(result.out);
      explain_run(run, q.size(2), schedule_, *plan, {result.kernel, result.coder, result.isa_name}, entry);
    }
    explain_reason(runs, schedule_, context.step, context.num_steps, entry);
    return gradients ? (parts.size() == 1 ? parts[0] : at::cat(parts, 2)) : out;
  }

  // Where all heads are quantised alike: a norm spans all heads, so codes of some of them are not fused with it.
  at::Tensor compute_projected(const nn::Projections& x, const nn::AttentionContext& context, Explain& entry) override {
    if (ops::gradients_wanted({x.q, x.k, x.v, x.q_weight, x.k_weight})) return {};
    check_fits(context, x.heads);
    const auto runs = head_runs(schedule_, phase_of(context), context.layer, x.heads);
    if (runs.size() != 1 || runs[0].setting.quant == Quant::kNone || emulated(runs[0])) return {};
    if (!ops::projectable(x.q, x.heads, attention_options(runs[0].setting.quant).precision)) return {};
    const auto plan = plan_of(runs[0], schedule_, context.grid);
    const auto options = attention_options(runs[0].setting.quant);
    auto result = ops::attention_of_projected({.q = x.q,
                                               .k = x.k,
                                               .v = x.v,
                                               .q_weight = x.q_weight,
                                               .k_weight = x.k_weight,
                                               .eps = x.eps,
                                               .heads = x.heads,
                                               .rope = x.rope},
                                              *plan, options.precision, options.smooth_keys);
    entry.method = name_;
    entry.density = 0;
    explain_run(runs[0], x.heads, schedule_, *plan, {result.kernel, result.coder, result.isa_name}, entry);
    explain_reason(runs, schedule_, context.step, context.num_steps, entry);
    return result.out;
  }

 private:
  // Why the CUDA kernels do not take some of the heads; empty when they take all.
  static std::string refusal_of(const std::vector<HeadRun>& runs, const at::Tensor& q) {
    for (const HeadRun& run : runs) {
      const auto options = attention_options(run.setting.quant);
      const auto refusal =
          ops::cuda_refusal(q, {q.scalar_type(), q.size(3), options.precision, options.smooth_keys});
      if (!refusal.empty()) return refusal;
    }
    return {};
  }

  bool emulated(const HeadRun& run) const { return coding_ && run.setting.quant == Quant::kE4m3; }

  ops::AttentionResult emulate(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const ops::Plan& plan,
                               const at::Tensor& out) const {
    ops::AttentionResult result;
    result.out = out.copy_(ops::attention_of_coding(q, k, v, plan, *coding_));
    result.kernel = "emulated_e4m3";
    result.isa_name = "torch";
    return result;
  }

  int phase_of(const nn::AttentionContext& context) const {
    return schedule::phase_at(schedule_, context.step, context.num_steps);
  }

  void check_fits(const nn::AttentionContext& context, int64_t heads) {
    if (checked_grid_ == context.grid && checked_layers_ == context.num_layers && checked_heads_ == heads) return;
    schedule::check_for_grid(schedule_, context.grid);
    schedule::check_for_model(schedule_, context.num_layers, heads);
    checked_grid_ = context.grid;
    checked_layers_ = context.num_layers;
    checked_heads_ = heads;
  }

  Schedule schedule_;
  std::string name_;
  std::optional<ops::PCoding> coding_;
  bool or_dense_;
  Grid checked_grid_{0, 0, 0};
  int64_t checked_layers_ = -1, checked_heads_ = -1;
};

// An override that only changed what was removed.
bool says_nothing(const schedule::Override& change) {
  return !change.pattern && !change.granularity && !change.window && !change.quant;
}

Schedule one_phase(const Grid& tile, const Grid& granularity, const Grid& window, Quant quant) {
  Schedule schedule;
  schedule.tile = tile;
  schedule.phases = {{1.0, granularity, window, quant}};
  return schedule;
}

// The schedule's granularities in one precision over all keys.
std::unique_ptr<Method> make_coded(Schedule schedule, Quant quant, std::string name) {
  for (auto& phase : schedule.phases) {
    phase.window = pattern::kFullWindow;
    phase.quant = quant;
  }
  for (auto& change : schedule.overrides) {
    change.pattern.reset();
    change.window.reset();
    change.quant.reset();
  }
  std::erase_if(schedule.overrides, says_nothing);
  return std::make_unique<Fps>(std::move(schedule), std::move(name));
}

}  // namespace

std::unique_ptr<Method> make_fps(Schedule schedule) {
  return std::make_unique<Fps>(std::move(schedule), "fps");
}

std::unique_ptr<Method> make_fps(Schedule schedule, const ops::PCoding& coding) {
  return std::make_unique<Fps>(std::move(schedule), "fps", coding);
}

std::unique_ptr<Method> make_fps_or_torch_dense(Schedule schedule) {
  return std::make_unique<Fps>(std::move(schedule), "fps", std::nullopt, /*or_dense=*/true);
}

std::unique_ptr<Method> make_sta(Schedule schedule) {
  for (auto& phase : schedule.phases)
    phase.quant = Quant::kNone;
  for (auto& change : schedule.overrides)
    change.quant.reset();
  std::erase_if(schedule.overrides, says_nothing);
  return std::make_unique<Fps>(std::move(schedule), "sta");
}

std::unique_ptr<Method> make_sta(const Grid& tile, const Grid& window) {
  return make_sta(one_phase(tile, tile, window, Quant::kNone));
}

std::unique_ptr<Method> make_fp8(Schedule schedule) {
  return make_coded(std::move(schedule), Quant::kE4m3, "fp8");
}

std::unique_ptr<Method> make_fp8(const Grid& tile, const Grid& granularity) {
  return make_fp8(one_phase(tile, granularity, pattern::kFullWindow, Quant::kE4m3));
}

std::unique_ptr<Method> make_int8(Schedule schedule) {
  return make_coded(std::move(schedule), Quant::kInt8, "int8");
}

std::unique_ptr<Method> make_int8(const Grid& tile, const Grid& granularity) {
  return make_int8(one_phase(tile, granularity, pattern::kFullWindow, Quant::kInt8));
}

}  // namespace fpsa::accel
