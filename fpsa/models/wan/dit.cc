#include "fpsa/models/wan/dit.h"

#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>
#include <tuple>
#include <utility>

#include "fpsa/base/check.h"
#include "fpsa/models/wan/dit_fused.h"
#include "fpsa/nn/recompute.h"
#include "fpsa/ops/attention_grad.h"
#include "fpsa/ops/composed.h"
#include "fpsa/ops/e4m3_linear.h"

namespace fpsa::models::wan {
namespace {

constexpr double kEmbedderStd = 0.02;  // the original's normal initialisation of text and time embedders
constexpr double kLongestPeriod = 10000.0;
// Rows of the feed-forward's hidden layer that exist at once: at 8960 channels in BF16 this is 37 MB, which a
// last-level cache holds, where a whole 480p video would need 587 MB.
constexpr int64_t kFeedForwardRows = 2048;
// Query rows of cross-attention whose scores exist at once: for a prompt of 60 ids and 12 heads 3 MB.
constexpr int64_t kWeightedRows = 1024;

nn::Init xavier(int64_t in, int64_t out) {
  return nn::Init::uniform(std::sqrt(6.0 / static_cast<double>(in + out)));
}

nn::Linear xavier_linear(const nn::Scope& scope, int64_t in, int64_t out) {
  return nn::Linear(scope, in, out, /*has_bias=*/true, /*keep_f32=*/false, xavier(in, out));
}

nn::Linear embedder_linear(const nn::Scope& scope, int64_t in, int64_t out, bool keep_f32) {
  return nn::Linear(scope, in, out, /*has_bias=*/true, keep_f32, nn::Init::normal(kEmbedderStd));
}

at::ScalarType wide_type(at::ScalarType dtype) {
  return dtype == at::kDouble ? at::kDouble : at::kFloat;
}

bool differentiating() {
  return c10::GradMode::is_enabled();
}

// Attention over few keys, each standing for several equal ones: exp(s + log n) = n exp(s). Plain tensor operations,
// so autograd differentiates it. q [B, Lq, H, D]; k, v [B, Lk, H, D]; multiplicity [B, Lk].
at::Tensor weighted_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                              const at::Tensor& multiplicity) {
  const double scale = 1.0 / std::sqrt(static_cast<double>(q.size(3)));
  at::Tensor scores = at::matmul((q * scale).transpose(1, 2), k.permute({0, 2, 3, 1}));
  const at::Tensor bias = multiplicity.log().unsqueeze(1).unsqueeze(1);
  const at::Tensor probs = at::softmax(scores + bias, -1).to(q.scalar_type());
  return at::matmul(probs, v.transpose(1, 2)).transpose(1, 2);
}

// The same without autograd: scores of some rows at a time, and in F32, as the kernels have them.
at::Tensor weighted_attention_by_rows(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                      const at::Tensor& multiplicity) {
  const auto wide = q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor keys = k.to(wide), values = v.to(wide);
  at::Tensor out = at::empty_like(q, at::MemoryFormat::Contiguous);
  for (int64_t begin = 0; begin < q.size(1); begin += kWeightedRows) {
    const int64_t count = std::min(kWeightedRows, q.size(1) - begin);
    out.narrow(1, begin, count)
        .copy_(weighted_attention(q.narrow(1, begin, count).to(wide), keys, values, multiplicity));
  }
  return out;
}

// Text rows that are all zero from some row on, in every sample, are one key: they become one row, whose multiplicity
// is their number. Where that leaves more than half of the rows they stay, and no multiplicity is defined: the kernels
// then do as well, in BF16 better than products in F32.
std::pair<at::Tensor, at::Tensor> merge_padding(const at::Tensor& text) {
  const at::Tensor used = text.ne(0).any(-1).any(0).nonzero();
  const int64_t rows = text.size(1), kept = (used.numel() == 0 ? 0 : used.max().item<int64_t>() + 1) + 1;
  if (2 * kept > rows) return {text, {}};
  at::Tensor multiplicity = at::ones({text.size(0), kept}, at::kFloat);
  multiplicity.narrow(1, kept - 1, 1).fill_(static_cast<double>(rows - kept + 1));
  return {text.narrow(1, 0, kept), multiplicity};
}

std::vector<at::Tensor> modulation_rows(const at::Tensor& table, const at::Tensor& time) {
  return (table.to(time.scalar_type()) + time).split(1, /*dim=*/1);
}

}  // namespace

