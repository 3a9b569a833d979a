#include "fpsa/ops/prepass.h"

#include <cmath>
#include <memory>

#include "fpsa/ops/cuda_attention.h"
#include "fpsa/ops/environment.h"
#include "fpsa/ops/fork.h"
#include "fpsa/ops/parallel.h"
#include "fpsa/ops/views.h"
#include "fpsa/plan/prepass.h"
#include "fpsa/plan/run.h"

namespace fpsa::ops {
namespace {

constexpr int64_t kGrain = 64;  // rows per task: at 1536 channels 190 kB, enough to hide the hand-over

// [B,L,H*D] with contiguous channels.
at::Tensor checked_rows(const at::Tensor& x, int64_t heads, const char* op, const char* name) {
  TORCH_CHECK_VALUE(x.defined() && x.dim() == 3, op, ": ", name, " must be [B,L,H*D], got ", x.defined() ? x.dim() : 0,
                    " dimensions");
  TORCH_CHECK_VALUE(heads >= 1 && x.size(2) % heads == 0, op, ": the channels of ", name, " (", x.size(2),
                    ") must be a multiple of the heads, got ", heads);
  const auto rows = x.stride(2) == 1 || x.size(2) == 1 ? x : x.contiguous();
  check_tokens(rows.unflatten(2, {heads, -1}), op, name, /*heads_first=*/false);
  return rows;
}

at::Tensor checked_weight(const at::Tensor& weight, const at::Tensor& x, const char* op, const char* name) {
  TORCH_CHECK_VALUE(weight.defined() && weight.dim() == 1 && weight.size(0) == x.size(2), op, ": ", name, " must be [",
                    x.size(2), "], one value for each channel, got ",
                    weight.defined() ? weight.sizes() : at::IntArrayRef());
  return weight.to(at::kFloat).contiguous();
}

const float* checked_rope(const at::Tensor& rope, const at::Tensor& x, int64_t heads, const char* op) {
  if (!rope.defined()) return nullptr;
  const int64_t pairs = x.size(2) / heads / 2;
  TORCH_CHECK_VALUE(rope.dim() == 3 && rope.size(0) == x.size(1) && rope.size(1) == 1 && rope.size(2) == pairs &&
                        rope.scalar_type() == at::kComplexFloat && rope.is_contiguous() && rope.device().is_cpu(),
                    op, ": rope must be contiguous complex64 [", x.size(1), ", 1, ", pairs, "], got ", rope.sizes(),
                    " ", rope.scalar_type());
  return static_cast<const float*>(rope.const_data_ptr());  // real and imaginary parts in turn
}

// Where the parts of one call's workspace begin.
struct Layout {
  int64_t attention = 0, scratch = 0, codes[3] = {}, scales[3] = {}, bytes = 0;

