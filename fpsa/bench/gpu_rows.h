// Some rows of the right answer on the codes that a device made, by torch's matrix products in F64.
#pragma once

#include <ATen/ATen.h>

#include "fpsa/ops/cuda_steps.h"
#include "fpsa/ops/plan.h"

namespace fpsa::bench {

/// Both sides round P to the same codes but for scores beside a border, and the output to BF16 (2^-9); the tensor core adds
/// up a block of keys with 14 bits. As of the bench on CPUs, twice over.
inline constexpr double kRowLimit = 0.0142;

/// Relative L2 distance of 24 rows of head 0 of `out` from attention on the codes: the first, middle and last in tile order.
///   Shapes    codes as the kernels have them; out [1,L,H,D] of any float type; all on one device, any
///   Numerics  P is rounded to E4M3 codes as kernel/attention.h says
double row_error(const ops::CudaCodes& codes, const ops::Plan& plan, float softmax_scale, const at::Tensor& out);

}  // namespace fpsa::bench
