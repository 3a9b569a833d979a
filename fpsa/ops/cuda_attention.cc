#include "fpsa/ops/cuda_attention.h"

#include <ATen/Context.h>

#include <cmath>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "fpsa/base/check.h"
#include "fpsa/kernel/cuda/cuda.h"
#include "fpsa/ops/cuda_names.h"
#include "fpsa/ops/cuda_steps.h"
#include "fpsa/ops/views.h"

namespace fpsa::ops {
namespace {

namespace cuda = kernel::cuda;

// What was received, for an error.
std::string described(const at::Tensor& x) {
  return x.defined() ? join(x.sizes(), " ", c10::toString(x.scalar_type()), " on ", x.device()) : "an undefined tensor";
}

// An input as [B,L,H,D].
at::Tensor checked_input(const at::Tensor& x, const char* name, const at::Tensor& q, const char* op, bool heads_first) {
  TORCH_CHECK_VALUE(x.defined() && x.device() == q.device(), op, ": ", name, " must be on the device of q, ",
                    q.device(), ", got ", described(x), "; move it there");
  check_tokens(x, op, name, heads_first, Devices::kCpuAndCuda);
  return heads_first ? x.transpose(1, 2) : x;
}

// As the kernels take it: cast and copied only where it must be.
at::Tensor operand(const at::Tensor& x, Precision precision) {
  const auto cast = x.to(cuda_operand_type(x.scalar_type(), precision));
  return readable_by_kernels(cast) ? cast : cast.contiguous();
}

// One side or two: the plan of a call.
struct Sides {
  const Plan* plan = nullptr;
  const CrossPlan* cross = nullptr;

