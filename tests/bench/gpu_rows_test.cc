// The rows that a GPU's results are held against, on operands that the CPU packed: they are the CPU kernels' rows.
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "fpsa/bench/gpu_rows.h"
#include "fpsa/kernel/cuda/tiling/pack.h"
#include "fpsa/ops/attention.h"
#include "fpsa/ops/quantize.h"

namespace fpsa::bench {
namespace {

namespace cuda = kernel::cuda;

// What the device would pack of [1,L,H,D] inputs.
ops::CudaPacked packed_by_cpu(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const ops::Plan& plan,
                              bool coded) {
  const cuda::SegmentLayout layout(plan.order().tile_begin());
  const int64_t heads = q.size(2), dim = q.size(3), slots = layout.slots(), tokens = plan.tokens();
  ops::CudaPacked packed;
  if (!coded) {
    std::vector<int32_t> rows(static_cast<size_t>(slots));
    cuda::rows_of_slots(layout, plan.order().to_raster(), rows.data());
    const auto index = at::tensor(at::ArrayRef<int32_t>(rows)).to(at::kLong);
    const auto slotted = [&](const at::Tensor& x) {
      return (x.transpose(1, 2).index_select(2, index.clamp_min(0)) * (index >= 0).unsqueeze(1)).to(at::kBFloat16);
    };
    packed.q = slotted(q), packed.k = slotted(k), packed.v = slotted(v);
    return packed;
  }
  const auto bytes = [&] { return at::empty({1, heads, slots, dim}, at::kByte); };
  const auto by_rows = [&](const at::Tensor& x, at::Tensor& codes, at::Tensor& scale) {
    const auto made = ops::quantize_tokens(x, plan);
    codes = bytes();
    scale = at::empty({1, heads, slots}, at::kFloat);
    for (int64_t h = 0; h < heads; ++h) {
      cuda::pack_codes(layout, made.codes.const_data_ptr<uint8_t>() + h * tokens * dim, dim,
                       codes.mutable_data_ptr<uint8_t>() + h * slots * dim);
      cuda::pack_scales(layout, made.token_scale.const_data_ptr<float>() + h * tokens,
                        scale.mutable_data_ptr<float>() + h * slots);
    }
  };
  by_rows(q, packed.q, packed.q_scale);
  by_rows(k, packed.k, packed.k_scale);
  const auto values = ops::quantize_channels(v, plan);
  packed.v = bytes();
  packed.v_scale = values.scales;
  for (int64_t h = 0; h < heads; ++h)
    cuda::pack_values(layout, values.codes.const_data_ptr<uint8_t>() + h * tokens * dim, dim,
                      packed.v.mutable_data_ptr<uint8_t>() + h * slots * dim);
  return packed;
}

TEST(GpuRows, AreTheRowsOfTheCpusKernels) {
  const at::NoGradGuard no_gradients;
  at::manual_seed(1);
  for (const bool coded : {false, true})
    for (const int64_t dim : {64, 128}) {
      const auto plan = ops::plan_for({3, 7, 18}, {2, 4, 8}, {1, 2, 4}, "sta", {2, 1, 2});
      const auto input = [&] { return at::randn({1, plan->tokens(), 2, dim}).to(at::kBFloat16); };
      const auto q = input(), k = input(), v = input();
      ops::AttentionOptions options;
      options.precision = coded ? ops::Precision::kE4m3 : ops::Precision::kNone;
      auto out = ops::attention(q, k, v, *plan, options).out;
      const auto packed = packed_by_cpu(q, k, v, *plan, coded);
      const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
      EXPECT_LE(row_error(packed, *plan, scale, out), coded ? kCodedRowLimit : kBf16RowLimit);
      // A row that is another's is noticed.
      out.select(1, 0).copy_(out.select(1, plan->tokens() / 2).clone());
      EXPECT_GT(row_error(packed, *plan, scale, out), kCodedRowLimit);
    }
}

}  // namespace
}  // namespace fpsa::bench
