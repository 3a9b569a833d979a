// Dense self-attention, the baseline of every method.
#include "fpsa/accel/recorder.h"
#include "fpsa/accel/torch_dense.h"
#include "fpsa/ops/attention_grad.h"
#include "fpsa/ops/composed.h"
#include "fpsa/ops/cuda_attention.h"
#include "fpsa/ops/views.h"

namespace fpsa::accel {
namespace {

class Dense : public RecordingMethod {
 protected:
  at::Tensor compute(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const nn::AttentionContext&,
                     Explain& entry) override {
    const bool gradients = ops::gradients_wanted({q, k, v});
    if (q.device().is_cuda() && q.dim() == 4) {
      const ops::CudaRequest request{q.scalar_type(), q.size(3), ops::Precision::kNone};
      if (const auto refusal = ops::cuda_refusal(q, request); !refusal.empty())
        return torch_dense(q, k, v, refusal, entry);
    }
    entry.method = entry.pattern = "dense";
    entry.granularity = '-';
    if (gradients && q.scalar_type() == at::kDouble) {
      entry.kernel = "composed_attention";
      entry.isa = "torch";
      entry.reason = "dense under gradients in float64";
      return ops::composed_attention(q, k, v);
    }
    const auto result = gradients ? ops::differentiable_dense_attention(q, k, v) : ops::dense_attention(q, k, v);
    entry.kernel = result.kernel;
    entry.isa = result.isa_name;
    entry.reason = "dense at every step";
    return result.out;
  }
};

}  // namespace

std::unique_ptr<Method> make_dense() {
  return std::make_unique<Dense>();
}

}  // namespace fpsa::accel
