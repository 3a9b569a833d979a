// Contract of the pre-pass of quantised attention, for every implementation in reference/ and cpu/: from the rows of
// the projections to codes in tile order, RMSNorm and RoPE done on the way.
//
// Q and K take two steps over the same rows: absmax, then codes. Both compute the normed and rotated values anew,
// since that costs less than writing them out; called one after the other on rows that a cache holds (the runs of one
// group), they read Q and K from memory once. V's scales span the sequence, so V is read twice.
#pragma once

#include <cstdint>

#include "fpsa/kernel/attention.h"

namespace fpsa::kernel {

/// One sample's rows with all heads side by side, as a projection writes them. The row at position i has the raster
/// index r = x.index ? x.index[i] : i.
struct PrepassInput {
  RowsView x;                 // [rows, heads*dim] f32 or bf16
  Dtype dtype = Dtype::kF32;  // kF32 or kBf16
  int64_t rows = 0, heads = 0, dim = 0;
  const float* weight = nullptr;  // [heads*dim] of the RMSNorm, or null: no norm
  float eps = 0;
  const float* turns = nullptr;  // [raster rows, dim] cos, sin, cos, sin ... of each pair's angle, or null: none
  const float* mean = nullptr;   // [heads*dim], subtracted before the codes (smoothing.h), or null: nothing is
};

/// Normalises, rotates, quantises to 8-bit codes. Q and K: `absmax` over the runs of a group, `scale` of its largest,
/// `codes`. V: `channel_absmax` over all rows, `scale` of each channel's largest, `channel_codes`. Attention without
/// codes: `prepare`.
///   Shapes    absmax, scale [heads]; inverse_rms [rows]; codes [heads, rows, dim]; token_scale [heads, rows];
///             channel_absmax, channel_scale [heads*dim]; prepared [rows, heads*dim]; dim a multiple of 8, 8 to 256
///   Layout    outputs contiguous, rows by position; no alignment
///   Units     real = code x scale; scale = absmax / 448 (E4M3) or absmax / 127 (INT8)
///   Requires  0 <= begin < end <= rows; codes() after absmax() of the same positions, with its inverse_rms; the
///             channel functions ignore weight, turns and mean, prepare() ignores mean
///   Edges     as in quantize.h: absmax 0 gives scale 1; NaN and infinity reach the scale; a scale is at least 2^-126
///   Numerics  F32, every product and sum rounded alone (no contraction):
///               s[j] = the sum of x[i]^2 over the row's i = j mod 32, ascending, for j < 32;
///               u[j] = s[2j] + s[2j+1]; v[j] = u[j] + u[j+8]; w[j] = v[j] + v[j+4]; sum = (w0 + w1) + (w2 + w3);
///               r = 1 / sqrt(sum / width + eps); y = (x * r) * weight;
///               pairs: (y0 * cos - y1 * sin, y1 * cos + y0 * sin); rounded to nearest even to x's dtype;
///               mean subtracted in F32; scale and code of that value as in quantize.h.
///             So the codes are those of quantising what prepare() writes. Exact: every entry makes the same bits, but
///             for the payload of a NaN
///   Threads   absmax and codes of disjoint rows may run at the same time; each writes its outputs only
///   Errors    checked by ops; kernels are noexcept
struct Prepass {
  /// Rows [begin, end), normed and rotated, in x's dtype, at their positions.
  void (*prepare)(const PrepassInput& in, int64_t begin, int64_t end, void* prepared) noexcept;
  /// absmax[h] of the prepared rows [begin, end) less the mean, and inverse_rms of these rows (1 without a norm).
  void (*absmax)(const PrepassInput& in, int64_t begin, int64_t end, float* inverse_rms, float* absmax) noexcept;
  /// The scale of a group or channel with this absmax.
  float (*scale)(float absmax) noexcept;
  /// Codes of rows [begin, end), which share scale[h]; token_scale of these rows unless null.
  void (*codes)(const PrepassInput& in, int64_t begin, int64_t end, const float* inverse_rms, const float* scale,
                uint8_t* codes, float* token_scale) noexcept;
  /// Raises channel_absmax to the magnitudes of rows [begin, end); it starts as zeros.
  void (*channel_absmax)(const PrepassInput& in, int64_t begin, int64_t end, float* channel_absmax) noexcept;
  void (*channel_codes)(const PrepassInput& in, int64_t begin, int64_t end, const float* channel_scale,
                        uint8_t* codes) noexcept;
};

}  // namespace fpsa::kernel
