// Composed attention: for every head, for every block of query rows, S = q k^T, P = softmax(S), out = P v, and in
// the backward the same again followed by the four gradient products. The block of rows keeps S in the L2 cache.
// The forward leaves all this to the forward kernel where that one serves.
#include "fpsa/ops/composed.h"

#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>

#include "fpsa/ops/attention.h"
#include "fpsa/ops/fork.h"

namespace fpsa::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

// Scores of one block stay near this many elements: 1 MiB in BF16, about one L2 cache.
constexpr int64_t kScoreElems = 512 * 1024;

int64_t rows_per_block(int64_t keys) {
  const int64_t rows = kScoreElems / std::max<int64_t>(keys, 1);
  return std::clamp<int64_t>(rows / 32 * 32, 64, 1024);
}

// One head of one batch entry, contiguous, masked keys left out.
struct Head {
  at::Tensor q, k, v;
};

at::Tensor head_of(const at::Tensor& x, int64_t b, int64_t h) {
  return x.select(0, b).select(1, h);
}

at::Tensor visible_keys(const std::optional<at::Tensor>& key_mask, int64_t b) {
  return key_mask ? key_mask->select(0, b).nonzero().squeeze(1) : at::Tensor();
}

Head load_head(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& keys, int64_t b,
               int64_t h, double scale) {
  Head head{head_of(q, b, h) * scale, head_of(k, b, h), head_of(v, b, h)};
  if (keys.defined()) {
    head.k = head.k.index_select(0, keys);
    head.v = head.v.index_select(0, keys);
  }
  head.q = head.q.contiguous();
  head.k = head.k.contiguous();
  head.v = head.v.contiguous();
  return head;
}

void forward_head(const Head& head, at::Tensor out) {
  const int64_t queries = head.q.size(0), keys = head.k.size(0);
  const int64_t block = rows_per_block(keys);
  const auto kt = head.k.t();
  auto scores = at::empty({std::min(block, queries), keys}, head.q.options());
  auto probs = at::empty_like(scores);
  for (int64_t begin = 0; begin < queries; begin += block) {
    const int64_t rows = std::min(block, queries - begin);
    auto s = scores.narrow(0, 0, rows), p = probs.narrow(0, 0, rows);
    at::mm_out(s, head.q.narrow(0, begin, rows), kt);
    at::_softmax_out(p, s, -1, false);
    out.narrow(0, begin, rows).copy_(at::mm(p, head.v));
  }
}

struct HeadGrads {
  at::Tensor q;     // in q's dtype, without the softmax scale
  at::Tensor k, v;  // F32, F64 for F64 inputs
};

HeadGrads backward_head(const Head& head, const at::Tensor& grad_out) {
  const int64_t queries = head.q.size(0), keys = head.k.size(0), dim = head.q.size(1);
  const int64_t block = rows_per_block(keys);
  const auto kt = head.k.t(), vt = head.v.t();
  const auto wide = head.q.options().dtype(head.q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat);
  HeadGrads grads{at::empty({queries, dim}, head.q.options()), at::zeros({keys, dim}, wide),
                  at::zeros({keys, dim}, wide)};
  auto scores = at::empty({std::min(block, queries), keys}, head.q.options());
  auto probs = at::empty_like(scores);
  for (int64_t begin = 0; begin < queries; begin += block) {
    const int64_t rows = std::min(block, queries - begin);
    auto s = scores.narrow(0, 0, rows), p = probs.narrow(0, 0, rows);
    const auto q = head.q.narrow(0, begin, rows), g = grad_out.narrow(0, begin, rows);
    at::mm_out(s, q, kt);
    at::_softmax_out(p, s, -1, false);
    grads.v.add_(at::mm(p.t(), g));
    at::mm_out(s, g, vt);  // dP
    // dS = P (dP - sum(P dP)): the row sum comes from the same rounded P, so rows of dS add up to zero.
    at::_softmax_backward_data_out(s, s, p, -1, s.scalar_type());
    grads.q.narrow(0, begin, rows).copy_(at::mm(s, head.k));
    grads.k.add_(at::mm(s.t(), q));
  }
  return grads;
}

bool kernel_serves(const at::Tensor& q) {
  return q.scalar_type() != at::kDouble && q.device().is_cpu() && q.size(3) % 8 == 0 && q.size(3) > 0 &&
         q.size(3) <= 256;
}

