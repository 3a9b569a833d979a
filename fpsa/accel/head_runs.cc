#include "fpsa/accel/head_runs.h"

#include <string>

#include "fpsa/accel/precision.h"
#include "fpsa/base/check.h"
#include "fpsa/kernel/table.h"
#include "fpsa/ops/cuda_attention.h"
#include "fpsa/ops/cuda_names.h"
#include "fpsa/ops/environment.h"
#include "fpsa/plan/attention_plan.h"

namespace fpsa::accel {
namespace {

using pattern::Grid;
using schedule::Quant;
using schedule::Schedule;
using schedule::Setting;

// The setting without the parts that its precision and pattern do not use, so that they change neither bits nor
// the number of kernel calls: scales alone need the granularity, sliding tiles alone the window.
Setting reduced(Setting setting, const Grid& tile) {
  if (setting.quant == Quant::kNone) setting.granularity = tile;
  if (setting.pattern != "sta") setting.window = pattern::kFullWindow;
  return setting;
}

bool same_work(const Setting& a, const Setting& b) {
  return a.granularity == b.granularity && a.window == b.window && a.quant == b.quant && a.pattern == b.pattern;
}

std::string extents(const Grid& g) {
  auto one = [](int64_t n) { return n >= pattern::kAllTiles ? std::string("all") : std::to_string(n); };
  return join('(', one(g.t), ',', one(g.y), ',', one(g.x), ')');
}

std::string describe(const Setting& setting, const Grid& tile, bool dense) {
  if (dense) return "dense";
  if (setting.pattern == "sta") return join("sta window ", extents(setting.window), " of tile ", extents(tile));
  return join(setting.pattern, " of tile ", extents(tile));
}

void add(std::string& text, const std::string& part) {
  if (!text.empty()) text += "; ";
  text += part;
}

// What computes a run on a CPU.
Entries cpu_entries(const HeadRun& run, const std::shared_ptr<const ops::Plan>& plan, int64_t dim,
                    kernel::Dtype dtype) {
  const auto options = attention_options(run.setting.quant);
  plan::AttentionSpec spec;
  spec.heads = run.count;
  spec.dim = dim;
  spec.dtype = dtype;
  spec.precision = options.precision;
  spec.smooth_keys = options.smooth_keys;
  const plan::AttentionPlan planned(plan, spec);
  Entries entries{planned.entry().name, {}, kernel::isa_name(planned.entry().isa)};
  if (planned.quantizer()) entries.coder = planned.quantizer()->name;
  return entries;
}

// What computes a run on CUDA, or what it is refused for.
Entries cuda_entries(const HeadRun& run, int64_t dim, at::ScalarType dtype, std::string& refusal) {
  const auto options = attention_options(run.setting.quant);
  const std::string why =
      ops::cuda_refusal({dtype, dim, options.precision, options.smooth_keys, ops::float32_as_bfloat16()});
  if (!why.empty()) {
    refusal = why;
    return {"none", {}, "none"};
  }
  const auto names = ops::cuda_names(dtype, options.precision);
  return {names.kernel, names.coder, names.isa};
}

}  // namespace

std::vector<HeadRun> head_runs(const Schedule& schedule, int phase, int64_t layer, int64_t heads) {
  std::vector<HeadRun> runs;
  for (int64_t head = 0; head < heads; ++head) {
    const auto setting = reduced(schedule::setting_in_phase(schedule, phase, layer, head), schedule.tile);
    if (!runs.empty() && same_work(runs.back().setting, setting))
      ++runs.back().count;
    else
      runs.push_back({head, 1, setting});
  }
  return runs;
}

std::shared_ptr<const ops::Plan> plan_of(const HeadRun& run, const Schedule& schedule, const Grid& grid) {
  return ops::plan_for(grid, schedule.tile, run.setting.granularity, run.setting.pattern, run.setting.window);
}

void explain_run(const HeadRun& run, int64_t heads, const Schedule& schedule, const ops::Plan& plan,
                 const Entries& entries, Explain& entry) {
  const std::string who =
      run.count < heads ? join("heads ", run.first, "-", run.first + run.count - 1, ": ") : std::string();
  const bool quantised = run.setting.quant != Quant::kNone;
  add(entry.pattern, join(who, describe(run.setting, schedule.tile, plan.dense())));
  add(entry.granularity, join(who, quantised ? extents(run.setting.granularity) : "-"));
  // One name is enough when all heads took the same kernel.
  if (entry.kernel.find(entries.kernel) == std::string::npos) {
    add(entry.kernel, std::string(entries.kernel));
    add(entry.isa, std::string(entries.isa));
  }
  if (entry.coder.empty()) entry.coder = entries.coder;
  entry.density += plan.density() * static_cast<double>(run.count) / static_cast<double>(heads);
}

void explain_reason(const std::vector<HeadRun>& runs, const Schedule& schedule, int64_t step, int64_t steps,
                    Explain& entry) {
  const int phase = schedule::phase_at(schedule, step, steps);
  entry.reason = join("phase ", phase + 1, " of ", schedule.phases.size(), " (f ",
                      static_cast<double>(step) / static_cast<double>(steps), " < ",
                      schedule.phases[static_cast<size_t>(phase)].until, ")");
  for (const HeadRun& run : runs)
    if (run.setting.override_index >= 0)
      entry.reason +=
          join(", override ", run.setting.override_index + 1, " for heads ", run.first, "-", run.first + run.count - 1);
}

Explain explain_scheduled(const Schedule& schedule, const nn::AttentionContext& context, int64_t heads, int64_t dim,
                          at::ScalarType dtype, at::Device device) {
  const bool on_cuda = device.is_cuda();
  FPSA_CHECK(on_cuda || device.is_cpu(), "device: expected cpu or cuda, got ", device.str());
  FPSA_CHECK(dtype == at::kFloat || dtype == at::kBFloat16 || (on_cuda && dtype == at::kHalf),
             "dtype: expected float32 or bfloat16, or float16 on CUDA, got ", at::toString(dtype));
  ops::apply_environment();
  schedule::validate(schedule);
  schedule::check_for_grid(schedule, context.grid);
  schedule::check_for_model(schedule, context.num_layers, heads);
  const int phase = schedule::phase_at(schedule, context.step, context.num_steps);
  const auto runs = head_runs(schedule, phase, context.layer, heads);
  Explain entry;
  entry.method = "fps";
  entry.layer = context.layer;
  entry.step = context.step;
  entry.density = 0;
  std::string refusal;
  for (const HeadRun& run : runs) {
    const auto plan = plan_of(run, schedule, context.grid);
    const auto entries =
        on_cuda ? cuda_entries(run, dim, dtype, refusal)
                : cpu_entries(run, plan, dim, dtype == at::kFloat ? kernel::Dtype::kF32 : kernel::Dtype::kBf16);
    explain_run(run, heads, schedule, *plan, entries, entry);
  }
  explain_reason(runs, schedule, context.step, context.num_steps, entry);
  if (on_cuda && refusal.empty())
    if (const auto why = ops::cuda_unavailable(device); !why.empty())
      entry.reason += join("; what would run on ", device.str(), ", not here: ", why);
  if (!refusal.empty()) entry.reason += join("; refused on ", device.str(), ": ", refusal);
  return entry;
}

}  // namespace fpsa::accel
