#include "fpsa/accel/torch_dense.h"

namespace fpsa::accel {

at::Tensor torch_dense(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const std::string& why,
                       Explain& entry) {
  entry.method = entry.pattern = "dense";
  entry.granularity = "-";
  entry.density = 1;
  entry.kernel = "scaled_dot_product_attention";
  entry.isa = "torch";
  entry.coder.clear();
  entry.reason = "dense by torch, since " + why;
  const auto heads_first = [](const at::Tensor& x) { return x.transpose(1, 2); };
  return heads_first(at::scaled_dot_product_attention(heads_first(q), heads_first(k), heads_first(v)));
}

}  // namespace fpsa::accel
