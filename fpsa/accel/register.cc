// The operators of torch.ops.fpsa that know schedules. They are what the Python package calls.
//
// A schedule is passed as its TOML text, phases and layer as numbers that a compiled graph may leave symbolic: a graph
// serves every phase and layer. Without a schedule attention is dense and needs no grid. row_begin and col put a mask
// of the caller's in place of the pattern of a schedule of one phase. With `save`, row_max and exact are what the
// backward needs of a schedule with E4M3 in it; they are empty otherwise.
#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <torch/library.h>

#include <tuple>
#include <vector>

#include "fpsa/accel/schedule_cache.h"
#include "fpsa/accel/scheduled.h"
#include "fpsa/ops/register.h"

namespace fpsa::accel {
namespace {

using OptionalTensor = std::optional<at::Tensor>;
using Four = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor>;
using Three = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

ScheduledCall call_of(std::string_view schedule, at::IntArrayRef grid, at::IntArrayRef phases, int64_t layer,
                      const OptionalTensor& row_begin, const OptionalTensor& col, std::optional<double> scale,
                      bool heads_first, bool save) {
  ScheduledCall call;
  call.scale = scale;
  call.heads_first = heads_first;
  call.save = save;
  call.layer = layer;
  call.phases = phases.vec();
  if (schedule.empty()) return call;
  call.schedule = schedule_of(schedule);
  call.grid = ops::triple(grid, "grid");
  if (!row_begin && !col) return call;
  TORCH_CHECK_VALUE(row_begin && col, "row_begin and col: expected both or none");
  TORCH_CHECK_VALUE(call.schedule->phases.size() == 1 && call.schedule->overrides.empty(),
                    "row_begin and col: a mask is for a schedule of one phase without overrides, got ",
                    call.schedule->phases.size(), " phases and ", call.schedule->overrides.size(), " overrides");
  const auto& phase = call.schedule->phases.front();
  call.masked = plan_of_mask(call.grid, call.schedule->tile,
                             phase.quant == schedule::Quant::kNone ? call.schedule->tile : phase.granularity,
                             ops::int32_values(*row_begin, "row_begin"), ops::int32_values(*col, "col"));
  return call;
}

// Defined tensors for the dispatcher.
at::Tensor given(const at::Tensor& x, const at::Tensor& like) {
  return x.defined() ? x : at::empty({0}, like.options());
}

Four forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const OptionalTensor& row_begin,
             const OptionalTensor& col, std::string_view schedule, at::IntArrayRef grid, at::IntArrayRef phases,
             int64_t layer, std::optional<double> scale, bool heads_first, bool save) {
  return ops::translated([&] {
    const auto r =
        scheduled_attention(q, k, v, call_of(schedule, grid, phases, layer, row_begin, col, scale, heads_first, save));
    return Four(r.out, r.lse, given(r.row_max, r.lse), given(r.exact, r.out));
  });
}

Three backward(const at::Tensor& d_out, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
               const at::Tensor& exact, const at::Tensor& lse, const at::Tensor& row_max,
               const OptionalTensor& row_begin, const OptionalTensor& col, std::string_view schedule,
               at::IntArrayRef grid, at::IntArrayRef phases, int64_t layer, std::optional<double> scale,
               bool heads_first) {
  return ops::translated([&] {
    const auto grads = scheduled_attention_backward(
        d_out, q, k, v, {exact, lse, row_max, exact},
        call_of(schedule, grid, phases, layer, row_begin, col, scale, heads_first, /*save=*/true));
    return Three(grads.q, grads.k, grads.v);
  });
}

// Shapes without data. What is saved depends on the schedule alone, so that a graph does not depend on the phase.
Four forward_meta(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const OptionalTensor&,
                  const OptionalTensor&, std::string_view schedule, c10::SymIntArrayRef, c10::SymIntArrayRef,
                  c10::SymInt, std::optional<double>, bool heads_first, bool save) {
  TORCH_CHECK_VALUE(q.dim() == 4, "attention: q must be ", heads_first ? "[B,H,L,D]" : "[B,L,H,D]", ", got ", q.dim(),
                    " dimensions");
  const bool coded = save && !schedule.empty() && ops::translated([&] { return has_e4m3(*schedule_of(schedule)); });
  const auto f32 = q.options().dtype(at::kFloat);
  const c10::SymDimVector rows = {q.sym_size(0), q.sym_size(heads_first ? 1 : 2), q.sym_size(heads_first ? 2 : 1)};
  return {at::empty_symint(q.sym_sizes(), q.options()), at::empty_symint(rows, f32),
          coded ? at::empty_symint(rows, f32) : at::empty({0}, f32),
          coded ? at::empty_symint(q.sym_sizes(), q.options()) : at::empty({0}, q.options())};
}

Three backward_meta(const at::Tensor&, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor&,
                    const at::Tensor&, const at::Tensor&, const OptionalTensor&, const OptionalTensor&,
                    std::string_view, c10::SymIntArrayRef, c10::SymIntArrayRef, c10::SymInt, std::optional<double>,
                    bool) {
  return {at::empty_symint(q.sym_sizes(), q.options()), at::empty_symint(k.sym_sizes(), k.options()),
          at::empty_symint(v.sym_sizes(), v.options())};
}

// In an autocast region of a device attention runs in the region's type, as torch's own does.
template <at::DeviceType kDevice, c10::DispatchKey kAutocast>
Four forward_autocast(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const OptionalTensor& row_begin,
                      const OptionalTensor& col, std::string_view schedule, c10::SymIntArrayRef grid,
                      c10::SymIntArrayRef phases, c10::SymInt layer, std::optional<double> scale, bool heads_first,
                      bool save) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(kAutocast);
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("fpsa::scheduled_attention", "")
                             .typed<Four(const at::Tensor&, const at::Tensor&, const at::Tensor&, const OptionalTensor&,
                                         const OptionalTensor&, std::string_view, c10::SymIntArrayRef,
                                         c10::SymIntArrayRef, c10::SymInt, std::optional<double>, bool, bool)>();
  const auto type = at::autocast::get_autocast_dtype(kDevice);
  const auto cast = [&](const at::Tensor& x) { return at::autocast::cached_cast(type, x, kDevice); };
  return op.call(cast(q), cast(k), cast(v), row_begin, col, schedule, grid, phases, std::move(layer), scale,
                 heads_first, save);
}

