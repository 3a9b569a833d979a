// Query tile by query tile, as flash attention does it. Where all heads share a mask they go through together.
#include "fpsa/ops/p_coding.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "fpsa/ops/quantize.h"
#include "fpsa/ops/views.h"

namespace fpsa::ops {
namespace {

constexpr int64_t kBlockKeys = 64;    // the CPU kernels'
constexpr double kLowest = -0x1p100;  // first running maximum: below any score, and differences stay finite

at::Tensor values_of(const at::Tensor& codes) {
  return codes.view(at::kFloat8_e4m3fn).to(at::kFloat);
}

// Positions in tile order that a query tile sees.
at::Tensor visible_keys(const Plan& plan, int64_t head, int64_t row) {
  std::vector<int64_t> positions;
  for (const int32_t tile : plan.mask().visible(head, row))
    for (int32_t i = plan.order().tile_begin(tile); i < plan.order().tile_begin(tile + 1); ++i)
      positions.push_back(i);
  return at::tensor(positions, at::kLong);
}

// One query tile of some heads: q [B,h,rows,D], q_factor [B,h,rows,1], k, v [B,h,keys,D], k_scale [B,h,1,keys].
at::Tensor rows_of(const at::Tensor& q, const at::Tensor& q_factor, const at::Tensor& k, const at::Tensor& k_scale,
                   const at::Tensor& v, const PCoding& coding) {
  at::Tensor m = at::full_like(q_factor, kLowest), sum = at::zeros_like(q_factor), out = at::zeros_like(q);
  const int64_t keys = k.size(2), blocks = (keys + kBlockKeys - 1) / kBlockKeys;
  for (int64_t i = 0; i < blocks; ++i) {
    const int64_t begin = (coding.reverse ? blocks - 1 - i : i) * kBlockKeys,
                  count = std::min(kBlockKeys, keys - begin);
    const at::Tensor s =
        at::matmul(q, k.narrow(2, begin, count).transpose(2, 3)).mul_(q_factor).mul_(k_scale.narrow(3, begin, count));
    const at::Tensor raised = at::maximum(m, s.amax(-1, /*keepdim=*/true)).ceil_();
    const at::Tensor rescale = at::exp2(m - raised), p = at::exp2(s - raised);
    const at::Tensor coded = (p * coding.scale).to(at::kFloat8_e4m3fn).to(at::kFloat);
    sum.mul_(rescale).add_(p.sum(-1, /*keepdim=*/true));
    out.mul_(rescale).add_(at::matmul(coded, v.narrow(2, begin, count)));
    m = raised;
  }
  return keys > 0 ? out / (sum * coding.scale) : out;
}

}  // namespace

at::Tensor attention_of_coding(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Plan& plan,
                               const PCoding& coding) {
  TORCH_CHECK(coding.scale > 0 && coding.scale <= 448,
              "attention_of_coding: expected a scale of P in (0, 448], received ", coding.scale,
              "; codes beyond E4M3's largest value do not exist");
  TORCH_CHECK(!gradients_wanted({q, k, v}), "attention_of_coding: expected inputs without gradients; call ",
              "differentiable_attention");
  check_tokens(q, "attention_of_coding", "q", /*heads_first=*/false);
  const Quantized qc = quantize_tokens(q, plan), kc = quantize_tokens(k, plan), vc = quantize_channels(v, plan);
  TORCH_CHECK(kc.codes.sizes() == qc.codes.sizes() && vc.codes.sizes() == qc.codes.sizes(),
              "attention_of_coding: expected q, k and v of one shape, received ", q.sizes(), ", ", k.sizes(), " and ",
              v.sizes());
  const double to_log2 = std::numbers::log2e / std::sqrt(static_cast<double>(q.size(3)));
  const at::Tensor q_values = values_of(qc.codes), k_values = values_of(kc.codes), v_values = values_of(vc.codes);
  const at::Tensor q_factor = (qc.token_scale * to_log2).unsqueeze(-1), k_scale = kc.token_scale.unsqueeze(2);
  at::Tensor out = at::empty_like(q_values);
  const auto& mask = plan.mask();
  const int64_t shared = mask.shared ? q_values.size(1) : 1;  // heads that go through together
  for (int64_t head = 0; head < q_values.size(1); head += shared)
    for (int64_t row = 0; row < mask.rows; ++row) {
      const int64_t begin = plan.order().tile_begin(row), count = plan.order().tile_tokens(row);
      const at::Tensor keys = visible_keys(plan, head, row);
      const auto rows = [&](const at::Tensor& x) { return x.narrow(1, head, shared).narrow(2, begin, count); };
      const auto seen = [&](const at::Tensor& x, int64_t dim) {
        return x.narrow(1, head, shared).index_select(dim, keys);
      };
      rows(out).copy_(
          rows_of(rows(q_values), rows(q_factor), seen(k_values, 2), seen(k_scale, 3), seen(v_values, 2), coding));
    }
  out.mul_(vc.scales.unsqueeze(2));
  const auto& back = plan.order().from_raster();
  const at::Tensor raster = at::tensor(at::ArrayRef<int32_t>(back)).to(at::kLong);
  return out.index_select(2, raster).transpose(1, 2).to(q.scalar_type(), /*non_blocking=*/false, /*copy=*/false,
                                                        at::MemoryFormat::Contiguous);
}

}  // namespace fpsa::ops