  CudaSteps steps(const CudaInputs& inputs, bool coded) const {
    return cross ? CudaSteps(inputs, *cross) : CudaSteps(inputs, *plan, coded);
  }
};

// Packs, then the output and, in a launch of its own, the exact one.
void run(const CudaInputs& inputs, const Sides& sides, bool coded, float scale, AttentionResult& result,
         const at::Tensor& out, const at::Tensor& exact) {
  const auto precision = coded ? Precision::kE4m3 : Precision::kNone;
  const auto names = cuda_names(inputs.q.scalar_type(), precision);
  result.kernel = names.kernel;
  result.coder = names.coder;
  result.isa_name = names.isa;
  if (out.numel() == 0) return;
  if (inputs.k.size(1) == 0) {
    out.zero_();
    if (result.lse.defined()) result.lse.fill_(-std::numeric_limits<float>::infinity());
    return;
  }
  const CudaSteps steps = sides.steps(inputs, coded);
  result.kernel = cuda_names(inputs.q.scalar_type(), precision, steps.cluster()).kernel;
  steps.pack();
  steps.attend(scale, out, result.lse, result.row_max);
  if (exact.defined()) steps.attend(scale, exact, {}, {}, /*exact=*/true);
}

float softmax_scale(std::optional<double> wanted, int64_t dim, const char* op) {
  const auto scale = static_cast<float>(wanted.value_or(1.0 / std::sqrt(static_cast<double>(dim))));
  TORCH_CHECK_VALUE(std::isfinite(scale), op, ": scale must be finite, got ", scale,
                    "; leave it out for 1 / sqrt(head_dim)");
  return scale;
}

at::Tensor checked_out(const at::Tensor& out, const at::Tensor& q, const char* op) {
  const auto type = out.scalar_type();
  TORCH_CHECK_VALUE(out.sizes() == q.sizes() && out.device() == q.device() && out.stride(3) == 1 &&
                        (type == at::kBFloat16 || type == at::kHalf || type == at::kFloat),
                    op, ": out must have q's shape ", q.sizes(), " and device ", q.device(),
                    ", contiguous channels, and be bfloat16, float16 or float32, got ", described(out), ", strides ",
                    out.strides(), "; leave it out, and the result is allocated");
  TORCH_CHECK_VALUE(readable_by_kernels(out), op, ": out must have rows at multiples of 16 bytes, got strides ",
                    out.strides(), " of ", out.element_size(), " bytes from ", out.const_data_ptr(),
                    "; leave it out, and the result is allocated");
  return out;
}

// Torch's setting is asked for only where it decides: where older and newer settings contradict each other, to ask is
// to throw and catch.
CudaRequest with_setting(CudaRequest request) {
  request.rounds_f32 = request.rounds_f32 ||
                       (request.dtype == at::kFloat && request.precision == Precision::kNone && float32_as_bfloat16());
  return request;
}

// q, k and v of a call that the kernels take, [B,L,H,D], still of the caller's type and strides.
CudaInputs checked_inputs(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                          const AttentionOptions& options, bool of_backward, const char* op) {
  TORCH_CHECK_VALUE(q.dim() == 4, op, ": q must be ", options.heads_first ? "[B,H,L,D]" : "[B,L,H,D]", ", got ",
                    q.dim(), " dimensions; add those of batch and heads");
  CudaRequest request{q.scalar_type(), q.size(3), options.precision, options.smooth_keys};
  request.rounds_f32 = of_backward;  // the forward was let
  const auto refusal = cuda_refusal(with_setting(request));
  TORCH_CHECK_VALUE(refusal.empty(), op, ": ", refusal);
  CudaInputs call;
  call.q = checked_input(q, "q", q, op, options.heads_first);
  call.k = checked_input(k, "k", q, op, options.heads_first);
  call.v = checked_input(v, "v", q, op, options.heads_first);
  check_like_q(call.k, "k", call.q, op);
  check_like_q(call.v, "v", call.q, op);
  TORCH_CHECK_VALUE(call.k.size(1) == call.v.size(1), op, ": k and v must have the same number of tokens, got ",
                    call.k.size(1), " and ", call.v.size(1), "; each key has one value");
  return call;
}

void check_device(const at::Tensor& q, const char* op) {
  const auto missing = cuda::unavailable_reason(q.device().index());
  TORCH_CHECK_VALUE(missing.empty(), op, ": q is on ", q.device(), ": ", missing);
}

// The inputs as the kernels take them; only once all else is in order, since it may copy them.
void take(CudaInputs& call, Precision precision, const char* op) {
  check_device(call.q, op);
  for (at::Tensor* x : {&call.q, &call.k, &call.v})
    *x = operand(*x, precision);
}

void check_plan(const CudaInputs& call, const Plan& plan, const char* op) {
  for (const auto& [name, x] : {std::pair("q", &call.q), {"k", &call.k}, {"v", &call.v}})
    check_grid(plan, x->size(1), op, name);
  check_mask_heads(plan, call.q.size(2), op);
}

AttentionResult forward(CudaInputs call, const at::Tensor& q, const Sides& sides, const AttentionOptions& options,
                        const char* op) {
  const float scale = softmax_scale(options.scale, call.q.size(3), op);
  const bool coded = options.precision == Precision::kE4m3;
  TORCH_CHECK_VALUE(coded || (!options.want_row_max && !options.want_exact), op,
                    ": row_max and exact are of codes, expected precision e4m3 with them, got none; ask for lse alone");
  AttentionResult result;
  if (options.out) result.out = checked_out(*options.out, q, op);
  take(call, options.precision, op);
  if (!options.out) result.out = at::empty(q.sizes(), q.options());
  const std::vector<int64_t> rows = {call.q.size(0), call.q.size(2), call.q.size(1)};
  const auto f32 = q.options().dtype(at::kFloat);
  if (options.want_lse) result.lse = at::empty(rows, f32);
  if (options.want_row_max) result.row_max = at::empty(rows, f32);
  if (options.want_exact) result.exact = at::empty(q.sizes(), q.options());
  const auto view = [&](const at::Tensor& x) { return x.defined() && options.heads_first ? x.transpose(1, 2) : x; };
  run(call, sides, coded, scale, result, view(result.out), view(result.exact));
  return result;
}

AttentionGradients backward(CudaInputs call, const at::Tensor& d_out, const at::Tensor& q, const at::Tensor& k,
                            const at::Tensor& v, const AttentionResult& forward, const Sides& sides,
                            const AttentionOptions& options, const char* op) {
  const bool coded = options.precision == Precision::kE4m3;
  const at::Tensor& out = coded ? forward.exact : forward.out;
  const auto view = [&](const at::Tensor& x) { return options.heads_first ? x.transpose(1, 2) : x; };
  const auto rows_of = [&](const at::Tensor& x, const char* name) {
    const auto type = x.defined() ? x.scalar_type() : at::kFloat;
    TORCH_CHECK_VALUE(x.defined() && x.sizes() == q.sizes() && x.device() == q.device() &&
                          (type == at::kBFloat16 || type == at::kHalf || type == at::kFloat),
                      op, ": ", name, " must have q's shape ", q.sizes(), " and device ", q.device(),
                      ", and be bfloat16, float16 or float32, got ", described(x),
                      x.defined() ? "; cast or move it first" : "; ask the forward for it with saving(options)");
    return view(x);
  };
  const std::vector<int64_t> rows = {call.q.size(0), call.q.size(2), call.q.size(1)};
  const auto statistics = [&](const at::Tensor& x, const char* name) {
    TORCH_CHECK_VALUE(x.defined() && x.sizes() == rows && x.scalar_type() == at::kFloat && x.is_contiguous() &&
                          x.device() == q.device(),
                      op, ": ", name, " must be the contiguous Float ", at::IntArrayRef(rows), " on ", q.device(),
                      " of the forward, got ", described(x), "; ask for it with saving(options)");
    return x;
  };
  CudaSaved saved{rows_of(out, coded ? "exact" : "out"), statistics(forward.lse, "lse"), {}};
  if (coded) saved.row_max = statistics(forward.row_max, "row_max");
  auto upstream = rows_of(d_out, "d_out");
  const float scale = softmax_scale(options.scale, call.q.size(3), op);
  take(call, options.precision, op);
  for (at::Tensor* x : {&saved.out, &upstream})
    if (!readable_by_kernels(*x)) *x = x->contiguous();
  const auto gradient = [](const at::Tensor& x) { return at::empty(x.sizes(), x.options()); };
  AttentionGradients result{gradient(q), gradient(k), gradient(v)};
  if (q.numel() == 0 || k.numel() == 0) {
    // No pair: nothing depends on anything.
    for (at::Tensor* x : {&result.q, &result.k, &result.v})
      x->zero_();
    return result;
  }
  const CudaSteps steps = sides.steps(call, coded);
  steps.pack();
  steps.backward(scale, upstream, saved, {view(result.q), view(result.k), view(result.v)});
  return result;
}

void check_uncoded(const AttentionOptions& options, const char* op) {
  TORCH_CHECK_VALUE(options.precision == Precision::kNone, op,
                    ": expected precision none, got one of codes, which need a grid and a granularity; call attention "
                    "with a plan");
}

// The plan of dense attention, which needs none where a side is empty.
struct DensePlan {
  DensePlan(int64_t queries, int64_t keys) {
    if (queries == 0 || keys == 0) return;
    if (queries == keys)
      same = cuda_dense_plan(queries);
    else
      cross = cuda_cross_plan(queries, keys);
  }
  Sides sides() const { return {same.get(), cross.get()}; }
  std::shared_ptr<const Plan> same;
  std::shared_ptr<const CrossPlan> cross;
};

}  // namespace

bool float32_as_bfloat16() {
  try {
    return at::globalContext().float32MatmulPrecision() == at::Float32MatmulPrecision::MEDIUM;
  } catch (const c10::Error&) {
    return false;  // torch's older and newer settings contradict each other
  }
}

at::ScalarType cuda_operand_type(at::ScalarType dtype, Precision precision) {
  return dtype == at::kHalf && precision == Precision::kNone ? at::kHalf : at::kBFloat16;
}

CudaNames cuda_names(at::ScalarType dtype, Precision precision, int cluster) {
  static constexpr std::string_view kNames[3][3] = {
      {"attention_fwd_e4m3_sm90a", "attention_fwd_e4m3_sm90a (single)", "attention_fwd_e4m3_sm90a (paired)"},
      {"attention_fwd_f16_sm90a", "attention_fwd_f16_sm90a (single)", "attention_fwd_f16_sm90a (paired)"},
      {"attention_fwd_bf16_sm90a", "attention_fwd_bf16_sm90a (single)", "attention_fwd_bf16_sm90a (paired)"},
  };
  const bool coded = precision != Precision::kNone, half = cuda_operand_type(dtype, precision) == at::kHalf;
  return {kNames[coded ? 0 : half ? 1 : 2][cluster], coded ? "quantize_sm90a" : "", "sm90a"};
}

std::string cuda_unavailable(at::Device device) {
  return cuda::unavailable_reason(device.index());
}

std::string cuda_refusal(const CudaRequest& request) {
  if (request.precision == Precision::kInt8)
    return "precision int8 is the CPU's own, expected e4m3 or none on CUDA; choose e4m3";
  if (request.smooth_keys)
    return "smooth_keys is for INT8 on the CPU, expected false on CUDA; leave it off";
  if (request.dtype != at::kBFloat16 && request.dtype != at::kHalf && request.dtype != at::kFloat)
    return join("dtype: expected bfloat16, float16 or float32 on CUDA, got ", c10::toString(request.dtype),
                "; cast it first");
  if (request.dtype == at::kFloat && request.precision == Precision::kNone && !request.rounds_f32)
    return "dtype: expected bfloat16 or float16 for precision none on CUDA, got Float, whose products the kernels can "
           "only make of values rounded to bfloat16; cast it, use autocast, let torch round by "
           "torch.set_float32_matmul_precision('medium'), or use torch's scaled_dot_product_attention";
  if (request.dim != 64 && request.dim != 128)
    return join("head_dim: expected 64 or 128 on CUDA, got ", request.dim,
                "; pad it with zeros, or use torch's scaled_dot_product_attention");
  return {};
}

std::string cuda_refusal(const at::Tensor& q, CudaRequest request) {
  const auto device = cuda_unavailable(q.device());
  if (!device.empty()) return join("q is on ", q.device(), ": ", device);
  return cuda_refusal(with_setting(request));
}

AttentionResult cuda_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Plan& plan,
                               const AttentionOptions& options) {
  constexpr const char* kOp = "attention";
  CudaInputs call = checked_inputs(q, k, v, options, /*of_backward=*/false, kOp);
  check_plan(call, plan, kOp);
  check_no_gradient(kOp, {q, k, v});
  return forward(std::move(call), q, {&plan}, options, kOp);
}