TORCH_LIBRARY_FRAGMENT(fpsa, m) {
  m.def(
      "scheduled_attention(Tensor q, Tensor k, Tensor v, Tensor? row_begin=None, Tensor? col=None, *, "
      "str schedule='', SymInt[] grid=[], SymInt[] phases=[0], SymInt layer=0, float? scale=None, "
      "bool heads_first=False, bool save=False) -> (Tensor out, Tensor lse, Tensor row_max, Tensor exact)",
      {at::Tag::pt2_compliant_tag});
  m.def(
      "scheduled_attention_backward(Tensor d_out, Tensor q, Tensor k, Tensor v, Tensor exact, Tensor lse, "
      "Tensor row_max, Tensor? row_begin=None, Tensor? col=None, *, str schedule='', SymInt[] grid=[], "
      "SymInt[] phases=[0], SymInt layer=0, float? scale=None, bool heads_first=False) "
      "-> (Tensor d_q, Tensor d_k, Tensor d_v)",
      {at::Tag::pt2_compliant_tag});
}

// One list for every device: ops looks at the tensors, and says in words what has no kernels there.
void implement(torch::Library& m) {
  m.impl("scheduled_attention", forward);
  m.impl("scheduled_attention_backward", backward);
}

TORCH_LIBRARY_IMPL(fpsa, CPU, m) {
  implement(m);
}
TORCH_LIBRARY_IMPL(fpsa, CUDA, m) {
  implement(m);
}

TORCH_LIBRARY_IMPL(fpsa, AutocastCPU, m) {
  m.impl("scheduled_attention", forward_autocast<at::kCPU, c10::DispatchKey::AutocastCPU>);
}
TORCH_LIBRARY_IMPL(fpsa, AutocastCUDA, m) {
  m.impl("scheduled_attention", forward_autocast<at::kCUDA, c10::DispatchKey::AutocastCUDA>);
}

TORCH_LIBRARY_IMPL(fpsa, Meta, m) {
  m.impl("scheduled_attention", forward_meta);
  m.impl("scheduled_attention_backward", backward_meta);
}

}  // namespace
}  // namespace fpsa::accel