struct WanDit::Conditions {
  at::Tensor time;               // [1 or B, 6, dim], wide: what the timestep adds to every layer's modulation
  at::Tensor text;               // [B, Lt, dim], compute dtype
  at::Tensor rope;               // [L, 1, D/2] complex
  at::Tensor text_multiplicity;  // [B, Lt] or undefined
};

WanDit::WanDit(const DitConfig& config, const nn::Scope& scope) : config_(config) {
  config_.check();
  const int64_t dim = config_.dim();
  const int64_t patch_in = config_.in_channels * config_.patch_volume();
  const double modulation_std = 1.0 / std::sqrt(static_cast<double>(dim));

  nn::Scope patch = scope / "patch_embedding";
  patch_weight_ = patch.param(
      "weight", {dim, config_.in_channels, config_.patch_size[0], config_.patch_size[1], config_.patch_size[2]},
      xavier(patch_in, dim));
  patch_bias_ = patch.param("bias", {dim});

  nn::Scope embedder = scope / "condition_embedder";
  time_in_ = embedder_linear(embedder / "time_embedder" / "linear_1", config_.freq_dim, dim, /*keep_f32=*/true);
  time_out_ = embedder_linear(embedder / "time_embedder" / "linear_2", dim, dim, /*keep_f32=*/true);
  time_proj_ = xavier_linear(embedder / "time_proj", dim, 6 * dim);
  text_in_ = embedder_linear(embedder / "text_embedder" / "linear_1", config_.text_dim, dim, /*keep_f32=*/false);
  text_out_ = embedder_linear(embedder / "text_embedder" / "linear_2", dim, dim, /*keep_f32=*/false);

  layers_.reserve(config_.num_layers);
  for (int64_t i = 0; i < config_.num_layers; ++i) {
    nn::Scope at = scope / "blocks" / i;
    Layer layer;
    layer.self = make_attention(at / "attn1");
    layer.cross = make_attention(at / "attn2");
    if (config_.cross_attn_norm) {
      layer.cross_norm_weight = (at / "norm2").param("weight", {dim}, nn::Init::ones(), /*keep_f32=*/true);
      layer.cross_norm_bias = (at / "norm2").param("bias", {dim}, nn::Init::zeros(), /*keep_f32=*/true);
    }
    layer.up = xavier_linear(at / "ffn" / "net" / 0 / "proj", dim, config_.ffn_dim);
    layer.down = xavier_linear(at / "ffn" / "net" / 2, config_.ffn_dim, dim);
    layer.modulation = at.param("scale_shift_table", {1, 6, dim}, nn::Init::normal(modulation_std), /*keep_f32=*/true);
    layers_.push_back(std::move(layer));
  }

  head_ = nn::Linear(scope / "proj_out", dim, config_.out_channels * config_.patch_volume(), /*has_bias=*/true,
                     /*keep_f32=*/false, nn::Init::zeros());
  head_modulation_ = scope.param("scale_shift_table", {1, 2, dim}, nn::Init::normal(modulation_std), /*keep_f32=*/true);
  compute_dtype_ = layers_.front().self.q.weight.scalar_type();
}

WanDit::Attention WanDit::make_attention(const nn::Scope& scope) const {
  const int64_t dim = config_.dim();
  Attention a;
  a.q = xavier_linear(scope / "to_q", dim, dim);
  a.k = xavier_linear(scope / "to_k", dim, dim);
  a.v = xavier_linear(scope / "to_v", dim, dim);
  a.out = xavier_linear(scope / "to_out" / 0, dim, dim);
  a.norm_q = (scope / "norm_q").param("weight", {dim}, nn::Init::ones());
  a.norm_k = (scope / "norm_k").param("weight", {dim}, nn::Init::ones());
  return a;
}

void WanDit::set_compute_dtype(at::ScalarType dtype) {
  FPSA_CHECK(dtype == at::kFloat || dtype == at::kBFloat16 || dtype == at::kDouble,
             "compute dtype of the transformer must be F32, BF16 or F64, received ", at::toString(dtype));
  compute_dtype_ = dtype;
}

