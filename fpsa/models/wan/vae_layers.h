// Layers of Wan's causal VAE, in a form that runs a whole sequence or one chunk of it.
//
// A causal layer needs the frames before its input. In a whole-sequence call those are zeros. In a chunked call
// a TimeCache carries them from chunk to chunk: every layer owns one slot, taken in call order. The first chunk
// is one frame long, and the temporal resampling layers treat that frame apart:
//   down   frame 0 passes unchanged; output j >= 1 convolves frames 2j-2, 2j-1, 2j
//   up     frame 0 passes unchanged and is not seen by the convolution, for which the sequence begins at frame 1
//          (with zeros in front); each later frame becomes two
// so the whole-sequence result equals the chunked one.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "fpsa/nn/parameters.h"

namespace fpsa::models::wan {

/// The last frames each causal layer has seen, for one video processed in chunks.
class TimeCache {
 public:
  /// Call before each chunk; layers then take their slots in order.
  void begin_chunk();
  /// Whether this is the chunk that holds frame 0 alone.
  bool first_chunk() const { return chunks_ == 1; }
  /// This layer's slot: undefined until the layer stores into it.
  at::Tensor& next_slot();

 private:
  std::vector<at::Tensor> slots_;
  size_t next_ = 0;
  int64_t chunks_ = 0;
};

/// Convolution [kt,k,k] that sees the present and the past: out frame t reads frames t-kt+1 .. t.
struct CausalConv3d {
  CausalConv3d() = default;
  CausalConv3d(const nn::Scope& scope, int64_t in, int64_t out, int64_t kernel_time, int64_t kernel_space,
               int64_t stride_time = 1);
  /// x [B,C,T,Y,X] with the past already in front. With fewer than kt frames the missing ones count as zeros.
  at::Tensor operator()(const at::Tensor& x) const;

  at::Tensor weight, bias;
  int64_t stride_time = 1;
};

/// conv_in: puts the past in front of x and convolves.
at::Tensor causal(const CausalConv3d& conv, const at::Tensor& x, TimeCache* cache);

/// RMS norm over channels, SiLU, causal convolution.
struct NormActConv {
  NormActConv() = default;
  NormActConv(const nn::Scope& norm, const nn::Scope& conv, int64_t in, int64_t out);
  at::Tensor operator()(const at::Tensor& x, TimeCache* cache) const;

  at::Tensor gamma;
  CausalConv3d conv;
};

/// x (or its 1x1x1 projection) + two NormActConv.
struct VaeResidual {
  VaeResidual(const nn::Scope& scope, int64_t in, int64_t out);
  at::Tensor operator()(const at::Tensor& x, TimeCache* cache) const;

  NormActConv first, second;
  std::optional<CausalConv3d> shortcut;
};

/// x + projection of single-head attention among the tokens of each frame.
struct VaeAttention {
  VaeAttention(const nn::Scope& scope, int64_t channels);
  at::Tensor operator()(const at::Tensor& x) const;

  at::Tensor gamma, qkv_weight, qkv_bias, proj_weight, proj_bias;
};

/// Residual, attention, residual.
struct VaeMiddle {
  VaeMiddle(const nn::Scope& scope, int64_t channels);
  at::Tensor operator()(const at::Tensor& x, TimeCache* cache) const;

  VaeResidual before;
  VaeAttention attention;
  VaeResidual after;
};

/// Halves Y and X (stride-2 convolution), and T where `time` is set.
struct VaeDown {
  VaeDown(const nn::Scope& scope, int64_t channels, bool time);
  at::Tensor operator()(const at::Tensor& x, TimeCache* cache) const;

  at::Tensor weight, bias;
  std::optional<CausalConv3d> time_conv;
};

/// Doubles Y and X (nearest, then a convolution that halves the channels), after doubling T where `time` is set.
struct VaeUp {
  VaeUp(const nn::Scope& scope, int64_t channels, bool time);
  at::Tensor operator()(const at::Tensor& x, TimeCache* cache) const;

  at::Tensor weight, bias;
  std::optional<CausalConv3d> time_conv;
};

/// 1x1x1 convolution as a matrix product over the channels of each token.
at::Tensor pointwise(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);

}  // namespace fpsa::models::wan
