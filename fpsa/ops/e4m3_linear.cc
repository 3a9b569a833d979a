#include "fpsa/ops/e4m3_linear.h"

#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <vector>

#include "fpsa/numeric/bf16.h"
#include "fpsa/numeric/e4m3.h"
#include "fpsa/numeric/scales.h"
#include "fpsa/ops/fork.h"
#include "fpsa/ops/views.h"

namespace fpsa::ops {
namespace {

constexpr int64_t kGrain = 16384;  // elements of a task

void check_matrix(const at::Tensor& x, const char* op, const char* name) {
  TORCH_CHECK_VALUE(
      x.defined() && x.device().is_cpu() && (x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16), op,
      ": ", name, " must be float32 or bfloat16 on the CPU, got ",
      x.defined() ? x.toString() : std::string("an undefined tensor"));
}

// Codes in a byte each, and the scale of each row.
struct Codes {
  at::Tensor bytes, scale;  // [rows, in] uint8; [rows, 1] F32
};

void wide_row(const float* x, float* out, int64_t n) {
  std::copy_n(x, n, out);
}
void wide_row(const at::BFloat16* x, float* out, int64_t n) {
  numeric::f32_from_bf16(reinterpret_cast<const uint16_t*>(x), out, n);
}

template <class Element>
void code_rows(const at::Tensor& x, const Codes& to) {
  const int64_t width = x.size(1);
  const auto* from = x.const_data_ptr<Element>();
  auto* bytes = to.bytes.mutable_data_ptr<uint8_t>();
  auto* scale = to.scale.mutable_data_ptr<float>();
  parallel_for(0, x.size(0), std::max<int64_t>(kGrain / std::max<int64_t>(width, 1), 1),
               [&](int64_t begin, int64_t end) {
                 std::vector<float> row(static_cast<size_t>(width));
                 for (int64_t i = begin; i < end; ++i) {
                   wide_row(from + i * width, row.data(), width);
                   scale[i] = numeric::scale_from_absmax(numeric::absmax(row.data(), width));
                   for (float& value : row)
                     value /= scale[i];
                   numeric::e4m3_from_f32(row.data(), bytes + i * width, width);
                 }
               });
}

Codes coded(const at::Tensor& x) {
  const auto rows = x.contiguous();
  Codes to{at::empty(rows.sizes(), at::kByte), at::empty({rows.size(0), 1}, at::kFloat)};
  if (x.scalar_type() == at::kFloat)
    code_rows<float>(rows, to);
  else
    code_rows<at::BFloat16>(rows, to);
  return to;
}

at::Tensor values_of(const at::Tensor& bytes, at::ScalarType type) {
  return bytes.view(at::kFloat8_e4m3fn).to(type);
}

// The quantised matrix itself, rounded to `type`.
at::Tensor real(const Codes& codes, at::ScalarType type) {
  return (values_of(codes.bytes, at::kFloat) * codes.scale).to(type);
}

at::Tensor product(const Codes& x, const CodedRows& weight, const at::Tensor& bias, at::ScalarType type) {
  auto y = at::linear(values_of(x.bytes, type), weight.values.to(type)).to(at::kFloat);
  y.mul_(x.scale).mul_(weight.scale.view({1, -1}));
  if (bias.defined()) y.add_(bias.to(at::kFloat));
  return y.to(type);
}

ProductGradients gradients(const at::Tensor& d_y, const Codes& x, const Codes& weight, std::array<bool, 3> wanted) {
  ProductGradients grads;
  const auto type = d_y.scalar_type();
  if (wanted[0]) grads.x = at::mm(d_y, real(weight, type));
  if (wanted[1]) grads.weight = at::mm(d_y.t(), real(x, type));
  if (wanted[2]) grads.bias = d_y.to(at::kFloat).sum(0);
  return grads;
}

class E4m3Linear : public torch::autograd::Function<E4m3Linear> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x, const at::Tensor& weight,
                            const at::Tensor& bias) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    const Codes x_codes = coded(x), w_codes = coded(weight);
    context->save_for_backward({x_codes.bytes, x_codes.scale, w_codes.bytes, w_codes.scale});
    context->saved_data["types"] =
        std::vector<int64_t>{static_cast<int64_t>(weight.scalar_type()), static_cast<int64_t>(bias.scalar_type())};
    return product(x_codes, {values_of(w_codes.bytes, x.scalar_type()), w_codes.scale}, bias, x.scalar_type());
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list d_outs) {
    TORCH_CHECK(!c10::GradMode::is_enabled(),
                "e4m3_linear: has no second derivative; call backward without create_graph");
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    const auto saved = context->get_saved_variables();
    const Codes x{saved[0], saved[1]}, weight{saved[2], saved[3]};
    const auto types = context->saved_data["types"].toIntVector();
    const auto in_type = [&](const at::Tensor& grad, size_t i) {
      return grad.defined() ? grad.to(static_cast<at::ScalarType>(types[i])) : grad;
    };
    const auto grads =
        gradients(d_outs[0], x, weight,
                  {context->needs_input_grad(0), context->needs_input_grad(1), context->needs_input_grad(2)});
    return {grads.x, in_type(grads.weight, 0), in_type(grads.bias, 1)};
  }
};

}  // namespace

