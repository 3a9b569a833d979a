#include "fpsa/ops/attention.h"

#include <ATen/MemoryOverlap.h>

#include <cmath>
#include <limits>
#include <vector>

#include "fpsa/ops/cuda_attention.h"
#include "fpsa/ops/environment.h"
#include "fpsa/ops/parallel.h"
#include "fpsa/ops/views.h"
#include "fpsa/plan/run.h"

namespace fpsa::ops {
namespace {

// The tensors of one call in [B,L,H,D] order, checked.
struct Call {
  at::Tensor q, k, v, out, exact;
  AttentionResult result;
  float scale;

  int64_t batch() const { return q.size(0); }
  int64_t heads() const { return q.size(2); }
};

Call checked(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const AttentionOptions& options,
             const char* op) {
  apply_environment();
  for (const auto& [name, x] : {std::pair("q", &q), std::pair("k", &k), std::pair("v", &v)})
    check_tokens(*x, op, name, options.heads_first);
  check_no_gradient(op, {q, k, v});
  TORCH_CHECK_VALUE(!options.smooth_keys || options.precision != Precision::kNone, op,
                    ": smooth_keys is for keys that are coded; drop it or choose a precision other than none");
  TORCH_CHECK_VALUE(!options.want_exact || options.precision != Precision::kInt8, op,
                    ": want_exact is for the backward, which INT8 attention does not have; choose another precision");
  Call call{tokens_first(q, options.heads_first),
            tokens_first(k, options.heads_first),
            tokens_first(v, options.heads_first),
            {},
            {},
            {},
            0.0f};
  check_like_q(call.k, "k", call.q, op);
  check_like_q(call.v, "v", call.q, op);
  TORCH_CHECK_VALUE(call.k.size(1) == call.v.size(1), op, ": k and v must have the same number of tokens, got ",
                    call.k.size(1), " and ", call.v.size(1));
  for (const auto& x : {call.q, call.k})
    TORCH_CHECK_VALUE(x.size(1) <= std::numeric_limits<int32_t>::max(), op, ": at most 2^31 - 1 tokens, got ",
                      x.size(1));
  call.scale = static_cast<float>(options.scale.value_or(1.0 / std::sqrt(static_cast<double>(call.q.size(3)))));
  TORCH_CHECK_VALUE(std::isfinite(call.scale), op, ": scale must be finite, got ", call.scale);
  return call;
}

// Rows are written while others are still read, so an output may share memory with no input.
void check_apart(const at::Tensor& out, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const char* op) {
  TORCH_CHECK_VALUE(at::has_internal_overlap(out) != at::MemOverlap::Yes, op,
                    ": elements of out share memory, got strides ", out.strides(),
                    "; pass a tensor that is not expanded");
  for (const auto& [name, x] : {std::pair("q", &q), std::pair("k", &k), std::pair("v", &v)}) {
    const auto overlap = at::get_overlap_status(out, *x);
    // Views with gaps are too hard to compare, except that the same view is never apart from itself.
    const bool same = out.numel() > 0 && x->numel() > 0 && out.const_data_ptr() == x->const_data_ptr();
    TORCH_CHECK_VALUE(!same && overlap != at::MemOverlapStatus::Full && overlap != at::MemOverlapStatus::Partial, op,
                      ": out must not share memory with ", name, "; pass another tensor");
  }
}

void allocate(Call& call, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
              const AttentionOptions& options, const char* op) {
  auto& result = call.result;
  if (options.out) {
    TORCH_CHECK_VALUE(options.out->sizes() == q.sizes() && options.out->scalar_type() == q.scalar_type() &&
                          options.out->stride(3) == 1 && options.out->device().is_cpu(),
                      op, ": out must have q's shape ", q.sizes(), " and dtype ", q.scalar_type(),
                      " and contiguous channels, got ", options.out->sizes(), " ", options.out->scalar_type());
    check_apart(*options.out, q, k, v, op);
    result.out = *options.out;
  } else {
    result.out = at::empty(q.sizes(), q.options());
  }
  call.out = options.heads_first ? result.out.transpose(1, 2) : result.out;
  const auto f32 = q.options().dtype(at::kFloat);
  const std::vector<int64_t> rows = {call.batch(), call.heads(), call.q.size(1)};
  if (options.want_lse) result.lse = at::empty(rows, f32);
  if (options.want_row_max) result.row_max = at::empty(rows, f32);
  if (options.want_exact) {
    result.exact = at::empty(q.sizes(), q.options());
    call.exact = options.heads_first ? result.exact.transpose(1, 2) : result.exact;
  }
}

plan::AttentionSpec spec_of(const Call& call, const AttentionOptions& options) {
  plan::AttentionSpec spec;
  spec.heads = call.heads();
  spec.dim = call.q.size(3);
  spec.dtype = kernel_dtype(call.q.scalar_type());
  spec.precision = options.precision;
  spec.smooth_keys = options.smooth_keys;
  return spec;
}

void run(Call& call, const plan::AttentionPlan& planned) {
  auto& [out, lse, row_max, exact, kernel, coder, isa, isa_name] = call.result;
  const plan::Inputs inputs{source_of(call.q), source_of(call.k), source_of(call.v)};
  auto target = [](const at::Tensor& x) {
    return plan::Target{x.mutable_data_ptr(), x.stride(0), x.stride(2), x.stride(1)};
  };
  const plan::Output output{target(call.out), lse.defined() ? lse.mutable_data_ptr<float>() : nullptr,
                            row_max.defined() ? row_max.mutable_data_ptr<float>() : nullptr,
                            call.exact.defined() ? target(call.exact) : plan::Target{}};
  TorchRunner runner;
  BorrowedWorkspace workspace(planned.workspace_bytes(call.batch(), runner.workers()));
  plan::run(planned, call.batch(), inputs, call.scale, output, workspace.bytes(), runner);
  kernel = planned.entry().name;
  if (planned.quantizer()) coder = planned.quantizer()->name;
  isa = planned.entry().isa;
  isa_name = kernel::isa_name(isa);
}

}  // namespace

AttentionResult attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Plan& plan,
                          const AttentionOptions& options) {
  if (q.defined() && q.device().is_cuda()) return cuda_attention(q, k, v, plan, options);
  constexpr const char* kOp = "attention";
  Call call = checked(q, k, v, options, kOp);
  check_grid(plan, call.q.size(1), kOp, "q");
  check_grid(plan, call.k.size(1), kOp, "k");
  check_mask_heads(plan, call.heads(), kOp);
  allocate(call, q, k, v, options, kOp);
  // The caller's plan outlives the call, so it is not shared but lent.
  const std::shared_ptr<const Plan> lent(std::shared_ptr<const Plan>(), &plan);
  if (call.heads() > 0) run(call, plan::AttentionPlan(lent, spec_of(call, options)));
  return call.result;
}

AttentionResult dense_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                const AttentionOptions& options) {
  constexpr const char* kOp = "dense_attention";
  TORCH_CHECK_VALUE(options.precision == Precision::kNone, kOp,
                    ": quantisation needs a grid and a granularity; call attention with a plan");
  if (q.defined() && q.device().is_cuda()) return cuda_dense_attention(q, k, v, options);
  Call call = checked(q, k, v, options, kOp);
  allocate(call, q, k, v, options, kOp);
  if (call.heads() > 0) run(call, plan::AttentionPlan(call.q.size(1), call.k.size(1), spec_of(call, options)));
  return call.result;
}

}  // namespace fpsa::ops
