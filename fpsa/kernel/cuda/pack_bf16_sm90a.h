// What one launch of pack_bf16_sm90a takes.
#pragma once

#include <cstdint>

#include "fpsa/kernel/cuda/ptx/platform.h"
#include "fpsa/kernel/cuda/tiling/fragments.h"

namespace fpsa::kernel::cuda::inline FPSA_TARGET {

inline constexpr int kPackThreads = 128;

/// Rows of BF16 in raster order become slots; slots without a token become zeros.
///   Shapes    from [B,L,H,D] or any other order, by strides; to [B,H,slots,D]; row_of_slot [slots], -1 for none, as
///             rows_of_slots() makes it
///   Layout    D of `from` contiguous, 64 or 128; strides in elements; every row of both at a multiple of 16 bytes
///   Requires  B x H x segments fewer than 2^31
///   Threads   each row is written once; nothing else is
struct PackBf16Params {
  const void* from = nullptr;
  int64_t batch_stride = 0, head_stride = 0, row_stride = 0;
  void* to = nullptr;
  const int32_t* row_of_slot = nullptr;
  int32_t batch = 0, heads = 0, segments = 0;
};
inline int64_t pack_blocks(const PackBf16Params& p) {
  return int64_t{p.batch} * p.heads * p.segments;
}

}  // namespace fpsa::kernel::cuda::inline FPSA_TARGET