CodedRows e4m3_rows(const at::Tensor& x) {
  check_matrix(x, "e4m3_rows", "x");
  TORCH_CHECK_VALUE(x.dim() == 2, "e4m3_rows: x must be [rows, in], got ", x.dim(), " dimensions");
  const Codes codes = coded(x);
  return {values_of(codes.bytes, x.scalar_type()), codes.scale};
}

namespace {

// x as a matrix; its sizes as those of y.
at::Tensor checked(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, std::vector<int64_t>& sizes) {
  constexpr const char* kOp = "e4m3_linear";
  check_matrix(x, kOp, "x");
  check_matrix(weight, kOp, "weight");
  TORCH_CHECK_VALUE(x.dim() >= 1 && weight.dim() == 2 && x.size(-1) == weight.size(1), kOp, ": weight must be [out, ",
                    x.dim() >= 1 ? x.size(-1) : 0, "] for an x of ", x.sizes(), ", got ", weight.sizes());
  TORCH_CHECK_VALUE(!bias.defined() || (bias.dim() == 1 && bias.size(0) == weight.size(0)), kOp, ": bias must be [",
                    weight.size(0), "], got ", bias.sizes());
  sizes = x.sizes().vec();
  sizes.back() = weight.size(0);
  return x.reshape({-1, x.size(-1)});
}

}  // namespace

at::Tensor e4m3_linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  std::vector<int64_t> sizes;
  const auto rows = checked(x, weight, bias, sizes);
  // Autograd takes defined tensors only.
  return E4m3Linear::apply(rows, weight, bias.defined() ? bias : at::zeros({weight.size(0)}, weight.options()))
      .view(sizes);
}

CodedProduct e4m3_product(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  std::vector<int64_t> sizes;
  const auto rows = checked(x, weight, bias, sizes);
  const Codes x_codes = coded(rows), w_codes = coded(weight);
  const auto y =
      product(x_codes, {values_of(w_codes.bytes, x.scalar_type()), w_codes.scale}, bias, x.scalar_type()).view(sizes);
  return {y, x_codes.bytes, x_codes.scale, w_codes.bytes, w_codes.scale};
}

ProductGradients e4m3_product_backward(const at::Tensor& d_y, const CodedProduct& forward, std::array<bool, 3> wanted) {
  return gradients(d_y, {forward.x_codes, forward.x_scale}, {forward.weight_codes, forward.weight_scale}, wanted);
}

at::Tensor e4m3_linear(const at::Tensor& x, const CodedRows& weight, const at::Tensor& bias) {
  std::vector<int64_t> sizes;
  const auto rows = checked(x, weight.values, bias, sizes);
  check_no_gradient("e4m3_linear of a coded weight", {x, bias});
  return product(coded(rows), weight, bias, x.scalar_type()).view(sizes);
}

}  // namespace fpsa::ops
