// The instantiations of attention_fwd_bf16_sm90a for the device, and their launch.
#include <algorithm>

#include "fpsa/kernel/cuda/attention_fwd_bf16_sm90a-inl.h"
#include "fpsa/kernel/cuda/launch_parts.h"

namespace fpsa::kernel::cuda {
inline namespace FPSA_TARGET {

// nvcc 13.0 makes host code that does not compile of a kernel whose template parameter is a class.
template <int kDim, ptx::Element kElement>
__global__ void __launch_bounds__(kThreads, 1) attention_fwd_bf16_kernel(const __grid_constant__ AttentionParams p) {
  attention_fwd_bf16_sm90a<choose_bf16_tiling(kDim), kElement>(p);
}

}  // namespace FPSA_TARGET

void launch_attention_fwd_bf16(const AttentionFwdLaunch& launch, void* stream) {
  FPSA_CHECK(!launch.q_scale && !launch.k_scale && !launch.v_scale && !launch.column_scales && !launch.exact,
             "attention_fwd_bf16: expected neither scales nor the exact output, which are of E4M3");
  const int64_t items = checked_items(launch);
  if (items == 0) return;
  const int64_t blocks = std::min<int64_t>(multiprocessors(), items);
  AttentionParams params;
  fill(params, launch,
       attention_bf16_maps(launch.q, launch.k, launch.v, static_cast<int>(launch.dim), launch.batch * launch.heads,
                           launch.query_segments, launch.key_segments));
  // Every instantiation.
  using enum ptx::Element;
  const auto start_with = [&](auto* kernel) {
    start(kernel, launch.f16 ? "attention_fwd_f16_sm90a" : "attention_fwd_bf16_sm90a", blocks, kThreads,
          shared_map(choose_bf16_tiling(static_cast<int>(launch.dim))).bytes, params, stream);
  };
  if (launch.dim == 128)
    launch.f16 ? start_with(attention_fwd_bf16_kernel<128, kF16>) : start_with(attention_fwd_bf16_kernel<128, kBf16>);
  else
    launch.f16 ? start_with(attention_fwd_bf16_kernel<64, kF16>) : start_with(attention_fwd_bf16_kernel<64, kBf16>);
}

}  // namespace fpsa::kernel::cuda