  Layout(const plan::AttentionPlan& planned, int64_t batch, int workers, bool smooth_keys) {
    const auto take = [&](int64_t size) {
      const int64_t begin = bytes;
      bytes += (size + plan::kWorkspaceAlignment - 1) / plan::kWorkspaceAlignment * plan::kWorkspaceAlignment;
      return begin;
    };
    const int64_t heads = planned.spec().heads, dim = planned.spec().dim, rows = batch * heads * planned.queries();
    attention = take(planned.workspace_bytes(batch, workers));
    scratch = take(plan::prepass_workspace_bytes(*planned.geometry(), batch, heads, dim, smooth_keys));
    for (auto& part : codes)
      part = take(rows * dim);
    for (auto& part : scales)
      part = take((&part == &scales[2] ? batch * heads * dim : rows) * static_cast<int64_t>(sizeof(float)));
  }
};

plan::Projection projection_of(const at::Tensor& x, const float* weight) {
  return {x.const_data_ptr(), x.stride(0), x.stride(1), weight};
}

}  // namespace

bool preparable(const at::Tensor& x, int64_t heads) {
  const int64_t dim = x.dim() == 3 && heads >= 1 && x.size(2) % heads == 0 ? x.size(2) / heads : 0;
  return x.device().is_cpu() && (x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16) && dim >= 8 &&
         dim <= 256 && dim % 8 == 0;
}

bool projectable(const at::Tensor& x, int64_t heads, Precision precision) {
  if (!x.device().is_cuda()) return preparable(x, heads);
  return x.dim() == 3 && heads >= 1 && x.size(2) % heads == 0 && x.scalar_type() == at::kBFloat16 &&
         precision != Precision::kNone && cuda_refusal(x, {x.scalar_type(), x.size(2) / heads, precision}).empty();
}

at::Tensor prepare_heads(const at::Tensor& x, const at::Tensor& weight, double eps, int64_t heads,
                         const at::Tensor& rope) {
  constexpr const char* kOp = "prepare_heads";
  apply_environment();
  check_no_gradient(kOp, {x, weight});
  const at::Tensor rows = checked_rows(x, heads, kOp, "x"), w = checked_weight(weight, x, kOp, "weight");
  const int64_t length = x.size(1), width = x.size(2), element = static_cast<int64_t>(x.element_size());
  at::Tensor result = at::empty({x.size(0), length, heads, width / heads}, x.options());
  auto* out = static_cast<std::byte*>(result.mutable_data_ptr());
  kernel::PrepassInput in;
  in.dtype = kernel_dtype(x.scalar_type());
  in.rows = length;
  in.heads = heads;
  in.dim = width / heads;
  in.weight = w.const_data_ptr<float>();
  in.eps = static_cast<float>(eps);
  in.turns = checked_rope(rope, x, heads, kOp);
  // Every entry of the table prepares alike, whatever its codes.
  const auto& kernel = kernel::prepass(kernel::Dtype::kE4m3).kernel;
  for (int64_t b = 0; b < x.size(0); ++b) {
    in.x = {static_cast<const std::byte*>(rows.const_data_ptr()) + b * rows.stride(0) * element, rows.stride(1),
            nullptr};
    auto* to = out + b * length * width * element;
    parallel_for(0, length, kGrain, [&](int64_t begin, int64_t end) { kernel.prepare(in, begin, end, to); });
  }
  return result;
}

AttentionResult attention_of_projected(const Projected& x, const Plan& plan, Precision precision, bool smooth_keys) {
  constexpr const char* kOp = "attention_of_projected";
  if (x.q.defined() && x.q.device().is_cuda()) return cuda_attention_of_projected(x, plan, precision, smooth_keys);
  apply_environment();
  TORCH_CHECK_VALUE(precision != Precision::kNone, kOp,
                    ": precision none has no codes; call attention with prepare_heads of q and k");
  check_no_gradient(kOp, {x.q, x.k, x.v, x.q_weight, x.k_weight});
  const at::Tensor q = checked_rows(x.q, x.heads, kOp, "q"), k = checked_rows(x.k, x.heads, kOp, "k"),
                   v = checked_rows(x.v, x.heads, kOp, "v");
  for (const auto& [name, t] : {std::pair("k", &k), std::pair("v", &v)})
    TORCH_CHECK_VALUE(t->sizes() == q.sizes() && t->scalar_type() == q.scalar_type(), kOp, ": ", name,
                      " must have q's shape ", q.sizes(), " and dtype ", q.scalar_type(), ", got ", t->sizes(), " ",
                      t->scalar_type());
  check_grid(plan, q.size(1), kOp, "q");
  check_mask_heads(plan, x.heads, kOp);
  const at::Tensor q_weight = checked_weight(x.q_weight, q, kOp, "q_weight");
  const at::Tensor k_weight = checked_weight(x.k_weight, k, kOp, "k_weight");

  const int64_t length = q.size(1), heads = x.heads, dim = q.size(2) / heads;
  AttentionResult result;
  result.out = at::empty({q.size(0), length, heads, dim}, q.options());
  plan::AttentionSpec spec;
  spec.heads = heads;
  spec.dim = dim;
  spec.dtype = kernel_dtype(q.scalar_type());
  spec.precision = precision;
  // The caller's plan outlives the call, so it is not shared but lent.
  const plan::AttentionPlan planned(std::shared_ptr<const Plan>(std::shared_ptr<const Plan>(), &plan), spec);
  const kernel::PrepassEntry& coder = kernel::prepass(planned.entry().dtype);
  result.kernel = planned.entry().name;
  result.coder = coder.name;
  result.isa = planned.entry().isa;
  result.isa_name = kernel::isa_name(result.isa);

  const int64_t batch = q.size(0);
  TorchRunner runner;
  const Layout layout(planned, batch, runner.workers(), smooth_keys);
  BorrowedWorkspace workspace(layout.bytes);
  auto part = [&](int64_t offset) { return workspace.bytes().subspan(static_cast<size_t>(offset)); };
  auto codes = [&](int i) { return reinterpret_cast<uint8_t*>(part(layout.codes[i]).data()); };
  auto scales = [&](int i) { return reinterpret_cast<float*>(part(layout.scales[i]).data()); };
  auto tiled = [&](int i) { return plan::Source{codes(i), length * heads * dim, length * dim, dim}; };
  const plan::Projections projections{.q = projection_of(q, q_weight.const_data_ptr<float>()),
                                      .k = projection_of(k, k_weight.const_data_ptr<float>()),
                                      .v = projection_of(v, nullptr),
                                      .dtype = spec.dtype,
                                      .batch = batch,
                                      .heads = heads,
                                      .dim = dim,
                                      .eps = static_cast<float>(x.eps),
                                      .turns = checked_rope(x.rope, q, heads, kOp),
                                      .smooth_keys = smooth_keys};
  plan::prepass(coder.kernel, plan, projections, {codes(0), codes(1), codes(2), scales(0), scales(1), scales(2)},
                part(layout.scratch), runner);
  const at::Tensor& out = result.out;
  plan::run_codes(planned, batch, {tiled(0), tiled(1), tiled(2), scales(0), scales(1), scales(2)},
                  static_cast<float>(1.0 / std::sqrt(static_cast<double>(dim))),  // as attention()
                  {{out.mutable_data_ptr(), out.stride(0), out.stride(2), out.stride(1)}},
                  workspace.bytes().first(static_cast<size_t>(layout.scratch)), runner);
  return result;
}

}  // namespace fpsa::ops