AttentionResult cuda_dense_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                     const AttentionOptions& options) {
  constexpr const char* kOp = "dense_attention";
  check_uncoded(options, kOp);
  CudaInputs call = checked_inputs(q, k, v, options, /*of_backward=*/false, kOp);
  check_no_gradient(kOp, {q, k, v});
  const DensePlan plan(call.q.size(1), call.k.size(1));
  return forward(std::move(call), q, plan.sides(), options, kOp);
}

AttentionResult cuda_attention_of_projected(const Projected& x, const Plan& plan, Precision precision,
                                            bool smooth_keys) {
  constexpr const char* kOp = "attention_of_projected";
  TORCH_CHECK_VALUE(x.q.dim() == 3 && x.heads >= 1 && x.q.size(2) % x.heads == 0, kOp,
                    ": q must be [B,L,H*D] with channels a multiple of the heads, got ", x.q.sizes(), " and ", x.heads,
                    " heads");
  const int64_t width = x.q.size(2), dim = width / x.heads;
  const auto refusal = cuda_refusal({x.q.scalar_type(), dim, precision, smooth_keys});
  TORCH_CHECK_VALUE(refusal.empty(), kOp, ": ", refusal);
  TORCH_CHECK_TYPE(x.q.scalar_type() == at::kBFloat16, kOp, ": q must be bfloat16 on CUDA, got ", x.q.scalar_type(),
                   "; call attention with normed and rotated q and k");
  TORCH_CHECK_VALUE(precision != Precision::kNone, kOp,
                    ": precision none has no codes; call attention with normed and rotated q and k");
  check_no_gradient(kOp, {x.q, x.k, x.v, x.q_weight, x.k_weight});
  check_grid(plan, x.q.size(1), kOp, "q");
  check_mask_heads(plan, x.heads, kOp);
  const auto heads_of = [&](const at::Tensor& rows, const char* name) {
    TORCH_CHECK_VALUE(rows.defined() && rows.sizes() == x.q.sizes() && rows.scalar_type() == x.q.scalar_type(), kOp,
                      ": ", name, " must have q's shape ", x.q.sizes(), " and dtype ", x.q.scalar_type(), ", got ",
                      described(rows), "; make it by a projection of q's width and type");
    return checked_input(rows.unflatten(2, {x.heads, dim}), name, x.q, kOp, /*heads_first=*/false);
  };
  const auto check_weight = [&](const at::Tensor& weight, const char* name) {
    TORCH_CHECK_VALUE(
        weight.defined() && weight.dim() == 1 && weight.size(0) == width && weight.device() == x.q.device(), kOp, ": ",
        name, " must be [", width, "] on ", x.q.device(), ", one value for each channel, got ", described(weight),
        "; move or reshape it");
  };
  CudaInputs call;
  call.q = heads_of(x.q, "q");
  call.k = heads_of(x.k, "k");
  call.v = heads_of(x.v, "v");
  check_weight(x.q_weight, "q_weight");
  check_weight(x.k_weight, "k_weight");
  call.eps = static_cast<float>(x.eps);
  TORCH_CHECK_VALUE(!x.rope.defined() || (x.rope.dim() == 3 && x.rope.size(0) == x.q.size(1) && x.rope.size(1) == 1 &&
                                          x.rope.size(2) == dim / 2 && x.rope.scalar_type() == at::kComplexFloat &&
                                          x.rope.device() == x.q.device()),
                    kOp, ": rope must be ComplexFloat [", x.q.size(1), ", 1, ", dim / 2, "] on ", x.q.device(),
                    ", got ", described(x.rope), "; move or cast it, one turn for each pair of channels");
  take(call, precision, kOp);
  call.q_weight = x.q_weight.to(at::kFloat).contiguous();
  call.k_weight = x.k_weight.to(at::kFloat).contiguous();
  if (x.rope.defined()) call.turns = at::view_as_real(x.rope.contiguous());  // cos and sin in turn
  AttentionResult result;
  result.out = at::empty(call.q.sizes(), x.q.options());
  run(call, {&plan}, /*coded=*/true, softmax_scale(std::nullopt, dim, kOp), result, result.out, {});
  return result;
}

