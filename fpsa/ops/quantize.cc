#include "fpsa/ops/quantize.h"

#include <ATen/Parallel.h>

#include "fpsa/kernel/table.h"
#include "fpsa/ops/environment.h"
#include "fpsa/ops/views.h"

namespace fpsa::ops {
namespace {

struct Input {
  at::Tensor x;  // [B,L,H,D]
  const Plan& plan;

  kernel::QuantizeInput head(int64_t i) const {
    const int64_t heads = x.size(2);
    return {rows_of(x, i / heads, i % heads, plan.order().to_raster().data()), kernel_dtype(x.scalar_type()), x.size(1),
            x.size(3)};
  }
};

Input checked(const at::Tensor& x, const Plan& plan, bool heads_first, const char* op) {
  apply_environment();
  check_tokens(x, op, "x", heads_first);
  Input input{tokens_first(x, heads_first), plan};
  TORCH_CHECK(input.x.size(1) == plan.tokens(), op, ": x must have the ", plan.tokens(), " tokens of grid ",
              pattern::to_string(plan.order().grid()), ", got ", input.x.size(1));
  return input;
}

Quantized allocate(const at::Tensor& x, int64_t scales_per_head) {
  const int64_t batch = x.size(0), tokens = x.size(1), heads = x.size(2), dim = x.size(3);
  const auto f32 = x.options().dtype(at::kFloat);
  return {at::empty({batch, heads, tokens, dim}, x.options().dtype(at::kByte)),
          at::empty({batch, heads, scales_per_head}, f32), at::Tensor()};
}

}  // namespace

Quantized quantize_tokens(const at::Tensor& x, const Plan& plan, bool heads_first) {
  const Input input = checked(x, plan, heads_first, "quantize_tokens");
  const int64_t groups = plan.groups().count, tokens = plan.tokens(), dim = input.x.size(3);
  auto result = allocate(input.x, groups);
  result.token_scale = at::empty({input.x.size(0), input.x.size(2), tokens}, result.scales.options());
  auto* codes = result.codes.mutable_data_ptr<uint8_t>();
  auto *scales = result.scales.mutable_data_ptr<float>(), *token_scale = result.token_scale.mutable_data_ptr<float>();
  const auto& entry = kernel::quantize();
  at::parallel_for(0, input.x.size(0) * input.x.size(2), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      entry.kernel.tokens(input.head(i), plan.groups().of_token.data(), groups, codes + i * tokens * dim,
                          scales + i * groups, token_scale + i * tokens);
  });
  return result;
}

Quantized quantize_channels(const at::Tensor& x, const Plan& plan, bool heads_first) {
  const Input input = checked(x, plan, heads_first, "quantize_channels");
  const int64_t tokens = plan.tokens(), dim = input.x.size(3);
  auto result = allocate(input.x, dim);
  auto* codes = result.codes.mutable_data_ptr<uint8_t>();
  auto* scales = result.scales.mutable_data_ptr<float>();
  const auto& entry = kernel::quantize();
  at::parallel_for(0, input.x.size(0) * input.x.size(2), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      entry.kernel.channels(input.head(i), codes + i * tokens * dim, scales + i * dim);
  });
  return result;
}

}  // namespace fpsa::ops
