// The kernels that make what attention_bwd_bf16_sm90a reads, and their launches.
#include <algorithm>

#include "fpsa/kernel/cuda/attention_bwd_launch.h"
#include "fpsa/kernel/cuda/attention_bwd_prepare-inl.h"
#include "fpsa/kernel/cuda/launch_parts.h"

namespace fpsa::kernel::cuda {
inline namespace FPSA_TARGET {

template <int kDim, bool kCoded, ptx::Element kElement>
__global__ void __launch_bounds__(kPrepareThreads)
    attention_bwd_prepare_kernel(const __grid_constant__ AttentionBwdPrepareParams p) {
  attention_bwd_prepare<kDim, kCoded, kElement>(p);
}
template <int kDim>
__global__ void __launch_bounds__(kPrepareThreads)
    attention_bwd_expand_kernel(const __grid_constant__ AttentionBwdExpandParams p) {
  attention_bwd_expand<kDim>(p);
}

}  // namespace FPSA_TARGET
namespace {

// As many blocks as fill the device a few times over, a warp for each segment at most.
int64_t prepare_blocks(int64_t segments) {
  constexpr int64_t kWarps = kPrepareThreads / 32, kBlocksEach = 16;
  return std::min((segments + kWarps - 1) / kWarps, multiprocessors() * kBlocksEach);
}

}  // namespace

void start_attention_bwd_prepare(const AttentionBwdPrepareParams& params, int64_t dim, bool coded, bool f16,
                                 void* stream) {
  const int64_t blocks = prepare_blocks(int64_t{params.batch} * params.heads * params.segments);
  // Every instantiation, in one list; codes have BF16 operands.
#define FPSA_CASE(dim_, coded_, f16_)                                                                            \
  if (dim == dim_ && coded == coded_ && f16 == f16_)                                                             \
  return start(attention_bwd_prepare_kernel<dim_, coded_, f16_ ? ptx::Element::kF16 : ptx::Element::kBf16>,     \
               "attention_bwd_prepare", blocks, kPrepareThreads, 0, params, stream)
  FPSA_CASE(128, false, false);
  FPSA_CASE(128, false, true);
  FPSA_CASE(128, true, false);
  FPSA_CASE(64, false, false);
  FPSA_CASE(64, false, true);
  FPSA_CASE(64, true, false);
#undef FPSA_CASE
}

void launch_expand_codes(const ExpandCodesLaunch& launch, void* stream) {
  FPSA_CHECK(launch.dim == 64 || launch.dim == 128, "head_dim: expected 64 or 128, got ", launch.dim);
  if (launch.segments == 0) return;
  check_alignment({launch.codes, launch.values});
  const AttentionBwdExpandParams params{static_cast<const uint8_t*>(launch.codes),
                                        static_cast<uint16_t*>(launch.values), launch.segments, launch.of_values};
  start(launch.dim == 128 ? attention_bwd_expand_kernel<128> : attention_bwd_expand_kernel<64>, "expand_codes",
        prepare_blocks(launch.segments), kPrepareThreads, 0, params, stream);
}

}  // namespace fpsa::kernel::cuda