void WanDit::check_input(const nn::DenoiserInput& input) const {
  const auto& [pt, py, px] = config_.patch_size;
  FPSA_CHECK(input.latents.dim() == 5 && input.latents.size(1) == config_.in_channels, "latents must have shape [B, ",
             config_.in_channels, ", T, H, W], received ", input.latents.sizes());
  const auto sizes = input.latents.sizes();
  FPSA_CHECK(
      sizes[2] >= 1 && sizes[3] >= 1 && sizes[4] >= 1 && sizes[2] % pt == 0 && sizes[3] % py == 0 && sizes[4] % px == 0,
      "latents' (T, H, W) must be multiples of the patch (", pt, ", ", py, ", ", px, "), received (", sizes[2], ", ",
      sizes[3], ", ", sizes[4], "); choose a height and width that divide evenly");
  const int64_t longest = std::max({sizes[2] / pt, sizes[3] / py, sizes[4] / px});
  FPSA_CHECK(longest <= config_.rope_max_seq_len, "the token grid has an axis of ", longest,
             " tokens; this model's positions end at ", config_.rope_max_seq_len, "; make the video smaller");
  FPSA_CHECK(input.timestep.dim() == 1 && input.timestep.size(0) == sizes[0], "timestep must have shape [", sizes[0],
             "] (one per sample), received ", input.timestep.sizes());
  FPSA_CHECK(input.text.dim() == 3 && input.text.size(0) == sizes[0] && input.text.size(1) >= 1 &&
                 input.text.size(2) == config_.text_dim,
             "text must have shape [", sizes[0], ", tokens, ", config_.text_dim, "], received ", input.text.sizes());
}

// Sinusoids of the timestep (cosines first) through the time embedder: [B, dim], wide.
at::Tensor WanDit::time_states(const at::Tensor& timestep) const {
  const int64_t half = config_.freq_dim / 2;
  at::Tensor frequencies =
      at::exp(at::arange(half, at::kFloat) * (-std::log(kLongestPeriod)) / static_cast<double>(half));
  at::Tensor angles = timestep.to(at::kFloat).unsqueeze(1) * frequencies.unsqueeze(0);
  at::Tensor states = at::cat({at::cos(angles), at::sin(angles)}, -1).to(wide_type(compute_dtype_));
  return time_out_(at::silu(time_in_(states)));
}

// A convolution whose stride is its kernel is a matrix product over patches: [B, C, T, H, W] -> [B, L, dim].
at::Tensor WanDit::patchify(const at::Tensor& latents) const {
  const auto& [pt, py, px] = config_.patch_size;
  const auto s = latents.sizes();
  at::Tensor patches = latents.to(compute_dtype_)
                           .reshape({s[0], s[1], s[2] / pt, pt, s[3] / py, py, s[4] / px, px})
                           .permute({0, 2, 4, 6, 1, 3, 5, 7})
                           .reshape({s[0], -1, s[1] * config_.patch_volume()});
  return at::linear(patches, patch_weight_.to(compute_dtype_).flatten(1), patch_bias_.to(compute_dtype_));
}

// The head orders a token's values as (pt, py, px, channel).
at::Tensor WanDit::unpatchify(const at::Tensor& tokens, const at::Tensor& latents) const {
  const auto& [pt, py, px] = config_.patch_size;
  const auto s = latents.sizes();
  return tokens.view({s[0], s[2] / pt, s[3] / py, s[4] / px, pt, py, px, config_.out_channels})
      .permute({0, 7, 1, 4, 2, 5, 3, 6})
      .reshape({s[0], config_.out_channels, s[2], s[3], s[4]});
}

const at::Tensor& WanDit::rope(pattern::Grid grid, const RopeStretch& stretch) {
  const at::ScalarType wide = wide_type(compute_dtype_);
  const bool same = rope_table_.defined() && rope_grid_ == grid && rope_stretch_ == stretch &&
                    at::toRealValueType(rope_table_.scalar_type()) == wide;
  if (!same) {
    rope_table_ = rope_table(grid, config_.attention_head_dim, stretch, wide);
    rope_grid_ = grid;
    rope_stretch_ = stretch;
  }
  return rope_table_;
}

