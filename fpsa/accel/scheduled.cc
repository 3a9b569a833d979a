#include "fpsa/accel/scheduled.h"

#include <algorithm>

#include "fpsa/accel/head_runs.h"
#include "fpsa/accel/precision.h"
#include "fpsa/base/check.h"
#include "fpsa/kernel/table.h"
#include "fpsa/ops/environment.h"
#include "fpsa/ops/views.h"

namespace fpsa::accel {
namespace {

using schedule::Quant;

// A box of samples and heads that one call of ops computes.
struct Part {
  int64_t sample, samples;
  HeadRun run;
  std::shared_ptr<const ops::Plan> plan;  // null: dense, without a grid
  ops::AttentionOptions options;
};

int64_t heads_of(const at::Tensor& q, const ScheduledCall& call) {
  ops::check_tokens(q, "attention", "q", call.heads_first, ops::Devices::kCpuAndCuda);
  return q.size(call.heads_first ? 1 : 2);
}

void check_fits(const at::Tensor& q, const ScheduledCall& call, int64_t heads) {
  const auto& schedule = *call.schedule;
  schedule::check_for_grid(schedule, call.grid);
  for (const auto& change : schedule.overrides)
    for (const auto& range : change.heads)
      FPSA_CHECK(range.last < heads, "schedule: an override names head ", range.last, ", but q has ", heads,
                 " heads (0 to ", heads - 1, ")");
  FPSA_CHECK(call.layer >= 0, "layer: expected 0 or more, got ", call.layer);
  const auto count = static_cast<int64_t>(call.phases.size());
  FPSA_CHECK(count == 1 || count == q.size(0), "phases: expected one, or one for each of the ", q.size(0),
             " samples, got ", count);
  for (const int64_t phase : call.phases)
    FPSA_CHECK(phase >= 0 && phase < static_cast<int64_t>(schedule.phases.size()), "phases: expected 0 to ",
               schedule.phases.size() - 1, ", got ", phase);
}

// Neighbouring samples of one phase, times runs of heads.
std::vector<Part> parts_of(const at::Tensor& q, const ScheduledCall& call) {
  const int64_t heads = heads_of(q, call), batch = q.size(0);
  ops::AttentionOptions options;
  options.scale = call.scale;
  options.heads_first = call.heads_first;
  options.want_lse = true;
  std::vector<Part> parts;
  if (!call.schedule) {
    HeadRun all;
    all.count = heads;
    parts.push_back({0, batch, std::move(all), nullptr, call.save ? ops::saving(options) : options});
    return parts;
  }
  check_fits(q, call, heads);
  for (int64_t first = 0; first < batch;) {
    const int64_t phase = call.phases.size() == 1 ? call.phases[0] : call.phases[static_cast<size_t>(first)];
    int64_t end = call.phases.size() == 1 ? batch : first + 1;
    while (end < batch && call.phases[static_cast<size_t>(end)] == phase)
      ++end;
    for (HeadRun& run : head_runs(*call.schedule, static_cast<int>(phase), call.layer, heads)) {
      auto wanted = attention_options(run.setting.quant);
      wanted.scale = options.scale;
      wanted.heads_first = options.heads_first;
      wanted.want_lse = true;
      if (call.save) {
        ops::check_has_backward(wanted, "attention");
        wanted = ops::saving(wanted);
      }
      auto plan = call.masked ? call.masked : plan_of(run, *call.schedule, call.grid);
      parts.push_back({first, end - first, std::move(run), std::move(plan), wanted});
    }
    first = end;
  }
  return parts;
}

// A part of a tensor with samples in dimension 0.
at::Tensor piece(const at::Tensor& x, const Part& part, int64_t heads_dim) {
  if (!x.defined()) return x;
  return x.narrow(0, part.sample, part.samples).narrow(heads_dim, part.run.first, part.run.count);
}

ops::AttentionResult run(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Part& part) {
  return part.plan ? ops::attention(q, k, v, *part.plan, part.options) : ops::dense_attention(q, k, v, part.options);
}

}  // namespace

bool has_e4m3(const schedule::Schedule& schedule) {
  return std::ranges::any_of(schedule.phases, [](const auto& phase) { return phase.quant == Quant::kE4m3; }) ||
         std::ranges::any_of(schedule.overrides, [](const auto& change) { return change.quant == Quant::kE4m3; });
}

ScheduledResult scheduled_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                    const ScheduledCall& call) {
  const auto parts = parts_of(q, call);
  for (const auto& [name, x] : {std::pair("k", &k), {"v", &v}}) {
    ops::check_tokens(*x, "attention", name, call.heads_first, ops::Devices::kCpuAndCuda);
    ops::check_like_q(ops::tokens_first(*x, call.heads_first), name, ops::tokens_first(q, call.heads_first),
                      "attention");
  }
  const bool coded = call.save && call.schedule && has_e4m3(*call.schedule);
  const int64_t heads_dim = call.heads_first ? 1 : 2;
  ScheduledResult result;
  const auto f32 = q.options().dtype(at::kFloat);
  const std::vector<int64_t> rows = {q.size(0), q.size(heads_dim), q.size(3 - heads_dim)};
  result.out = at::empty(q.sizes(), q.options());
  result.lse = at::empty(rows, f32);
  if (coded) {
    result.row_max = at::zeros(rows, f32);
    result.exact = at::empty(q.sizes(), q.options());
  }
  for (Part part : parts) {
    const auto target = piece(result.out, part, heads_dim);
    part.options.out = target;
    const auto one = run(piece(q, part, heads_dim), piece(k, part, heads_dim), piece(v, part, heads_dim), part);
    piece(result.lse, part, 1).copy_(one.lse);
    if (!coded) continue;
    if (one.row_max.defined()) piece(result.row_max, part, 1).copy_(one.row_max);
    piece(result.exact, part, heads_dim).copy_(one.exact.defined() ? one.exact : one.out);
  }
  return result;
}

