// Row loops of dit_fused: plain C++ over 16-float vectors, one clone per ISA chosen at load time.
//
// All rows are contiguous with `width` values, a multiple of 16. "Adds" means that the caller zeroes the sums.
#pragma once

#include <cstdint>

#include "fpsa/models/wan/bf16_bits.h"

namespace fpsa::models::wan::rows {

/// What ops::prepare_heads() computes: RMSNorm of whole rows, times weight [width], then in every head of `head_dim`
/// (a multiple of 16) the rotation of neighbouring pairs by `turns`: cos, sin, cos, sin ... [length, head_dim], row r
/// of x using row r % length; null: none.
struct NormHeads {
  const float* weight;
  const float* turns;
  int64_t length, width, head_dim;
  float eps;
};
/// dx of rows [begin, end) and adds their share to dweight [width].
void norm_heads_backward(const NormHeads& p, const float* x, const float* grad, float* dx, float* dweight,
                         int64_t begin, int64_t end) noexcept;
void norm_heads_backward(const NormHeads& p, const Bf16* x, const Bf16* grad, Bf16* dx, float* dweight, int64_t begin,
                         int64_t end) noexcept;

/// LayerNorm of rows, times scale [width], plus shift [width].
struct Modulate {
  const float* scale;
  const float* shift;
  int64_t width;
  float eps;
};
void modulate(const Modulate& p, const float* x, float* out, int64_t begin, int64_t end) noexcept;
void modulate(const Modulate& p, const float* x, Bf16* out, int64_t begin, int64_t end) noexcept;
/// dx, and adds to dscale, dshift [width].
void modulate_backward(const Modulate& p, const float* x, const float* grad, float* dx, float* dscale, float* dshift,
                       int64_t begin, int64_t end) noexcept;
void modulate_backward(const Modulate& p, const float* x, const Bf16* grad, float* dx, float* dscale, float* dshift,
                       int64_t begin, int64_t end) noexcept;

/// out = x + y * gate [width]; out may be x.
void add_gated(const float* x, const float* y, const float* gate, float* out, int64_t width, int64_t begin,
               int64_t end) noexcept;
void add_gated(const float* x, const Bf16* y, const float* gate, float* out, int64_t width, int64_t begin,
               int64_t end) noexcept;
/// dy = grad * gate, and adds grad * y to dgate [width].
void add_gated_backward(const float* grad, const float* y, const float* gate, float* dy, float* dgate, int64_t width,
                        int64_t begin, int64_t end) noexcept;
void add_gated_backward(const float* grad, const Bf16* y, const float* gate, Bf16* dy, float* dgate, int64_t width,
                        int64_t begin, int64_t end) noexcept;

}  // namespace fpsa::models::wan::rows