at::Tensor WanDit::feed_forward(const Layer& layer, const at::Tensor& x) const {
  if (differentiating()) {
    const auto apply = [&](const nn::Linear& linear, const at::Tensor& in) {
      return e4m3_feed_forward_ ? ops::e4m3_linear(in, linear.merged_weight(), linear.bias) : linear(in);
    };
    return apply(layer.down, at::gelu(apply(layer.up, x), "tanh"));
  }
  // Weights are coded once, not for every chunk of rows.
  const auto coded = [&](const nn::Linear& linear) {
    return e4m3_feed_forward_ ? ops::e4m3_rows(linear.merged_weight()) : ops::CodedRows{};
  };
  const auto up = coded(layer.up), down = coded(layer.down);
  const auto apply = [&](const nn::Linear& linear, const ops::CodedRows& codes, const at::Tensor& in) {
    return e4m3_feed_forward_ ? ops::e4m3_linear(in, codes, linear.bias) : linear(in);
  };
  const int64_t rows = x.size(0) * x.size(1);
  at::Tensor flat = x.view({rows, x.size(2)});
  at::Tensor out = at::empty_like(flat);
  for (int64_t begin = 0; begin < rows; begin += kFeedForwardRows) {
    const int64_t count = std::min(kFeedForwardRows, rows - begin);
    at::Tensor hidden = apply(layer.up, up, flat.narrow(0, begin, count));
    at::gelu_(hidden, "tanh");
    out.narrow(0, begin, count).copy_(apply(layer.down, down, hidden));
  }
  return out.view_as(x);
}

at::Tensor WanDit::run_layer(const Layer& layer, at::Tensor x, const Conditions& c, nn::AttentionMethod& attention,
                             const nn::AttentionContext& context) const {
  const int64_t heads = config_.num_attention_heads;
  const double eps = config_.eps;
  const auto modulation = modulation_rows(layer.modulation, c.time);  // shift, scale, gate of each of the two
  auto in_heads = [&](const at::Tensor& v) { return v.view({v.size(0), v.size(1), heads, -1}); };

  at::Tensor h = modulated_norm(x, modulation[1] + 1.0, modulation[0], eps, compute_dtype_);
  at::Tensor attended = attention.attend({.q = layer.self.q(h),
                                          .k = layer.self.k(h),
                                          .v = layer.self.v(h),
                                          .q_weight = layer.self.norm_q,
                                          .k_weight = layer.self.norm_k,
                                          .eps = eps,
                                          .heads = heads,
                                          .rope = c.rope,
                                          .prepare = &norm_heads},
                                         context);
  x = add_residual(x, layer.self.out(attended.reshape(h.sizes())), modulation[2]);

  h = config_.cross_attn_norm
          ? modulated_norm(x, layer.cross_norm_weight.to(x.scalar_type()).view({1, 1, -1}),
                           layer.cross_norm_bias.to(x.scalar_type()).view({1, 1, -1}), eps, compute_dtype_)
          : x.to(compute_dtype_);
  const at::Tensor q = norm_heads(layer.cross.q(h), layer.cross.norm_q, eps, heads, {});
  const at::Tensor k = norm_heads(layer.cross.k(c.text), layer.cross.norm_k, eps, heads, {});
  const at::Tensor v = in_heads(layer.cross.v(c.text));
  if (c.text_multiplicity.defined())
    attended = differentiating() ? weighted_attention(q, k, v, c.text_multiplicity)
                                 : weighted_attention_by_rows(q, k, v, c.text_multiplicity);
  else if (q.scalar_type() == at::kDouble)  // for which there are no kernels
    attended = ops::composed_attention(q, k, v);
  else
    attended = ops::differentiable_dense_attention(q, k, v).out;
  x = add_residual(x, layer.cross.out(attended.reshape(h.sizes())), {});

  h = modulated_norm(x, modulation[4] + 1.0, modulation[3], eps, compute_dtype_);
  return add_residual(x, feed_forward(layer, h), modulation[5]);
}

