// RMS normalisation over channels, SiLU and the causal frames in front, in one pass over memory.
//
// Every residual layer of the VAE does the three in a row; at 16 channels they would cost as much as the
// convolution if each were its own pass. The layout is channels_last_3d (memory [B,T,Y,X,C]), so one token's
// channels are contiguous and frames in front are one block copy.
#pragma once

#include <ATen/ATen.h>

namespace fpsa::models::wan {

/// out = [front | act(x / max(|x|_2, 1e-12) * sqrt(C) * gamma)], the norm over channels, act = SiLU or identity.
///   Shapes    x [B,C,T,Y,X]; gamma C elements, any shape; front [B,C,P,Y,X] or undefined; out [B,C,P+T,Y,X]
///   Layout    out is channels_last_3d; x is converted when it is not
///   Requires  front, where defined, in x's dtype, P == pad_frames; otherwise pad_frames zero frames are written
///   Numerics  F32 and BF16 on the CPU: statistics and activation in F32, one rounding at the end; other dtypes
///             and devices by composed torch operators in x's dtype
///   Threads   at::parallel_for over tokens; the bytes do not depend on the number of threads, gradients included
///   Edges     differentiable in x and gamma, not in front
at::Tensor rms_norm_act(const at::Tensor& x, const at::Tensor& gamma, bool silu, int64_t pad_frames = 0,
                        const at::Tensor& front = {});

/// The same by torch operators, any dtype: the specification, and what F64 gradient checks use.
at::Tensor rms_norm_act_composed(const at::Tensor& x, const at::Tensor& gamma, bool silu, int64_t pad_frames,
                                 const at::Tensor& front);

}  // namespace fpsa::models::wan
