// Composed forms and autograd of the fused passes; the loops are in dit_rows.cc.
//
// The backwards recompute what the norms computed from x, so that training keeps x and nothing else. Gradients of
// weights and modulation are summed over a fixed number of row ranges: the bytes do not depend on threads.
#include "fpsa/models/wan/dit_fused.h"

#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>

#include "fpsa/models/wan/dit_rows.h"
#include "fpsa/ops/prepass.h"

namespace fpsa::models::wan {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

constexpr int64_t kGrain = 64;     // rows per task: at 256 values 64 kB, enough to hide the hand-over
constexpr int64_t kPartials = 16;  // row ranges with sums of their own

bool fusable(const at::Tensor& t, int64_t multiple_of_16) {
  return t.device().is_cpu() && multiple_of_16 % 16 == 0 && t.numel() > 0 &&
         (t.scalar_type() == at::kFloat || t.scalar_type() == at::kBFloat16);
}

// Calls f with pointers' element type: f(T*) with T = float or rows::Bf16.
template <class F>
void by_type(at::ScalarType dtype, const F& f) {
  if (dtype == at::kBFloat16) {
    f(static_cast<rows::Bf16*>(nullptr));
  } else {
    f(static_cast<float*>(nullptr));
  }
}
template <class T>
const T* in(const at::Tensor& t, T*) {
  return static_cast<const T*>(t.const_data_ptr());
}
template <class T>
T* out(const at::Tensor& t, T*) {
  return static_cast<T*>(t.mutable_data_ptr());
}

at::Tensor contiguous_f32(const at::Tensor& t) {
  return t.to(at::kFloat).contiguous();
}

rows::NormHeads norm_heads_args(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& table, double eps,
                                int64_t heads) {
  return {.weight = weight.const_data_ptr<float>(),
          .turns = table.defined() ? static_cast<const float*>(table.const_data_ptr()) : nullptr,
          .length = x.size(1),
          .width = x.size(2),
          .head_dim = x.size(2) / heads,
          .eps = static_cast<float>(eps)};
}

class NormHeads : public torch::autograd::Function<NormHeads> {
 public:
  static Variable forward(AutogradContext* ctx, const Variable& x, const Variable& weight, double eps, int64_t heads,
                          const std::optional<at::Tensor>& table) {  // a plain undefined tensor is refused by apply()
    const at::Tensor turns = table.value_or(at::Tensor());
    at::Tensor w = contiguous_f32(weight);
    ctx->save_for_backward({x, w, turns});
    ctx->saved_data["eps"] = eps;
    ctx->saved_data["heads"] = heads;
    return ops::prepare_heads(x, w, eps, heads, turns);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const at::Tensor& x = saved[0];
    const rows::NormHeads p =
        norm_heads_args(x, saved[1], saved[2], ctx->saved_data["eps"].toDouble(), ctx->saved_data["heads"].toInt());
    at::Tensor grad = grads[0].to(x.scalar_type()).contiguous();
    at::Tensor dx = at::empty_like(x);
    at::Tensor partials = at::zeros({kPartials, p.width}, at::kFloat);
    const int64_t count = x.size(0) * x.size(1);
    by_type(x.scalar_type(), [&](auto* type) {
      at::parallel_for(0, kPartials, 1, [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; ++i)
          rows::norm_heads_backward(p, in(x, type), in(grad, type), out(dx, type),
                                    partials.mutable_data_ptr<float>() + i * p.width, count * i / kPartials,
                                    count * (i + 1) / kPartials);
      });
    });
    return {dx, partials.sum(0), Variable(), Variable(), Variable()};
  }
};

// scale and shift of sample b: modulation [1 or B, 1, C].
const float* of_sample(const at::Tensor& modulation, int64_t b) {
  return modulation.const_data_ptr<float>() + (modulation.size(0) == 1 ? 0 : b * modulation.size(2));
}