class ComposedAttention : public torch::autograd::Function<ComposedAttention> {
 public:
  static Variable forward(AutogradContext* context, const Variable& q, const Variable& k, const Variable& v,
                          const std::optional<at::Tensor>& key_mask, double scale) {
    context->save_for_backward({q, k, v, key_mask.value_or(at::Tensor())});
    context->saved_data["scale"] = scale;
    if (!key_mask && kernel_serves(q)) {
      AttentionOptions options;
      options.scale = scale;
      return dense_attention(q, k, v, options).out;
    }
    const int64_t heads = q.size(2);
    auto out = at::zeros(q.sizes(), q.options());
    parallel_for(0, q.size(0) * heads, 1, [&](int64_t begin, int64_t end) {
      at::NoGradGuard no_grad;
      at::AutoDispatchBelowADInplaceOrView below_autograd;
      for (int64_t i = begin; i < end; ++i) {
        const int64_t b = i / heads, h = i % heads;
        const Head head = load_head(q, k, v, visible_keys(key_mask, b), b, h, scale);
        if (head.k.size(0) > 0) forward_head(head, head_of(out, b, h));
      }
    });
    return out;
  }

  static variable_list backward(AutogradContext* context, variable_list grad_outputs) {
    const auto saved = context->get_saved_variables();
    const auto &q = saved[0], &k = saved[1], &v = saved[2];
    const std::optional<at::Tensor> key_mask = saved[3].defined() ? std::optional(saved[3]) : std::nullopt;
    const double scale = context->saved_data["scale"].toDouble();
    const auto& grad_out = grad_outputs[0];
    const int64_t heads = q.size(2);
    auto grad_q = at::zeros(q.sizes(), q.options()), grad_k = at::zeros(k.sizes(), k.options());
    auto grad_v = at::zeros(v.sizes(), v.options());
    parallel_for(0, q.size(0) * heads, 1, [&](int64_t begin, int64_t end) {
      at::NoGradGuard no_grad;
      at::AutoDispatchBelowADInplaceOrView below_autograd;
      for (int64_t i = begin; i < end; ++i) {
        const int64_t b = i / heads, h = i % heads;
        const auto keys = visible_keys(key_mask, b);
        const Head head = load_head(q, k, v, keys, b, h, scale);
        if (head.k.size(0) == 0) continue;
        const auto grads = backward_head(head, head_of(grad_out, b, h).contiguous());
        head_of(grad_q, b, h).copy_(grads.q * scale);
        store_key_grads(head_of(grad_k, b, h), grads.k, keys);
        store_key_grads(head_of(grad_v, b, h), grads.v, keys);
      }
    });
    return {grad_q, grad_k, grad_v, Variable(), Variable()};
  }

 private:
  static void store_key_grads(at::Tensor into, const at::Tensor& grad, const at::Tensor& keys) {
    if (keys.defined())
      into.index_copy_(0, keys, grad.to(into.scalar_type()));
    else
      into.copy_(grad);
  }
};

void check_inputs(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                  const std::optional<at::Tensor>& key_mask) {
  TORCH_CHECK_VALUE(q.dim() == 4, "composed_attention: q must be [B,Lq,H,D], got ", q.sizes());
  const auto dtype = q.scalar_type();
  TORCH_CHECK_TYPE(dtype == at::kFloat || dtype == at::kBFloat16 || dtype == at::kDouble,
                   "composed_attention: q must be float32, bfloat16 or float64, got ", dtype,
                   "; cast q, k and v first");
  for (const auto& [name, x] : {std::pair("k", &k), std::pair("v", &v)}) {
    TORCH_CHECK_VALUE(x->dim() == 4 && x->size(0) == q.size(0) && x->size(2) == q.size(2) && x->size(3) == q.size(3),
                      "composed_attention: ", name, " must be [B,Lk,H,D] with the B, H, D of q ", q.sizes(), ", got ",
                      x->sizes());
    TORCH_CHECK_TYPE(x->scalar_type() == dtype, "composed_attention: ", name, " must have q's dtype ", dtype, ", got ",
                     x->scalar_type());
  }
  TORCH_CHECK_VALUE(k.size(1) == v.size(1), "composed_attention: k and v must have the same Lk, got ", k.size(1),
                    " and ", v.size(1));
  if (key_mask) {
    TORCH_CHECK_VALUE(key_mask->scalar_type() == at::kBool && key_mask->dim() == 2 && key_mask->size(0) == k.size(0) &&
                          key_mask->size(1) == k.size(1),
                      "composed_attention: key_mask must be bool [B,Lk] = [", k.size(0), ", ", k.size(1), "], got ",
                      key_mask->scalar_type(), " ", key_mask->sizes());
  }
}

}  // namespace

at::Tensor composed_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                              const std::optional<at::Tensor>& key_mask, std::optional<double> scale) {
  check_inputs(q, k, v, key_mask);
  const double used = scale.value_or(1.0 / std::sqrt(static_cast<double>(std::max<int64_t>(q.size(3), 1))));
  return ComposedAttention::apply(q, k, v, key_mask, used);
}

}  // namespace fpsa::ops
