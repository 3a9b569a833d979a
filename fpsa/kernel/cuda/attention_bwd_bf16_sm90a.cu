// The instantiations of attention_bwd_bf16_sm90a for the device.
#include "fpsa/kernel/cuda/attention_bwd_bf16_sm90a-inl.h"

namespace fpsa::kernel::cuda {
inline namespace FPSA_TARGET {

// nvcc 13.0 makes host code that does not compile of a kernel whose template parameter is a class.
template <int kDim, bool kOfKeys, bool kCoded>
__global__ void __launch_bounds__(kThreads, 1) attention_bwd_bf16_kernel(const __grid_constant__ AttentionBwdParams p) {
  attention_bwd_bf16_sm90a<choose_bwd_tiling(kDim, kOfKeys, kCoded)>(p);
}
template __global__ void attention_bwd_bf16_kernel<128, true, false>(const __grid_constant__ AttentionBwdParams);
template __global__ void attention_bwd_bf16_kernel<128, false, false>(const __grid_constant__ AttentionBwdParams);
template __global__ void attention_bwd_bf16_kernel<128, true, true>(const __grid_constant__ AttentionBwdParams);
template __global__ void attention_bwd_bf16_kernel<128, false, true>(const __grid_constant__ AttentionBwdParams);
template __global__ void attention_bwd_bf16_kernel<64, true, false>(const __grid_constant__ AttentionBwdParams);
template __global__ void attention_bwd_bf16_kernel<64, false, false>(const __grid_constant__ AttentionBwdParams);
template __global__ void attention_bwd_bf16_kernel<64, true, true>(const __grid_constant__ AttentionBwdParams);
template __global__ void attention_bwd_bf16_kernel<64, false, true>(const __grid_constant__ AttentionBwdParams);
}
}
