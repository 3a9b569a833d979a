#include "fpsa/ops/cuda_attention.h"

#include <cmath>
#include <vector>

#include "fpsa/base/check.h"
#include "fpsa/kernel/cuda/cuda.h"
#include "fpsa/ops/cuda_steps.h"
#include "fpsa/ops/views.h"

namespace fpsa::ops {
namespace {

namespace cuda = kernel::cuda;

at::Tensor checked_input(const at::Tensor& x, const char* name, const at::Tensor& q, const char* op, bool heads_first) {
  TORCH_CHECK_VALUE(x.device() == q.device(), op, ": ", name, " must be on the device of q, ", q.device(), ", got ",
                    x.device());
  check_tokens(x, op, name, heads_first, Devices::kCpuAndCuda);
  const auto view = heads_first ? x.transpose(1, 2) : x;
  return readable_by_kernels(view) ? view : view.contiguous();
}

// Codes, then the output and, in a launch of its own, the exact one.
void run(const CudaInputs& inputs, const Plan& plan, float scale, AttentionResult& result, const at::Tensor& out,
         const at::Tensor& exact) {
  result.kernel = "attention_fwd_e4m3_sm90a";
  result.coder = "quantize_sm90a";
  result.isa_name = "sm90a";
  if (inputs.q.size(0) == 0 || inputs.q.size(2) == 0) return;
  const CudaSteps steps(inputs, plan);
  steps.quantize();
  steps.attend(scale, out, result.lse, result.row_max);
  if (exact.defined()) steps.attend(scale, exact, {}, {}, /*exact=*/true);
}

float softmax_scale(std::optional<double> wanted, int64_t dim, const char* op) {
  const auto scale = static_cast<float>(wanted.value_or(1.0 / std::sqrt(static_cast<double>(dim))));
  TORCH_CHECK_VALUE(std::isfinite(scale), op, ": scale must be finite, got ", scale);
  return scale;
}

at::Tensor checked_out(const at::Tensor& out, const at::Tensor& q, const char* op) {
  const auto type = out.scalar_type();
  TORCH_CHECK_VALUE(out.sizes() == q.sizes() && out.device() == q.device() && out.stride(3) == 1 &&
                        (type == at::kBFloat16 || type == at::kHalf || type == at::kFloat),
                    op, ": out must have q's shape ", q.sizes(), " and device ", q.device(),
                    ", contiguous channels, and be bfloat16, float16 or float32, got ", out.sizes(), " ", out.device(),
                    " ", type);
  return out;
}

}  // namespace

std::string cuda_refusal(const CudaRequest& request) {
  if (request.gradients)
    return "the backward has no CUDA kernel in this version; compute under torch.no_grad(), or train on the CPU";
  if (request.precision == Precision::kInt8)
    return "precision int8 is the CPU's own, expected e4m3 on CUDA; choose e4m3";
  if (request.precision == Precision::kNone)
    return "precision none has no CUDA kernel in this version, expected e4m3; choose e4m3, or torch's "
           "scaled_dot_product_attention for dense attention";
  if (request.smooth_keys)
    return "smooth_keys is for INT8 on the CPU, expected false on CUDA; leave it off";
  if (request.dtype != at::kBFloat16)
    return join("dtype: expected bfloat16 on CUDA, got ", c10::toString(request.dtype), "; cast it first");
  if (request.dim != 64 && request.dim != 128)
    return join("head_dim: expected 64 or 128 on CUDA, got ", request.dim,
                "; pad it with zeros, or use torch's scaled_dot_product_attention");
  return {};
}

std::string cuda_refusal(const at::Tensor& q, const CudaRequest& request) {
  const auto device = cuda::unavailable_reason(q.device().index());
  return device.empty() ? cuda_refusal(request) : join("q is on ", q.device(), ": ", device);
}

AttentionResult cuda_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Plan& plan,
                               const AttentionOptions& options) {
  constexpr const char* kOp = "attention";
  TORCH_CHECK_VALUE(q.dim() == 4, kOp, ": q must have 4 dimensions, got ", q.dim());
  const auto refusal = cuda_refusal(
      q, {q.scalar_type(), q.size(3), options.precision, options.smooth_keys, gradients_wanted({q, k, v})});
  TORCH_CHECK_VALUE(refusal.empty(), kOp, ": ", refusal);
  CudaInputs call;
  call.q = checked_input(q, "q", q, kOp, options.heads_first);
  call.k = checked_input(k, "k", q, kOp, options.heads_first);
  call.v = checked_input(v, "v", q, kOp, options.heads_first);
  const int64_t batch = call.q.size(0), tokens = call.q.size(1), heads = call.q.size(2);
  check_like_q(call.k, "k", call.q, kOp);
  check_like_q(call.v, "v", call.q, kOp);
  for (const auto& [name, x] : {std::pair("q", &call.q), {"k", &call.k}, {"v", &call.v}})
    check_grid(plan, x->size(1), kOp, name);
  check_mask_heads(plan, heads, kOp);
  const float scale = softmax_scale(options.scale, q.size(3), kOp);

  AttentionResult result;
  result.out = options.out ? checked_out(*options.out, q, kOp) : at::empty(q.sizes(), q.options());
  const std::vector<int64_t> rows = {batch, heads, tokens};
  const auto f32 = q.options().dtype(at::kFloat);
  if (options.want_lse) result.lse = at::empty(rows, f32);
  if (options.want_row_max) result.row_max = at::empty(rows, f32);
  if (options.want_exact) result.exact = at::empty(q.sizes(), q.options());
  const auto tokens_first = [&](const at::Tensor& x) {
    return x.defined() && options.heads_first ? x.transpose(1, 2) : x;
  };
  run(call, plan, scale, result, tokens_first(result.out), tokens_first(result.exact));
  return result;
}

