// Composed form and autograd of rms_norm_act; the loops are in vae_norm_rows.cc.
//
// The backward recomputes the normalised value from x, so that training keeps x (the convolution's output) and
// the result (which the next convolution keeps anyway) and nothing else.
#include "fpsa/models/wan/vae_norm.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "fpsa/base/check.h"
#include "fpsa/models/wan/vae_norm_rows.h"

namespace fpsa::models::wan {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

constexpr auto kChannelsLast = at::MemoryFormat::ChannelsLast3d;
constexpr int64_t kGrain = 512;    // tokens per task: about 32 kB at 16 channels
constexpr int64_t kPartials = 64;  // partial sums of gamma's gradient, a fixed number for fixed bytes

struct Extent {
  int64_t batch, channels, tokens;  // tokens of one video
  explicit Extent(const at::Tensor& x)
      : batch(x.size(0)), channels(x.size(1)), tokens(x.size(2) * x.size(3) * x.size(4)) {}
};

template <class T>
void forward_typed(const at::Tensor& x, const float* gamma, bool silu, int64_t pad_tokens, at::Tensor& out) {
  Extent e(x);
  const T* in = static_cast<const T*>(x.const_data_ptr());
  T* to = static_cast<T*>(out.mutable_data_ptr());
  for (int64_t b = 0; b < e.batch; ++b) {
    const T* in_b = in + b * e.tokens * e.channels;
    T* to_b = to + (b * (e.tokens + pad_tokens) + pad_tokens) * e.channels;
    at::parallel_for(0, e.tokens, kGrain, [&](int64_t begin, int64_t end) {
      norm_act_rows(in_b + begin * e.channels, gamma, to_b + begin * e.channels, end - begin, e.channels, silu);
    });
  }
}

template <class T>
void backward_typed(const at::Tensor& x, const float* gamma, bool silu, const at::Tensor& grad, int64_t pad_tokens,
                    at::Tensor& grad_x, at::Tensor& partials) {
  Extent e(x);
  const T* in = static_cast<const T*>(x.const_data_ptr());
  const T* g = static_cast<const T*>(grad.const_data_ptr());
  T* to = static_cast<T*>(grad_x.mutable_data_ptr());
  float* sums = partials.mutable_data_ptr<float>();
  at::parallel_for(0, kPartials, 1, [&](int64_t first, int64_t last) {
    std::vector<float> scratch(static_cast<size_t>(e.channels + 15));
    for (int64_t p = first; p < last; ++p) {
      for (int64_t b = 0; b < e.batch; ++b) {
        int64_t begin = e.tokens * p / kPartials, end = e.tokens * (p + 1) / kPartials;
        int64_t at = (b * e.tokens + begin) * e.channels;
        int64_t at_grad = (b * (e.tokens + pad_tokens) + pad_tokens + begin) * e.channels;
        norm_act_rows_backward(in + at, gamma, g + at_grad, to + at, sums + p * e.channels, scratch.data(), end - begin,
                               e.channels, silu);
      }
    }
  });
}

at::Tensor padded_output(const at::Tensor& x, int64_t pad_frames, const at::Tensor& front) {
  at::Tensor out =
      at::empty({x.size(0), x.size(1), x.size(2) + pad_frames, x.size(3), x.size(4)}, x.options(), kChannelsLast);
  if (pad_frames > 0) {
    at::Tensor head = out.narrow(2, 0, pad_frames);
    if (front.defined()) {
      head.copy_(front);
    } else {
      head.zero_();
    }
  }
  return out;
}

at::Tensor forward_fused(const at::Tensor& x, const at::Tensor& gamma, bool silu, int64_t pad_frames,
                         const at::Tensor& front) {
  at::Tensor g = gamma.to(at::kFloat).contiguous();
  at::Tensor out = padded_output(x, pad_frames, front);
  int64_t pad_tokens = pad_frames * x.size(3) * x.size(4);
  if (x.scalar_type() == at::kFloat) {
    forward_typed<float>(x, g.const_data_ptr<float>(), silu, pad_tokens, out);
  } else {
    forward_typed<rows::Bf16>(x, g.const_data_ptr<float>(), silu, pad_tokens, out);
  }
  return out;
}

class RmsNormAct : public torch::autograd::Function<RmsNormAct> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& gamma, bool silu,
                            int64_t pad_frames) {
    context->save_for_backward({x, gamma});
    context->saved_data["silu"] = silu;
    context->saved_data["pad_frames"] = pad_frames;
    return forward_fused(x, gamma, silu, pad_frames, {});
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    variable_list saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &gamma = saved[1];
    bool silu = context->saved_data["silu"].toBool();
    int64_t pad_frames = context->saved_data["pad_frames"].toInt();
    at::Tensor grad = grads[0].to(x.scalar_type()).contiguous(kChannelsLast);
    at::Tensor g = gamma.to(at::kFloat).contiguous();
    at::Tensor grad_x = at::empty(x.sizes(), x.options(), kChannelsLast);
    at::Tensor partials = at::zeros({kPartials, x.size(1)}, x.options().dtype(at::kFloat));
    int64_t pad_tokens = pad_frames * x.size(3) * x.size(4);
    if (x.scalar_type() == at::kFloat) {
      backward_typed<float>(x, g.const_data_ptr<float>(), silu, grad, pad_tokens, grad_x, partials);
    } else {
      backward_typed<rows::Bf16>(x, g.const_data_ptr<float>(), silu, grad, pad_tokens, grad_x, partials);
    }
    at::Tensor grad_gamma = partials.sum(0).to(gamma.scalar_type()).view(gamma.sizes());
    return {grad_x, grad_gamma, Variable(), Variable()};
  }
};

}  // namespace

