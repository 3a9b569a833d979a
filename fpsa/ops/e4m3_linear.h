// A linear layer whose product takes E4M3 codes: the feed-forward of quantised training and of the models it makes.
#pragma once

#include <ATen/ATen.h>

#include <array>

namespace fpsa::ops {

/// The rows of a matrix as codes: real = code x scale.
struct CodedRows {
  at::Tensor values;  // the codes as numbers, in the matrix's dtype, which holds them exactly
  at::Tensor scale;   // [rows, 1] F32: absmax of the row / 448
};

/// One scale for each row.
///   Shapes    x [rows, in]; values [rows, in], scale [rows, 1]
///   Numerics  numeric/scales.h: code = E4M3(x / scale), saturating, nearest even. A row of zeros has scale 1; one
///             with NaN or infinity becomes NaN
///   Threads   at::parallel_for over rows
///   Errors    c10::Error: F32 or BF16 on the CPU, two dimensions
CodedRows e4m3_rows(const at::Tensor& x);

/// y = x W^T + b, the product on codes with a scale for each row of x (token) and of W (output channel).
///   Shapes    x [..., in]; weight [out, in]; bias [out] or undefined; y [..., out]
///   Layout    any strides; y contiguous
///   Numerics  F32 or BF16, y in x's dtype. The sum of products is rounded to x's dtype (exact codes, F32 sums), then
///             scaled and the bias added in F32, then rounded again
///   Autograd  straight through the casts: gradients are those of the linear layer at the quantised x and W,
///             d_x = d_y W^, d_W = d_y^T x^, d_b = sum d_y. Kept for the backward: the codes in one byte, the scales
///   Threads   at::parallel_for and torch's own
///   Errors    c10::Error names argument, expected, received
at::Tensor e4m3_linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);

/// e4m3_linear() in two halves, without autograd, for one that is recorded elsewhere.
struct CodedProduct {
  at::Tensor y;
  at::Tensor x_codes, x_scale;            // [rows, in] uint8; [rows, 1] F32
  at::Tensor weight_codes, weight_scale;  // [out, in] uint8; [out, 1] F32
};
/// bias may be undefined.
CodedProduct e4m3_product(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);

/// The gradients that are wanted, of x [rows, in] and weight in d_y's dtype, of the bias in F32; others are undefined.
///   Shapes    d_y [rows, out]; `forward` what e4m3_product() returned, y not needed
struct ProductGradients {
  at::Tensor x, weight, bias;
};
ProductGradients e4m3_product_backward(const at::Tensor& d_y, const CodedProduct& forward, std::array<bool, 3> wanted);

/// The same bits with a weight that was coded before, by e4m3_rows(): many products, one coding.
///   Errors    as above; inputs that need a gradient while they are enabled
at::Tensor e4m3_linear(const at::Tensor& x, const CodedRows& weight, const at::Tensor& bias);

}  // namespace fpsa::ops
