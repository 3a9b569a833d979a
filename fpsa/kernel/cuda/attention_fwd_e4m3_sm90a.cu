// The instantiations of attention_fwd_e4m3_sm90a for the device.
#include "fpsa/kernel/cuda/attention_fwd_e4m3_sm90a-inl.h"

namespace fpsa::kernel::cuda::inline FPSA_TARGET {

template <AttentionTiling kTiling>
__global__ void __launch_bounds__(kThreads, 1) attention_fwd_e4m3_kernel(const __grid_constant__ AttentionFwdParams p) {
  attention_fwd_e4m3_sm90a<kTiling>(p);
}

#define FPSA_INSTANTIATE(dim, columns, exact) \
  template __global__ void attention_fwd_e4m3_kernel<choose_tiling(dim, columns, exact)>(const __grid_constant__ AttentionFwdParams)
FPSA_INSTANTIATE(128, false, false);
FPSA_INSTANTIATE(128, true, false);
FPSA_INSTANTIATE(128, false, true);
FPSA_INSTANTIATE(128, true, true);
FPSA_INSTANTIATE(64, false, false);
FPSA_INSTANTIATE(64, true, false);
FPSA_INSTANTIATE(64, false, true);
FPSA_INSTANTIATE(64, true, true);

}  // namespace fpsa::kernel::cuda::inline FPSA_TARGET
