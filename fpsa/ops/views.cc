#include "fpsa/ops/views.h"

#include <c10/core/GradMode.h>

#include <algorithm>

namespace fpsa::ops {

at::Tensor tokens_first(const at::Tensor& x, bool heads_first) {
  const auto view = heads_first ? x.transpose(1, 2) : x;
  return view.stride(3) == 1 || view.size(3) == 1 ? view : view.contiguous();
}

void check_tokens(const at::Tensor& x, std::string_view op, std::string_view name, bool heads_first, Devices devices) {
  TORCH_CHECK_VALUE(x.defined() && x.dim() == 4, op, ": ", name, " must be ", heads_first ? "[B,H,L,D]" : "[B,L,H,D]",
                    ", got ", x.defined() ? x.dim() : 0, " dimensions");
  const bool f16 = devices == Devices::kCpuAndCuda && x.device().is_cuda();
  TORCH_CHECK_TYPE(x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16 ||
                       (f16 && x.scalar_type() == at::kHalf),
                   op, ": ", name, " must be float32", f16 ? ", bfloat16 or float16" : " or bfloat16", ", got ",
                   x.scalar_type(), "; cast it first");
  TORCH_CHECK_VALUE(x.device().is_cpu() || (devices == Devices::kCpuAndCuda && x.device().is_cuda()), op, ": ", name,
                    " must be on the CPU", devices == Devices::kCpu ? "" : " or a CUDA device", ", got ", x.device(),
                    "; this operator has no kernels there, move its tensors");
  TORCH_CHECK_VALUE(x.size(3) % 8 == 0 && x.size(3) >= 8 && x.size(3) <= 256, op, ": the head dim of ", name,
                    " must be a multiple of 8 from 8 to 256, got ", x.size(3), "; pad it with zeros");
  TORCH_CHECK_VALUE(x.numel() < (int64_t{1} << 40), op, ": ", name, " is too large: ", x.sizes());
}

void check_like_q(const at::Tensor& x, std::string_view name, const at::Tensor& q, std::string_view op) {
  TORCH_CHECK_VALUE(x.size(0) == q.size(0) && x.size(2) == q.size(2) && x.size(3) == q.size(3), op, ": ", name,
                    " must have the batch, heads and head dim of q (", q.size(0), ", ", q.size(2), ", ", q.size(3),
                    "), got (", x.size(0), ", ", x.size(2), ", ", x.size(3), ")");
  TORCH_CHECK_TYPE(x.scalar_type() == q.scalar_type(), op, ": ", name, " must have q's dtype ", q.scalar_type(),
                   ", got ", x.scalar_type());
}

kernel::Dtype kernel_dtype(at::ScalarType type) {
  return type == at::kFloat ? kernel::Dtype::kF32 : kernel::Dtype::kBf16;
}

kernel::RowsView rows_of(const at::Tensor& x, int64_t b, int64_t h, const int32_t* index) {
  const auto* data = static_cast<const char*>(x.const_data_ptr()) +
                     (b * x.stride(0) + h * x.stride(2)) * static_cast<int64_t>(x.element_size());
  return {data, x.stride(1), index};
}

plan::Source source_of(const at::Tensor& x) {
  return {x.const_data_ptr(), x.stride(0), x.stride(2), x.stride(1)};
}

bool gradients_wanted(at::TensorList tensors) {
  return c10::GradMode::is_enabled() &&
         std::ranges::any_of(tensors, [](const at::Tensor& x) { return x.requires_grad(); });
}

void check_no_gradient(std::string_view op, at::TensorList tensors) {
  TORCH_CHECK(!gradients_wanted(tensors), op,
              ": an input requires a gradient, which this forward-only kernel cannot give; ",
              "use fpsa::ops::differentiable_attention, or disable gradients");
}

void check_grid(const plan::Geometry& plan, int64_t tokens, std::string_view op, std::string_view name) {
  TORCH_CHECK_VALUE(tokens == plan.tokens(), op, ": ", name, " must have the ", plan.tokens(), " tokens of grid ",
                    pattern::to_string(plan.order().grid()), ", got ", tokens);
}

void check_mask_heads(const plan::Geometry& plan, int64_t heads, std::string_view op) {
  TORCH_CHECK_VALUE(plan.mask().heads() == 1 || plan.mask().heads() == heads, op,
                    ": the mask must be shared or have one entry per head (", heads, "), got ", plan.mask().heads());
}

}  // namespace fpsa::ops
