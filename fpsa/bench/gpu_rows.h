// Some rows of the right answer on what a device packed, by torch's matrix products in F64.
#pragma once

#include <ATen/ATen.h>

#include "fpsa/ops/cuda_steps.h"
#include "fpsa/ops/plan.h"

namespace fpsa::bench {

/// With codes: both sides round P to the same ones but for scores beside a border (a step of 2^-4 for at most every
/// hundredth), and the kernel rounds its output to BF16. Without: it rounds P and the output to BF16, 2^-9 each, and a
/// factor 2.
inline constexpr double kCodedRowLimit = 0.0142, kBf16RowLimit = 0.0079;

/// Relative L2 distance of 24 rows of head 0 of `out` from attention on what is packed: the first, middle and last
/// in tile order.
///   Shapes    packed as the kernels have it, with scales or without; out [1,L,H,D] of any float type; all on one device,
///             any
///   Numerics  with codes P is rounded to E4M3 as kernel/attention.h says, without not at all
double row_error(const ops::CudaPacked& packed, const ops::Plan& plan, float softmax_scale, const at::Tensor& out);

}  // namespace fpsa::bench