std::vector<at::Tensor> WanDit::parameters_of(const Layer& layer) {
  std::vector<at::Tensor> out;
  const auto add = [&out](const at::Tensor& parameter) {
    if (parameter.defined()) out.push_back(parameter);
  };
  const auto add_linear = [&add](const nn::Linear& linear) {
    add(linear.weight), add(linear.bias);
    if (linear.adapter) add(linear.adapter->a), add(linear.adapter->b);
  };
  for (const Attention* attention : {&layer.self, &layer.cross}) {
    for (const nn::Linear* linear : {&attention->q, &attention->k, &attention->v, &attention->out})
      add_linear(*linear);
    add(attention->norm_q), add(attention->norm_k);
  }
  add_linear(layer.up), add_linear(layer.down);
  add(layer.cross_norm_weight), add(layer.cross_norm_bias), add(layer.modulation);
  return out;
}

// A layer's inputs come as aliases of its own. What other layers and the tap read as well then gets the sum of this
// layer's gradients as one term, with and without checkpointing: floating-point sums depend on their grouping.
at::Tensor WanDit::differentiable_layer(const Layer& layer, const at::Tensor& x, const Conditions& c,
                                        nn::AttentionMethod& attention, const nn::AttentionContext& context) const {
  const auto run = [this, &layer, &attention, context, rope = c.rope,
                    multiplicity = c.text_multiplicity](const std::vector<at::Tensor>& in) {
    return run_layer(layer, in[0], {.time = in[1], .text = in[2], .rope = rope, .text_multiplicity = multiplicity},
                     attention, context);
  };
  if (gradient_checkpointing_) return nn::recomputed(run, {x, c.time, c.text}, parameters_of(layer));
  return run({at::alias(x), c.time, at::alias(c.text)});
}

DitOutput WanDit::forward(const nn::DenoiserInput& input, nn::AttentionMethod& attention, const DitOptions& options) {
  check_input(input);
  const at::ScalarType wide = wide_type(compute_dtype_);
  const auto& [pt, py, px] = config_.patch_size;
  const pattern::Grid grid{input.latents.size(2) / pt, input.latents.size(3) / py, input.latents.size(4) / px};

  // Samples at one timestep, as in guidance, share one row of modulation.
  at::Tensor timestep = input.timestep;
  if (timestep.size(0) > 1 && at::equal(timestep, timestep.narrow(0, 0, 1).expand_as(timestep)))
    timestep = timestep.narrow(0, 0, 1);
  at::Tensor time = time_states(timestep);

  Conditions conditions;
  conditions.time = time_proj_(at::silu(time)).view({time.size(0), 6, config_.dim()});
  at::Tensor text = input.text;
  conditions.text_multiplicity = options.text_multiplicity;
  // Under autograd every row gets a gradient of its own.
  if (!options.text_multiplicity.defined() && !differentiating())
    std::tie(text, conditions.text_multiplicity) = merge_padding(text);
  conditions.text = text_out_(at::gelu(text_in_(text.to(compute_dtype_)), "tanh"));
  conditions.rope = rope(grid, options.rope_stretch);

  DitOutput out;
  at::Tensor x = patchify(input.latents).to(wide);
  for (int64_t i = 0; i < config_.num_layers; ++i) {
    const nn::AttentionContext context{
        .layer = i, .num_layers = config_.num_layers, .step = input.step, .num_steps = input.num_steps, .grid = grid};
    x = differentiating() ? differentiable_layer(layers_[i], x, conditions, attention, context)
                          : run_layer(layers_[i], std::move(x), conditions, attention, context);
    if (i == options.tap_layer) out.tap = differentiating() ? x : x.clone();
  }
  const auto modulation = modulation_rows(head_modulation_, time.unsqueeze(1));
  at::Tensor h = modulated_norm(x, modulation[1] + 1.0, modulation[0], config_.eps, wide);
  out.velocity = unpatchify(head_(h), input.latents);
  return out;
}

at::Tensor WanDit::predict(const nn::DenoiserInput& input, nn::AttentionMethod& attention) {
  return forward(input, attention, {.rope_stretch = predict_stretch_}).velocity;
}

}  // namespace fpsa::models::wan
