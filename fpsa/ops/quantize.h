// E4M3 quantisation of torch tensors into tile order.
#pragma once

#include <ATen/ATen.h>

#include "fpsa/ops/plan.h"

namespace fpsa::ops {

/// Codes in tile order and their scales; real = code x scale.
struct Quantized {
  at::Tensor codes;        // [B,H,L,D] uint8, contiguous, tile order
  at::Tensor scales;       // by token groups: [B,H,groups]; by channels: [B,H,D]; F32
  at::Tensor token_scale;  // [B,H,L] F32, tile order; by token groups only
};

/// One scale per (batch, head, group of the plan's granularity): Q and K.
///   Shapes    x [B,L,H,D] (or [B,H,L,D]), raster order, F32 or BF16; D a multiple of 8, 8 to 256
///   Numerics  kernel/quantize.h; exact, the same on every machine and for any number of threads
///   Errors    c10::Error names argument, expected, received
Quantized quantize_tokens(const at::Tensor& x, const Plan& plan, bool heads_first = false);

/// One scale per (batch, head, channel) over the sequence: V.
Quantized quantize_channels(const at::Tensor& x, const Plan& plan, bool heads_first = false);

}  // namespace fpsa::ops
