// K smoothing: softmax does not change when a vector is subtracted from all keys of a row, so the part that the keys
// have in common need not be quantised. It often is most of their magnitude.
//
// Quantise K with QuantizeInput::mean = key_means(K). The scores of query i then lack softmax_scale * q_i . mean, and
// so does its LSE; row_max is that of the shifted scores.
#pragma once

#include "fpsa/kernel/quantize.h"

namespace fpsa::kernel {

/// Rows, by position, whose sum is taken before it is added to that of the rows before them.
inline constexpr int64_t kMeanRows = 256;

/// The mean over the rows of every channel.
///   Shapes    mean [D]; in.mean is not used
///   Edges     no rows give 0; a channel that holds NaN or infinity has a mean that is NaN or infinite, so that the
///             quantised keys are NaN, all of them
///   Numerics  sums in F64 of kMeanRows rows, by rising position, and the sum of these, rounded to F32 once
///   Threads   writes its output only
void key_means(const QuantizeInput& in, float* mean) noexcept;

/// softmax_scale * q_i . mean, what is to be added to the LSE of row i.
///   Shapes    mean [D]; shift [rows] by position; q.mean is not used
///   Numerics  F64, rounded to F32 once
///   Threads   writes its output only
void lse_shift(const QuantizeInput& q, const float* mean, float softmax_scale, float* shift) noexcept;

}  // namespace fpsa::kernel
