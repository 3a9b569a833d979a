// Dense self-attention, the baseline of every method.
#include "fpsa/accel/recorder.h"
#include "fpsa/kernel/table.h"
#include "fpsa/ops/attention_grad.h"
#include "fpsa/ops/composed.h"
#include "fpsa/ops/views.h"

namespace fpsa::accel {
namespace {

class Dense : public RecordingMethod {
 protected:
  at::Tensor compute(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const nn::AttentionContext&,
                     Explain& entry) override {
    entry.method = entry.pattern = "dense";
    entry.granularity = '-';
    const bool gradients = ops::gradients_wanted({q, k, v});
    if (gradients && q.scalar_type() == at::kDouble) {
      entry.kernel = "composed_attention";
      entry.isa = "torch";
      entry.reason = "dense under gradients in float64";
      return ops::composed_attention(q, k, v);
    }
    const auto result = gradients ? ops::differentiable_dense_attention(q, k, v) : ops::dense_attention(q, k, v);
    entry.kernel = result.kernel;
    entry.isa = kernel::isa_name(result.isa);
    entry.reason = "dense at every step";
    return result.out;
  }
};

}  // namespace

std::unique_ptr<Method> make_dense() {
  return std::make_unique<Dense>();
}

}  // namespace fpsa::accel