ops::AttentionGradients scheduled_attention_backward(const at::Tensor& d_out, const at::Tensor& q, const at::Tensor& k,
                                                     const at::Tensor& v, const ScheduledResult& saved,
                                                     const ScheduledCall& call) {
  ops::apply_environment();
  const auto parts = parts_of(q, call);
  const int64_t heads_dim = call.heads_first ? 1 : 2;
  ops::AttentionGradients result;
  if (parts.size() != 1)
    result = {at::empty(q.sizes(), q.options()), at::empty(k.sizes(), k.options()), at::empty(v.sizes(), v.options())};
  for (const Part& part : parts) {
    ops::AttentionResult forward;
    const bool coded = part.options.precision == ops::Precision::kE4m3;
    forward.out = forward.exact = piece(saved.exact.defined() ? saved.exact : saved.out, part, heads_dim);
    forward.lse = piece(saved.lse, part, 1).contiguous();
    if (coded) forward.row_max = piece(saved.row_max, part, 1).contiguous();
    forward.isa = kernel::attention_fwd(coded ? kernel::Dtype::kE4m3 : ops::kernel_dtype(q.scalar_type())).isa;
    const auto d = piece(d_out, part, heads_dim), qp = piece(q, part, heads_dim), kp = piece(k, part, heads_dim),
               vp = piece(v, part, heads_dim);
    auto one = part.plan ? ops::attention_backward(d, qp, kp, vp, forward, *part.plan, part.options)
                         : ops::dense_attention_backward(d, qp, kp, vp, forward, part.options);
    if (parts.size() == 1) return one;
    piece(result.q, part, heads_dim).copy_(one.q);
    piece(result.k, part, heads_dim).copy_(one.k);
    piece(result.v, part, heads_dim).copy_(one.v);
  }
  return result;
}

}  // namespace fpsa::accel