AttentionGradients cuda_attention_backward(const at::Tensor& d_out, const at::Tensor& q, const at::Tensor& k,
                                           const at::Tensor& v, const AttentionResult& forward, const Plan& plan,
                                           const AttentionOptions& options) {
  constexpr const char* kOp = "attention_backward";
  CudaInputs call = checked_inputs(q, k, v, options, /*of_backward=*/true, kOp);
  check_plan(call, plan, kOp);
  check_no_gradient(kOp, {q, k, v, d_out});
  return backward(std::move(call), d_out, q, k, v, forward, {&plan}, options, kOp);
}

AttentionGradients cuda_dense_attention_backward(const at::Tensor& d_out, const at::Tensor& q, const at::Tensor& k,
                                                 const at::Tensor& v, const AttentionResult& forward,
                                                 const AttentionOptions& options) {
  constexpr const char* kOp = "dense_attention_backward";
  check_uncoded(options, kOp);
  CudaInputs call = checked_inputs(q, k, v, options, /*of_backward=*/true, kOp);
  check_no_gradient(kOp, {q, k, v, d_out});
  const DensePlan plan(call.q.size(1), call.k.size(1));
  return backward(std::move(call), d_out, q, k, v, forward, plan.sides(), options, kOp);
}

}  // namespace fpsa::ops