// Sums of the row ranges [B, kPartials, C] as a gradient of the shape of `modulation`.
at::Tensor modulation_gradient(const at::Tensor& partials, const at::Tensor& modulation) {
  at::Tensor sums = partials.sum(1, /*keepdim=*/true);
  return modulation.size(0) == 1 ? sums.sum(0, /*keepdim=*/true) : sums;
}

at::Tensor modulated_norm_forward(const at::Tensor& x, const at::Tensor& scale, const at::Tensor& shift, double eps,
                                  at::ScalarType dtype) {
  at::Tensor result = at::empty(x.sizes(), x.options().dtype(dtype));
  const int64_t length = x.size(1);
  for (int64_t b = 0; b < x.size(0); ++b) {
    const rows::Modulate p{of_sample(scale, b), of_sample(shift, b), x.size(2), static_cast<float>(eps)};
    by_type(dtype, [&](auto* type) {
      at::parallel_for(b * length, (b + 1) * length, kGrain, [&](int64_t begin, int64_t end) {
        rows::modulate(p, x.const_data_ptr<float>(), out(result, type), begin, end);
      });
    });
  }
  return result;
}

class ModulatedNorm : public torch::autograd::Function<ModulatedNorm> {
 public:
  static Variable forward(AutogradContext* ctx, const Variable& x, const Variable& scale, const Variable& shift,
                          double eps, int64_t dtype) {
    ctx->save_for_backward({x, scale, shift});
    ctx->saved_data["eps"] = eps;
    return modulated_norm_forward(x, scale, shift, eps, static_cast<at::ScalarType>(dtype));
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const at::Tensor &x = saved[0], &scale = saved[1], &shift = saved[2];
    const auto eps = static_cast<float>(ctx->saved_data["eps"].toDouble());
    const int64_t batch = x.size(0), length = x.size(1), width = x.size(2);
    at::Tensor grad = grads[0].contiguous();
    at::Tensor dx = at::empty_like(x);
    at::Tensor partials = at::zeros({2, batch, kPartials, width}, at::kFloat);
    float* sums = partials.mutable_data_ptr<float>();
    by_type(grad.scalar_type(), [&](auto* type) {
      at::parallel_for(0, batch * kPartials, 1, [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; ++i) {
          const int64_t b = i / kPartials, part = i % kPartials;
          const rows::Modulate p{of_sample(scale, b), of_sample(shift, b), width, eps};
          rows::modulate_backward(p, x.const_data_ptr<float>(), in(grad, type), dx.mutable_data_ptr<float>(),
                                  sums + i * width, sums + (batch * kPartials + i) * width,
                                  b * length + length * part / kPartials, b * length + length * (part + 1) / kPartials);
        }
      });
    });
    return {dx, modulation_gradient(partials[0], scale), modulation_gradient(partials[1], shift), Variable(),
            Variable()};
  }
};

void add_gated_forward(const at::Tensor& x, const at::Tensor& y, const at::Tensor& gate, const at::Tensor& result) {
  const int64_t length = x.size(1);
  for (int64_t b = 0; b < x.size(0); ++b)
    by_type(y.scalar_type(), [&](auto* type) {
      at::parallel_for(b * length, (b + 1) * length, kGrain, [&](int64_t begin, int64_t end) {
        rows::add_gated(x.const_data_ptr<float>(), in(y, type), of_sample(gate, b), result.mutable_data_ptr<float>(),
                        x.size(2), begin, end);
      });
    });
}

