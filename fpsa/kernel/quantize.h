// Contract of the E4M3 and INT8 quantisation of one head, for every implementation in reference/ and cpu/.
#pragma once

#include <cstdint>

#include "fpsa/kernel/attention.h"

namespace fpsa::kernel {

/// One head's rows, by position (tile order).
struct QuantizeInput {
  RowsView x;                 // f32 or bf16
  Dtype dtype = Dtype::kF32;  // kF32 or kBf16
  int64_t rows = 0, dim = 0;
  const float* mean = nullptr;  // [D], subtracted from every row first; null: nothing is. See smoothing.h
};

/// Quantises to codes and scales.
///   Shapes    tokens: codes [rows,D], group_scale [groups], token_scale [rows] or null, group_of_row [rows];
///             channels: codes [rows,D], channel_scale [D]; D a multiple of 8, 8 to 256
///   Layout    codes are uint8_t or, for int8 entries, int8_t; contiguous, by position; input through RowsView
///   Units     real = code x scale; scale = absmax / 448 (e4m3) or absmax / 127 (int8) of the group (tokens) or of
///             the column (channels)
///   Requires  0 <= group_of_row[i] < groups
///   Edges     absmax 0 gives scale 1; a group without rows likewise; NaN or infinity makes its group's scale NaN
///             or infinite, so that code x scale is NaN (int8 codes of the group are 0); a scale below 2^-126 becomes
///             2^-126
///   Numerics  e4m3: code = E4M3(x / scale), the division rounded to F32, then nearest even, saturating. int8: the same
///             quotient to the nearest integer, ties to even, in [-127, 127]. x - mean is rounded to F32. Exact: every
///             entry makes the same bits
///   Threads   writes its outputs only
///   Errors    checked by ops; kernels are noexcept
struct Quantize {
  void (*tokens)(const QuantizeInput& in, const int32_t* group_of_row, int64_t groups, uint8_t* codes,
                 float* group_scale, float* token_scale) noexcept;
  void (*channels)(const QuantizeInput& in, uint8_t* codes, float* channel_scale) noexcept;
};

}  // namespace fpsa::kernel
