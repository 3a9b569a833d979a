#include "fpsa/ops/quantize.h"

#include "fpsa/kernel/table.h"
#include "fpsa/ops/environment.h"
#include "fpsa/ops/parallel.h"
#include "fpsa/ops/views.h"
#include "fpsa/plan/quantize.h"

namespace fpsa::ops {
namespace {

at::Tensor checked(const at::Tensor& x, const Plan& plan, bool heads_first, const char* op) {
  apply_environment();
  check_tokens(x, op, "x", heads_first);
  const auto view = tokens_first(x, heads_first);
  check_grid(plan, view.size(1), op, "x");
  return view;
}

plan::QuantizeSource heads_of(const at::Tensor& x) {
  return {source_of(x), kernel_dtype(x.scalar_type()), x.size(0), x.size(2), x.size(3)};
}

Quantized allocate(const at::Tensor& x, int64_t scales_per_head) {
  const int64_t batch = x.size(0), tokens = x.size(1), heads = x.size(2), dim = x.size(3);
  const auto f32 = x.options().dtype(at::kFloat);
  return {at::empty({batch, heads, tokens, dim}, x.options().dtype(at::kByte)),
          at::empty({batch, heads, scales_per_head}, f32), at::Tensor()};
}

}  // namespace

Quantized quantize_tokens(const at::Tensor& x, const Plan& plan, bool heads_first) {
  const auto view = checked(x, plan, heads_first, "quantize_tokens");
  auto result = allocate(view, plan.groups().count);
  result.token_scale = at::empty({view.size(0), view.size(2), plan.tokens()}, result.scales.options());
  TorchRunner runner;
  plan::quantize_tokens(kernel::quantize().kernel, plan, heads_of(view), result.codes.mutable_data_ptr<uint8_t>(),
                        result.scales.mutable_data_ptr<float>(), result.token_scale.mutable_data_ptr<float>(), runner);
  return result;
}

Quantized quantize_channels(const at::Tensor& x, const Plan& plan, bool heads_first) {
  const auto view = checked(x, plan, heads_first, "quantize_channels");
  auto result = allocate(view, view.size(3));
  TorchRunner runner;
  plan::quantize_channels(kernel::quantize().kernel, plan, heads_of(view), result.codes.mutable_data_ptr<uint8_t>(),
                          result.scales.mutable_data_ptr<float>(), runner);
  return result;
}

}  // namespace fpsa::ops
