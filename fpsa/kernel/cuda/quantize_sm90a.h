// What the kernels of quantize_sm90a take. quantize_launch.h has shapes, layout and numerics.
#pragma once

#include <cstdint>

#include "fpsa/kernel/cuda/tiling/quantize_tiling.h"

namespace fpsa::kernel::cuda::inline FPSA_TARGET {

/// [B,L,H,D] of BF16; strides in elements.
struct Projection {
  const uint16_t* data = nullptr;
  int64_t batch_stride = 0, row_stride = 0, head_stride = 0;
};

/// Q or K. Any number of blocks of quantize_warps() + kOtherQuantizeWarps warps, with the shared memory of
/// quantize_map().
///   Requires  magnitudes, complete and ticket zero; batch x tasks fewer than 2^31
struct QuantizeRowsParams {
  Projection x;
  const float *weight = nullptr, *turns = nullptr;
  float eps = 0;
  QuantizePlanView plan = {};
  int32_t slots = 0, groups = 0, units = 0, batch = 0, heads = 0;
  uint8_t* codes = nullptr;
  float* scale = nullptr;
  uint32_t* magnitudes = nullptr;  // [B,groups,H]: the largest so far, as bits
  float* inverse_rms = nullptr;    // [B,slots]
  uint32_t* complete = nullptr;    // [B,units]: quads whose magnitudes are in
  uint32_t* ticket = nullptr;      // the next task that nobody has taken
};

/// V. Two kernels of blocks of kValueThreads: magnitudes, column_chunks x row_chunks for each sample, and codes,
/// column_blocks x segment_chunks.
///   Requires  magnitudes zero before the first kernel, the second after it
struct QuantizeValuesParams {
  Projection x;
  const int32_t* row_of_slot = nullptr;
  int32_t slots = 0, tokens = 0, batch = 0, heads = 0;
  ValueTiling tiling = {};
  uint8_t* codes = nullptr;
  float* scale = nullptr;
  uint32_t* magnitudes = nullptr;  // [B,H,D]
};

}  // namespace fpsa::kernel::cuda::inline FPSA_TARGET