class AddGated : public torch::autograd::Function<AddGated> {
 public:
  static Variable forward(AutogradContext* ctx, const Variable& x, const Variable& y, const Variable& gate) {
    ctx->save_for_backward({y, gate});
    at::Tensor result = at::empty_like(x);
    add_gated_forward(x, y, gate, result);
    return result;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const at::Tensor &y = saved[0], &gate = saved[1];
    const int64_t batch = y.size(0), length = y.size(1), width = y.size(2);
    at::Tensor grad = contiguous_f32(grads[0]);
    at::Tensor dy = at::empty_like(y);
    at::Tensor partials = at::zeros({batch, kPartials, width}, at::kFloat);
    by_type(y.scalar_type(), [&](auto* type) {
      at::parallel_for(0, batch * kPartials, 1, [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; ++i) {
          const int64_t b = i / kPartials, part = i % kPartials;
          rows::add_gated_backward(grad.const_data_ptr<float>(), in(y, type), of_sample(gate, b), out(dy, type),
                                   partials.mutable_data_ptr<float>() + i * width, width,
                                   b * length + length * part / kPartials,
                                   b * length + length * (part + 1) / kPartials);
        }
      });
    });
    return {grads[0], dy, modulation_gradient(partials, gate)};
  }
};

}  // namespace

at::Tensor norm_heads_composed(const at::Tensor& x, const at::Tensor& weight, double eps, int64_t heads,
                               const at::Tensor& table) {
  const at::ScalarType wide = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const int64_t batch = x.size(0), length = x.size(1), head_dim = x.size(2) / heads;
  at::Tensor f = x.to(wide);
  at::Tensor result = (f * at::rsqrt(f.square().mean(-1, /*keepdim=*/true) + eps)) * weight.to(wide);
  if (table.defined()) {
    at::Tensor pairs = at::view_as_complex(result.view({batch, length, heads, head_dim / 2, 2}));
    result = at::view_as_real(pairs * table);
  }
  return result.reshape({batch, length, heads, head_dim}).to(x.scalar_type());
}

at::Tensor norm_heads(const at::Tensor& x, const at::Tensor& weight, double eps, int64_t heads,
                      const at::Tensor& table) {
  const bool differentiating = c10::GradMode::is_enabled();
  // The backward needs whole vectors.
  if (!ops::preparable(x, heads) || (differentiating && !fusable(x, x.size(2) / heads)))
    return norm_heads_composed(x, weight, eps, heads, table);
  if (differentiating)
    return NormHeads::apply(x.contiguous(), weight, eps, heads, table.defined() ? std::optional(table) : std::nullopt);
  return ops::prepare_heads(x, weight, eps, heads, table);
}

at::Tensor modulated_norm_composed(const at::Tensor& x, const at::Tensor& scale, const at::Tensor& shift, double eps,
                                   at::ScalarType dtype) {
  return at::addcmul(shift, at::layer_norm(x, {x.size(-1)}, {}, {}, eps), scale).to(dtype);
}

at::Tensor modulated_norm(const at::Tensor& x, const at::Tensor& scale, const at::Tensor& shift, double eps,
                          at::ScalarType dtype) {
  const bool known = dtype == at::kFloat || dtype == at::kBFloat16;
  if (!fusable(x, x.size(2)) || x.scalar_type() != at::kFloat || !known)
    return modulated_norm_composed(x, scale, shift, eps, dtype);
  if (c10::GradMode::is_enabled())
    return ModulatedNorm::apply(x.contiguous(), scale.contiguous(), shift.contiguous(), eps,
                                static_cast<int64_t>(dtype));
  return modulated_norm_forward(x.contiguous(), scale.contiguous(), shift.contiguous(), eps, dtype);
}

at::Tensor add_residual(const at::Tensor& x, const at::Tensor& y, const at::Tensor& gate) {
  const bool differentiating = c10::GradMode::is_enabled();
  if (gate.defined() && x.scalar_type() == at::kFloat && fusable(y, y.size(2))) {
    if (differentiating) return AddGated::apply(x.contiguous(), y.contiguous(), gate.contiguous());
    add_gated_forward(x, y.contiguous(), gate.contiguous(), x);
    return x;
  }
  if (differentiating) return gate.defined() ? at::addcmul(x, y.to(x.scalar_type()), gate) : x + y;
  return gate.defined() ? x.addcmul_(y.to(x.scalar_type()), gate) : x.add_(y);
}

}  // namespace fpsa::models::wan
