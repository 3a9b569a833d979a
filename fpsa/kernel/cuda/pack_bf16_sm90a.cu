// The instantiations of pack_bf16_sm90a for the device, and their launch.
#include "fpsa/kernel/cuda/launch_parts.h"
#include "fpsa/kernel/cuda/pack_bf16_sm90a-inl.h"

namespace fpsa::kernel::cuda {
inline namespace FPSA_TARGET {

template <int kDim>
__global__ void __launch_bounds__(kPackThreads) pack_bf16_kernel(const __grid_constant__ PackBf16Params p) {
  pack_bf16_sm90a<kDim>(p);
}

}  // namespace FPSA_TARGET

void launch_pack_bf16(const PackBf16Launch& launch, void* stream) {
  FPSA_CHECK(launch.dim == 64 || launch.dim == 128, "head_dim: expected 64 or 128, got ", launch.dim);
  const int64_t blocks = launch.batch * launch.heads * launch.segments;
  if (blocks == 0) return;
  FPSA_CHECK(blocks <= std::numeric_limits<int32_t>::max(), "batch: its heads have ", blocks,
             " segments, expected at most 2^31 - 1; split it");
  for (const int64_t stride : {launch.batch_stride, launch.head_stride, launch.row_stride})
    FPSA_CHECK(stride % 8 == 0, "pack: expected strides that are multiples of 16 bytes, got ", stride * 2,
               "; copy it to rows that are, or pass 0 along a dimension of one");
  check_alignment({launch.from, launch.to});
  multiprocessors();  // refuses other devices
  PackBf16Params params;
  params.from = launch.from;
  params.batch_stride = launch.batch_stride;
  params.head_stride = launch.head_stride;
  params.row_stride = launch.row_stride;
  params.to = launch.to;
  params.row_of_slot = launch.row_of_slot;
  params.batch = static_cast<int32_t>(launch.batch);
  params.heads = static_cast<int32_t>(launch.heads);
  params.segments = static_cast<int32_t>(launch.segments);
  if (launch.dim == 128)
    start(pack_bf16_kernel<128>, "pack_bf16_sm90a", blocks, kPackThreads, 0, params, stream);
  else
    start(pack_bf16_kernel<64>, "pack_bf16_sm90a", blocks, kPackThreads, 0, params, stream);
}

}  // namespace fpsa::kernel::cuda
