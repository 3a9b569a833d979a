// The Wan2.1 video transformer: latents, a timestep and text states in, a flow velocity out.
//
// Patches of the latents become tokens (raster order over T, Y, X). Every layer is self-attention with 3-D rotary
// embedding, cross-attention to the text and a tanh-GELU feed-forward; the timestep enters as shift, scale and gate
// of the first and the last (adaptive LayerNorm). Names of the tensors are diffusers' (WanTransformer3DModel).
//
// Precision: the projections, attention and the feed-forward run in the compute dtype. The residual stream, all
// norms, the modulation, the time embedding and the head are F32, as in the original Wan code.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <vector>

#include "fpsa/models/wan/dit_config.h"
#include "fpsa/models/wan/rope.h"
#include "fpsa/nn/denoiser.h"
#include "fpsa/nn/layers.h"
#include "fpsa/nn/parameters.h"

namespace fpsa::models::wan {

/// What a caller may ask of one forward beyond the prediction.
struct DitOptions {
  RopeStretch rope_stretch;
  int64_t tap_layer = -1;  // layer whose output states are returned as well; -1: none
  // [B, Lt] F32: how many equal text rows each row stands for; undefined: one each. All rows after a prompt are zero
  // and give one key, so training passes the prompt and one zero row instead of 512 rows, with the same result. Without
  // it a forward without autograd merges the zero rows of its input itself.
  at::Tensor text_multiplicity;
};

struct DitOutput {
  at::Tensor velocity;  // [B, C, T, H, W], F32
  at::Tensor tap;       // [B, L, dim] F32: states after `tap_layer`, or undefined
};

/// The denoiser.
class WanDit : public nn::Denoiser {
 public:
  /// Asks for every tensor under `scope`. Training initialisation is the original Wan's: Xavier for the projections,
  /// standard deviation 0.02 in the text and time embedders, zero in the head.
  WanDit(const DitConfig& config, const nn::Scope& scope);

  /// Flow velocity.
  ///   Shapes    latents [B, C, T, H, W], T, H, W multiples of the patch; timestep [B]; text [B, Lt, text_dim];
  ///             out [B, C_out, T, H, W] F32
  ///   Units     timestep in [0, 1000]; samples of one batch may differ in it
  ///   Edges     rows of zeros in the text are attended, as Wan was trained; without autograd those after the longest
  ///             prompt of a batch are computed as one key, which weighs as much as they do, where that halves the rows
  ///   Numerics  see the head of this file; F32 compute matches diffusers within tolerance::kModelF32
  ///   Autograd  differentiable in the weights, the latents and the text
  ///   Errors    fpsa::Error on a wrong shape or dtype, or a grid axis beyond rope_max_seq_len
  at::Tensor predict(const nn::DenoiserInput& input, nn::AttentionMethod& attention) override;
  /// predict with options.
  DitOutput forward(const nn::DenoiserInput& input, nn::AttentionMethod& attention, const DitOptions& options);

  /// Dtype of activations: by default that of the projection weights. Training with F32 weights may ask for BF16.
  void set_compute_dtype(at::ScalarType dtype);
  at::ScalarType compute_dtype() const { return compute_dtype_; }
  /// Whether the feed-forward multiplies E4M3 codes (ops/e4m3_linear.h), as in a model that was trained so. Off at
  /// first.
  ///   Errors    at the next forward in F64, which has no codes
  void set_e4m3_feed_forward(bool on) { e4m3_feed_forward_ = on; }
  /// Factors on the positions of predict(): on a grid larger than the model was trained for, 1/2 on an axis of twice
  /// the tokens keeps their positions in the range that it knows (position interpolation). 1 at first.
  void set_rope_stretch(const RopeStretch& stretch) { predict_stretch_ = stretch; }
  /// Whether a differentiating forward keeps only each layer's input and runs the layer again in the backward: about
  /// one forward more of time, and the activations of one layer at a time in memory. Off at first.
  ///   Requires  that this model, its settings and the attention method last unchanged until the backward has run;
  ///             the method is called a second time for every layer, with the same context
  ///   Numerics  the outputs and gradients without it, to the bit
  void set_gradient_checkpointing(bool on) { gradient_checkpointing_ = on; }
  const DitConfig& config() const { return config_; }

 private:
  struct Attention {
    nn::Linear q, k, v, out;
    at::Tensor norm_q, norm_k;  // [dim]
  };
  struct Layer {
    Attention self, cross;
    nn::Linear up, down;
    at::Tensor cross_norm_weight, cross_norm_bias;  // [dim], undefined without cross_attn_norm
    at::Tensor modulation;                          // [1, 6, dim]
  };
  struct Conditions;  // what all layers share in one forward

  Attention make_attention(const nn::Scope& scope) const;
  void check_input(const nn::DenoiserInput& input) const;
  at::Tensor time_states(const at::Tensor& timestep) const;
  at::Tensor patchify(const at::Tensor& latents) const;
  at::Tensor unpatchify(const at::Tensor& tokens, const at::Tensor& latents) const;
  at::Tensor run_layer(const Layer& layer, at::Tensor x, const Conditions& conditions, nn::AttentionMethod& attention,
                       const nn::AttentionContext& context) const;
  at::Tensor differentiable_layer(const Layer& layer, const at::Tensor& x, const Conditions& conditions,
                                  nn::AttentionMethod& attention, const nn::AttentionContext& context) const;
  static std::vector<at::Tensor> parameters_of(const Layer& layer);
  at::Tensor feed_forward(const Layer& layer, const at::Tensor& x) const;
  const at::Tensor& rope(pattern::Grid grid, const RopeStretch& stretch);

  DitConfig config_;
  at::ScalarType compute_dtype_ = at::kFloat;
  bool e4m3_feed_forward_ = false, gradient_checkpointing_ = false;
  RopeStretch predict_stretch_;
  at::Tensor patch_weight_, patch_bias_;
  nn::Linear time_in_, time_out_, time_proj_, text_in_, text_out_, head_;
  std::vector<Layer> layers_;
  at::Tensor head_modulation_;  // [1, 2, dim]

  // The table of the last grid: every step of a run asks for the same one.
  pattern::Grid rope_grid_{0, 0, 0};
  RopeStretch rope_stretch_;
  at::Tensor rope_table_;
};

}  // namespace fpsa::models::wan
