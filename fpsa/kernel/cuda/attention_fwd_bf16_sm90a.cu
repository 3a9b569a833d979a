// The instantiations of attention_fwd_bf16_sm90a for the device, and their launch.
#include <algorithm>

#include "fpsa/kernel/cuda/attention_fwd_bf16_sm90a-inl.h"
#include "fpsa/kernel/cuda/launch_parts.h"

namespace fpsa::kernel::cuda {
inline namespace FPSA_TARGET {

// nvcc 13.0 makes host code that does not compile of a kernel whose template parameter is a class.
template <int kDim, ptx::Element kElement, int kCluster>
__global__ void __launch_bounds__(kThreads, 1) attention_fwd_bf16_kernel(const __grid_constant__ AttentionParams p) {
  attention_fwd_bf16_sm90a<choose_bf16_tiling(kDim, kCluster), kElement>(p);
}

}  // namespace FPSA_TARGET
namespace {

template <int kDim, ptx::Element kElement>
void dispatch(int cluster, int64_t items, const AttentionParams& params, void* stream) {
  constexpr const char* kName =
      kElement == ptx::Element::kF16 ? "attention_fwd_f16_sm90a" : "attention_fwd_bf16_sm90a";
  constexpr uint32_t kBytes = shared_map(choose_bf16_tiling(kDim)).bytes;
  // Every instantiation.
  if (cluster == 2)
    start_clusters(attention_fwd_bf16_kernel<kDim, kElement, 2>, kName, items, 2, kThreads, kBytes, params, stream);
  else
    start(attention_fwd_bf16_kernel<kDim, kElement, 1>, kName, std::min<int64_t>(multiprocessors(), items), kThreads,
          kBytes, params, stream);
}

}  // namespace

void launch_attention_fwd_bf16(const AttentionFwdLaunch& launch, void* stream) {
  FPSA_CHECK(!launch.q_scale && !launch.k_scale && !launch.v_scale && !launch.column_scales && !launch.exact,
             "attention_fwd_bf16: expected neither scales nor the exact output, which are of E4M3");
  const int64_t items = checked_items(launch);
  if (items == 0) return;
  check_device();
  AttentionParams params;
  fill(params, launch,
       attention_bf16_maps(launch.q, launch.k, launch.v, static_cast<int>(launch.dim), launch.batch * launch.heads,
                           launch.query_segments, launch.key_segments));
  const int cluster = choose_cluster(launch.item_count, launch.paired);
  using enum ptx::Element;
  if (launch.dim == 128)
    launch.f16 ? dispatch<128, kF16>(cluster, items, params, stream)
               : dispatch<128, kBf16>(cluster, items, params, stream);
  else
    launch.f16 ? dispatch<64, kF16>(cluster, items, params, stream)
               : dispatch<64, kBf16>(cluster, items, params, stream);
}

}  // namespace fpsa::kernel::cuda
