#include "fpsa/kernel/smoothing.h"

#include <cassert>

#include "fpsa/numeric/bf16.h"

namespace fpsa::kernel {
namespace {

constexpr int64_t kMaxDim = 256;

// Calls fn(position, x) with every row's elements in F32.
template <class Function>
void for_each_row(const QuantizeInput& in, const Function& fn) {
  assert(in.dim % 8 == 0 && in.dim >= 8 && in.dim <= kMaxDim);
  float wide[kMaxDim];
  for (int64_t i = 0; i < in.rows; ++i) {
    const int64_t at = (in.x.index ? in.x.index[i] : i) * in.x.stride;
    if (in.dtype == Dtype::kF32) {
      fn(i, static_cast<const float*>(in.x.data) + at);
    } else {
      numeric::f32_from_bf16(static_cast<const uint16_t*>(in.x.data) + at, wide, in.dim);
      fn(i, wide);
    }
  }
}

}  // namespace

void key_means(const QuantizeInput& in, float* mean) noexcept {
  double sum[kMaxDim] = {}, part[kMaxDim] = {};
  for_each_row(in, [&](int64_t i, const float* x) {
    for (int64_t d = 0; d < in.dim; ++d)
      part[d] += x[d];
    if ((i + 1) % kMeanRows != 0 && i + 1 != in.rows) return;
    for (int64_t d = 0; d < in.dim; ++d)
      sum[d] += part[d], part[d] = 0;
  });
  for (int64_t d = 0; d < in.dim; ++d)
    mean[d] = in.rows == 0 ? 0.0f : static_cast<float>(sum[d] / static_cast<double>(in.rows));
}

void lse_shift(const QuantizeInput& q, const float* mean, float softmax_scale, float* shift) noexcept {
  for_each_row(q, [&](int64_t i, const float* x) {
    double dot = 0;
    for (int64_t d = 0; d < q.dim; ++d)
      dot += static_cast<double>(x[d]) * mean[d];
    shift[i] = static_cast<float>(softmax_scale * dot);
  });
}

}  // namespace fpsa::kernel
