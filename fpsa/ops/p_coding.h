// E4M3 attention with other ways to code P than the kernels', made of torch's products: for studies of precision.
//
// The kernels know one scale of P (256) and walk the keys forward. What another choice would be worth is asked here,
// where speed does not matter. The definition is kernel/attention.h's, with `scale` in the place of 256.
#pragma once

#include <ATen/ATen.h>

#include "fpsa/ops/plan.h"

namespace fpsa::ops {

struct PCoding {
  double scale = 256;    // code = E4M3(scale * P): 256 is exact, 448 E4M3's largest value
  bool reverse = false;  // blocks of keys from the last to the first
  bool operator==(const PCoding&) const = default;
};

/// What attention() at precision kE4m3 computes, with that coding. Scale 256, forward, is attention() itself but for
/// rounding in F32.
///   Shapes    q, k, v, out [B,L,H,D], L = plan.tokens(), raster order; D a multiple of 8, 8 to 256
///   Numerics  blocks of 64 visible keys of a query tile under a running maximum; products and sums F32; out has q's
///             dtype
///   Edges     a query tile that sees nothing gives zeros
///   Errors    c10::Error: those of quantize_tokens, a scale outside (0, 448], and, as there are no gradients, an input
///             that requires them while they are enabled
at::Tensor attention_of_coding(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Plan& plan,
                               const PCoding& coding);

}  // namespace fpsa::ops