AttentionResult cuda_attention_of_projected(const Projected& x, const Plan& plan, Precision precision,
                                            bool smooth_keys) {
  constexpr const char* kOp = "attention_of_projected";
  TORCH_CHECK_VALUE(x.q.dim() == 3 && x.heads >= 1 && x.q.size(2) % x.heads == 0, kOp,
                    ": q must be [B,L,H*D] with channels a multiple of the heads, got ", x.q.sizes(), " and ", x.heads,
                    " heads");
  const int64_t width = x.q.size(2), dim = width / x.heads;
  const auto refusal = cuda_refusal(
      x.q, {x.q.scalar_type(), dim, precision, smooth_keys,
            gradients_wanted({x.q, x.k, x.v, x.q_weight, x.k_weight})});
  TORCH_CHECK_VALUE(refusal.empty(), kOp, ": ", refusal);
  const auto heads_of = [&](const at::Tensor& rows, const char* name) {
    TORCH_CHECK_VALUE(rows.sizes() == x.q.sizes() && rows.scalar_type() == x.q.scalar_type(), kOp, ": ", name,
                      " must have q's shape ", x.q.sizes(), " and dtype ", x.q.scalar_type(), ", got ", rows.sizes(),
                      " ", rows.scalar_type());
    const auto apart = rows.stride(2) == 1 ? rows : rows.contiguous();
    return checked_input(apart.unflatten(2, {x.heads, dim}), name, x.q, kOp, /*heads_first=*/false);
  };
  const auto weight_of = [&](const at::Tensor& weight, const char* name) {
    TORCH_CHECK_VALUE(weight.defined() && weight.dim() == 1 && weight.size(0) == width &&
                          weight.device() == x.q.device(),
                      kOp, ": ", name, " must be [", width, "] on ", x.q.device(), ", one value for each channel");
    return weight.to(at::kFloat).contiguous();
  };
  CudaInputs call;
  call.q = heads_of(x.q, "q");
  call.k = heads_of(x.k, "k");
  call.v = heads_of(x.v, "v");
  call.q_weight = weight_of(x.q_weight, "q_weight");
  call.k_weight = weight_of(x.k_weight, "k_weight");
  call.eps = static_cast<float>(x.eps);
  if (x.rope.defined()) {
    TORCH_CHECK_VALUE(x.rope.dim() == 3 && x.rope.size(0) == x.q.size(1) && x.rope.size(1) == 1 &&
                          x.rope.size(2) == dim / 2 && x.rope.scalar_type() == at::kComplexFloat &&
                          x.rope.device() == x.q.device(),
                      kOp, ": rope must be complex64 [", x.q.size(1), ", 1, ", dim / 2, "] on ", x.q.device(), ", got ",
                      x.rope.sizes(), " ", x.rope.scalar_type(), " on ", x.rope.device());
    call.turns = at::view_as_real(x.rope.contiguous());  // cos and sin in turn
  }
  check_grid(plan, x.q.size(1), kOp, "q");
  check_mask_heads(plan, x.heads, kOp);
  AttentionResult result;
  result.out = at::empty(call.q.sizes(), x.q.options());
  run(call, plan, softmax_scale(std::nullopt, dim, kOp), result, result.out, {});
  return result;
}

}  // namespace fpsa::ops