at::Tensor rms_norm_act_composed(const at::Tensor& x, const at::Tensor& gamma, bool silu, int64_t pad_frames,
                                 const at::Tensor& front) {
  at::Tensor norm = at::linalg_vector_norm(x, 2, at::IntArrayRef{1}, /*keepdim=*/true).clamp_min(1e-12);
  at::Tensor y =
      x / norm * std::sqrt(static_cast<double>(x.size(1))) * gamma.to(x.scalar_type()).view({1, -1, 1, 1, 1});
  if (silu) y = at::silu(y);
  if (pad_frames == 0) return y;
  return at::cat({front.defined() ? front : at::zeros_like(y.narrow(2, 0, 1)).expand({-1, -1, pad_frames, -1, -1}), y},
                 2);
}

at::Tensor rms_norm_act(const at::Tensor& x, const at::Tensor& gamma, bool silu, int64_t pad_frames,
                        const at::Tensor& front) {
  FPSA_CHECK(x.dim() == 5 && gamma.numel() == x.size(1),
             "rms_norm_act: expected x [B,C,T,Y,X] and gamma with C values, received x ", x.sizes(), " and gamma ",
             gamma.sizes());
  FPSA_CHECK(!front.defined() || front.size(2) == pad_frames, "rms_norm_act: front must have ", pad_frames,
             " frames, received ", front.defined() ? front.size(2) : 0);
  bool fused = x.device().is_cpu() && (x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16);
  if (!fused) return rms_norm_act_composed(x, gamma, silu, pad_frames, front);
  at::Tensor in = x.contiguous(kChannelsLast);
  bool needs_grad = at::GradMode::is_enabled() && (x.requires_grad() || gamma.requires_grad());
  if (!needs_grad) return forward_fused(in, gamma, silu, pad_frames, front);
  FPSA_CHECK(!front.defined(),
             "rms_norm_act: frames in front carry no gradient; use the whole-sequence forward in training");
  return RmsNormAct::apply(in, gamma, silu, pad_frames);
}

}  // namespace fpsa::models::wan
