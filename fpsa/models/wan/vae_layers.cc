// Activations are channels_last_3d throughout (memory [B,T,Y,X,C]): convolutions are fastest there on a CPU
// (oneDNN, BF16: 355 against 282 GFLOP/s forward and backward at 16 channels on one Zen 5 core), frames are
// contiguous, and frames as a batch of images ([B*T,C,Y,X] channels_last) are a view.
#include "fpsa/models/wan/vae_layers.h"

#include <ATen/core/grad_mode.h>

#include <cmath>

#include "fpsa/base/check.h"
#include "fpsa/models/wan/vae_norm.h"

namespace fpsa::models::wan {
namespace {

constexpr auto kChannelsLast = at::MemoryFormat::ChannelsLast3d;

at::Tensor as(const at::Tensor& parameter, const at::Tensor& x) {
  return parameter.to(x.scalar_type());
}

nn::Init fan_in_init(int64_t fan_in) {
  return nn::Init::uniform(1.0 / std::sqrt(static_cast<double>(fan_in)));
}

bool records_grad(const at::Tensor& x, const at::Tensor& weight) {
  return at::GradMode::is_enabled() && (x.requires_grad() || weight.requires_grad());
}

// [B,C,T,Y,X] -> [B*T,C,Y,X] and back; no copy for channels_last_3d input.
at::Tensor frames_as_batch(const at::Tensor& x) {
  at::Tensor y = x.contiguous(kChannelsLast).permute({0, 2, 3, 4, 1});
  return y.reshape({x.size(0) * x.size(2), x.size(3), x.size(4), x.size(1)}).permute({0, 3, 1, 2});
}
at::Tensor batch_as_frames(const at::Tensor& images, int64_t batch) {
  at::Tensor y = images.contiguous(at::MemoryFormat::ChannelsLast).permute({0, 2, 3, 1});
  return y.reshape({batch, images.size(0) / batch, images.size(2), images.size(3), images.size(1)})
      .permute({0, 4, 1, 2, 3});
}

// Frames in front of a kernel of `depth` frames: none for a single frame that has no past, because the kernel's
// last plane then does all the work (CausalConv3d), else depth - 1.
int64_t front_frames(const at::Tensor& x, const at::Tensor& past, int64_t depth) {
  return past.defined() || x.size(2) > 1 ? depth - 1 : 0;
}

// What the next chunk needs of `padded` (past and present of this chunk): its last `count` frames, as a copy so
// that the chunk itself can be freed.
at::Tensor last_frames(const at::Tensor& padded, int64_t count) {
  int64_t have = padded.size(2);
  if (have >= count) return padded.narrow(2, have - count, count).clone(kChannelsLast);
  at::Tensor zeros = at::zeros_like(padded.narrow(2, 0, 1)).expand({-1, -1, count - have, -1, -1});
  return at::cat({zeros, padded}, 2).contiguous(kChannelsLast);
}

// Past frames (or zeros) in front of x; updates the slot.
at::Tensor with_past(const at::Tensor& x, int64_t depth, at::Tensor* slot) {
  at::Tensor past = slot ? *slot : at::Tensor();
  at::Tensor padded = x;
  int64_t front = front_frames(x, past, depth);
  if (front > 0) {
    if (!past.defined()) past = at::zeros_like(x.narrow(2, 0, 1)).expand({-1, -1, front, -1, -1});
    padded = at::cat({past, x}, 2).contiguous(kChannelsLast);
  }
  if (slot) *slot = last_frames(padded, depth - 1);
  return padded;
}

at::Tensor convolve(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, at::IntArrayRef padding,
                    at::IntArrayRef stride) {
  std::vector<int64_t> ones(padding.size(), 1);
  // at::convolution sends small F32 volumes to a generic path 15 times slower than oneDNN; only the forward of
  // the direct call is fast, so training keeps the generic entry (and BF16).
  if (x.device().is_cpu() && x.scalar_type() == at::kFloat && at::globalContext().userEnabledMkldnn() &&
      at::hasMKLDNN() && !records_grad(x, weight) && x.numel() > 0) {
    return at::mkldnn_convolution(x, weight, bias, padding, stride, ones, 1);
  }
  std::vector<int64_t> zeros(padding.size(), 0);
  return at::convolution(x, weight, bias, stride, padding, ones, /*transposed=*/false, zeros, 1);
}

// a + b, reusing a's memory where no gradient needs it.
at::Tensor add_into(at::Tensor a, const at::Tensor& b) {
  if (at::GradMode::is_enabled() && (a.requires_grad() || b.requires_grad())) return a + b;
  return a.add_(b);
}

}  // namespace

void TimeCache::begin_chunk() {
  next_ = 0;
  ++chunks_;
}

at::Tensor& TimeCache::next_slot() {
  if (next_ == slots_.size()) slots_.emplace_back();
  return slots_[next_++];
}

CausalConv3d::CausalConv3d(const nn::Scope& scope, int64_t in, int64_t out, int64_t kernel_time, int64_t kernel_space,
                           int64_t stride_time_in)
    : stride_time(stride_time_in) {
  nn::Init init = fan_in_init(in * kernel_time * kernel_space * kernel_space);
  weight = scope.param("weight", {out, in, kernel_time, kernel_space, kernel_space}, init);
  bias = scope.param("bias", {out}, init);
}

at::Tensor CausalConv3d::operator()(const at::Tensor& x) const {
  at::Tensor w = as(weight, x);
  int64_t depth = w.size(2), space = w.size(3) / 2;
  if (x.size(2) < depth) w = w.narrow(2, depth - x.size(2), x.size(2));
  return convolve(x, w, as(bias, x), {0, space, space}, {stride_time, 1, 1});
}

at::Tensor causal(const CausalConv3d& conv, const at::Tensor& x, TimeCache* cache) {
  return conv(with_past(x, conv.weight.size(2), cache ? &cache->next_slot() : nullptr));
}

NormActConv::NormActConv(const nn::Scope& norm, const nn::Scope& conv_scope, int64_t in, int64_t out)
    : gamma(norm.param("gamma", {in, 1, 1, 1}, nn::Init::ones())), conv(conv_scope, in, out, 3, 3) {}

at::Tensor NormActConv::operator()(const at::Tensor& x, TimeCache* cache) const {
  int64_t depth = conv.weight.size(2);
  at::Tensor* slot = cache ? &cache->next_slot() : nullptr;
  at::Tensor past = slot ? *slot : at::Tensor();
  at::Tensor padded = rms_norm_act(x, gamma, /*silu=*/true, front_frames(x, past, depth), past);
  if (slot) *slot = last_frames(padded, depth - 1);
  return conv(padded);
}

VaeResidual::VaeResidual(const nn::Scope& scope, int64_t in, int64_t out)
    : first(scope / "norm1", scope / "conv1", in, out), second(scope / "norm2", scope / "conv2", out, out) {
  if (in != out) shortcut.emplace(scope / "conv_shortcut", in, out, 1, 1);
}

at::Tensor VaeResidual::operator()(const at::Tensor& x, TimeCache* cache) const {
  at::Tensor skip = shortcut ? pointwise(x, shortcut->weight, shortcut->bias) : x;
  return add_into(second(first(x, cache), cache), skip);
}

VaeAttention::VaeAttention(const nn::Scope& scope, int64_t c)
    : gamma((scope / "norm").param("gamma", {c, 1, 1}, nn::Init::ones())),
      qkv_weight((scope / "to_qkv").param("weight", {3 * c, c, 1, 1}, fan_in_init(c))),
      qkv_bias((scope / "to_qkv").param("bias", {3 * c}, fan_in_init(c))),
      proj_weight((scope / "proj").param("weight", {c, c, 1, 1}, fan_in_init(c))),
      proj_bias((scope / "proj").param("bias", {c}, fan_in_init(c))) {}

at::Tensor VaeAttention::operator()(const at::Tensor& x) const {
  int64_t batch = x.size(0), c = x.size(1), frames = x.size(2), y = x.size(3), w = x.size(4), tokens = y * w;
  at::Tensor normed = rms_norm_act(x, gamma, /*silu=*/false);
  at::Tensor qkv = pointwise(normed, qkv_weight, qkv_bias).permute({0, 2, 3, 4, 1});
  std::vector<at::Tensor> parts = qkv.reshape({batch * frames, tokens, 3 * c}).split(c, 2);
  at::Tensor q = parts[0] * (1.0 / std::sqrt(static_cast<double>(c)));
  // Rows of queries are taken in groups so that the scores of one group stay near 64 MB.
  int64_t rows =
      std::max<int64_t>(1, std::min(tokens, (int64_t{1} << 24) / std::max<int64_t>(1, tokens * batch * frames)));
  at::Tensor keys = parts[1].transpose(1, 2);
  std::vector<at::Tensor> out;
  for (int64_t at = 0; at < tokens; at += rows) {
    at::Tensor scores = at::bmm(q.narrow(1, at, std::min(rows, tokens - at)), keys);
    out.push_back(at::bmm(at::softmax(scores, -1), parts[2]));
  }
  at::Tensor merged = out.size() == 1 ? out[0] : at::cat(out, 1);
  at::Tensor image = merged.reshape({batch, frames, y, w, c}).permute({0, 4, 1, 2, 3});
  return add_into(pointwise(image, proj_weight, proj_bias), x);
}

VaeMiddle::VaeMiddle(const nn::Scope& scope, int64_t c)
    : before(scope / "resnets" / 0, c, c), attention(scope / "attentions" / 0, c), after(scope / "resnets" / 1, c, c) {}

at::Tensor VaeMiddle::operator()(const at::Tensor& x, TimeCache* cache) const {
  return after(attention(before(x, cache)), cache);
}

VaeDown::VaeDown(const nn::Scope& scope, int64_t c, bool time)
    : weight((scope / "resample" / 1).param("weight", {c, c, 3, 3}, fan_in_init(9 * c))),
      bias((scope / "resample" / 1).param("bias", {c}, fan_in_init(9 * c))) {
  if (time) time_conv.emplace(scope / "time_conv", c, c, 3, 1, 2);
}

at::Tensor VaeDown::operator()(const at::Tensor& x, TimeCache* cache) const {
  // The window of output j covers 2j, 2j+1, 2j+2. Padding 2 on every side gives it at output j + 1, so dropping
  // the first row and column replaces the copy that one-sided padding would need.
  at::Tensor half = convolve(frames_as_batch(x), as(weight, x), as(bias, x), {2, 2}, {2, 2});
  half = half.narrow(2, 1, x.size(3) / 2).narrow(3, 1, x.size(4) / 2);
  at::Tensor y = batch_as_frames(half, x.size(0));
  if (!time_conv) return y;
  if (cache) {
    at::Tensor& slot = cache->next_slot();
    at::Tensor past = slot;
    slot = last_frames(y, 1);
    return past.defined() ? (*time_conv)(at::cat({past, y}, 2).contiguous(kChannelsLast)) : y;
  }
  if (y.size(2) == 1) return y;
  return at::cat({y.narrow(2, 0, 1), (*time_conv)(y)}, 2).contiguous(kChannelsLast);
}

VaeUp::VaeUp(const nn::Scope& scope, int64_t c, bool time)
    : weight((scope / "resample" / 1).param("weight", {c / 2, c, 3, 3}, fan_in_init(9 * c))),
      bias((scope / "resample" / 1).param("bias", {c / 2}, fan_in_init(9 * c))) {
  if (time) time_conv.emplace(scope / "time_conv", c, 2 * c, 3, 1);
}

namespace {

// Each frame becomes two: the two halves of the convolution's channels.
at::Tensor double_frames(const CausalConv3d& conv, const at::Tensor& x, at::Tensor* slot) {
  at::Tensor y = conv(with_past(x, 3, slot)).contiguous(kChannelsLast).permute({0, 2, 3, 4, 1});
  int64_t c = y.size(4) / 2;
  y = y.reshape({y.size(0), y.size(1), y.size(2), y.size(3), 2, c}).permute({0, 1, 4, 2, 3, 5});
  return y.reshape({y.size(0), 2 * y.size(1), y.size(3), y.size(4), c}).permute({0, 4, 1, 2, 3});
}

}  // namespace

at::Tensor VaeUp::operator()(const at::Tensor& x, TimeCache* cache) const {
  at::Tensor y = x;
  if (time_conv && cache) {
    at::Tensor& slot = cache->next_slot();
    if (!cache->first_chunk()) y = double_frames(*time_conv, x, &slot);
  } else if (time_conv && x.size(2) > 1) {
    at::Tensor rest = double_frames(*time_conv, x.narrow(2, 1, x.size(2) - 1).contiguous(kChannelsLast), nullptr);
    y = at::cat({x.narrow(2, 0, 1), rest}, 2).contiguous(kChannelsLast);
  }
  at::Tensor twice = at::upsample_nearest2d(frames_as_batch(y), {2 * y.size(3), 2 * y.size(4)});
  return batch_as_frames(convolve(twice, as(weight, x), as(bias, x), {1, 1}, {1, 1}), x.size(0));
}

at::Tensor pointwise(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  at::Tensor rows = x.contiguous(kChannelsLast).permute({0, 2, 3, 4, 1});
  at::Tensor w = as(weight, x).view({weight.size(0), weight.size(1)});
  return at::linear(rows, w, as(bias, x)).permute({0, 4, 1, 2, 3});
}

}  // namespace fpsa::models::wan
