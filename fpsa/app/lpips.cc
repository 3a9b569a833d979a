// Five convolutions; the features of each are normalised over the channels, and the squares of their differences
// weighed per channel, averaged over the picture and summed over the five.
#include "fpsa/app/lpips.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <vector>

#include "fpsa/app/study_record.h"
#include "fpsa/base/check.h"
#include "fpsa/nn/checkpoint.h"

namespace fpsa::app {
namespace {

// AlexNet's convolutions, by the names that the package gives them.
struct Convolution {
  const char* name;
  int64_t in, out, kernel, stride, padding;
  bool pooled;  // its input is pooled first
};
constexpr Convolution kConvolutions[] = {{"net.slice1.0", 3, 64, 11, 4, 2, false},
                                         {"net.slice2.3", 64, 192, 5, 1, 2, true},
                                         {"net.slice3.6", 192, 384, 3, 1, 1, true},
                                         {"net.slice4.8", 384, 256, 3, 1, 1, false},
                                         {"net.slice5.10", 256, 256, 3, 1, 1, false}};

constexpr int64_t kFramesAtOnce = 8;  // bounds the memory of the first layer's features

at::Tensor normalised(const at::Tensor& x) {
  return x / (x.pow(2).sum(1, /*keepdim=*/true).sqrt() + 1e-10);
}

// Frames [first, first + count) as [count, 3, H, W] in [-1, 1].
at::Tensor frames_of(const io::Video& video, int64_t first, int64_t count) {
  const uint8_t* bytes = video.rgb.data() + first * video.frame_bytes();
  return at::from_blob(const_cast<uint8_t*>(bytes), {count, video.height, video.width, 3}, at::kByte)
      .permute({0, 3, 1, 2})
      .to(at::kFloat)
      .div_(127.5)
      .sub_(1);
}

}  // namespace

Lpips::Lpips(const std::filesystem::path& weights) {
  nn::TensorMap tensors = nn::load_tensors(weights).tensors;
  // The package holds its last layers twice.
  std::erase_if(tensors, [](const auto& entry) { return entry.first.starts_with("lins."); });
  nn::CheckpointSource source(std::move(tensors), at::kFloat, weights.string() + ": LPIPS on AlexNet");
  const auto get = [&](const std::string& name, std::vector<int64_t> shape) {
    return source.get({.name = name, .shape = std::move(shape), .init = {}});
  };
  shift_ = get("scaling_layer.shift", {1, 3, 1, 1});
  scale_ = get("scaling_layer.scale", {1, 3, 1, 1});
  for (size_t i = 0; i < kLayers; ++i) {
    const Convolution& c = kConvolutions[i];
    layers_[i] = {get(join(c.name, ".weight"), {c.out, c.in, c.kernel, c.kernel}), get(join(c.name, ".bias"), {c.out}),
                  get(join("lin", i, ".model.1.weight"), {1, c.out, 1, 1})};
  }
  source.finish();
  id_ = weights_digest({weights});
}

std::array<at::Tensor, Lpips::kLayers> Lpips::features(const at::Tensor& frames) const {
  std::array<at::Tensor, kLayers> out;
  at::Tensor x = (frames - shift_) / scale_;
  for (size_t i = 0; i < kLayers; ++i) {
    const Convolution& c = kConvolutions[i];
    if (c.pooled) x = at::max_pool2d(x, {3, 3}, {2, 2});
    x = at::relu(at::conv2d(x, layers_[i].weight, layers_[i].bias, {c.stride, c.stride}, {c.padding, c.padding}));
    out[i] = normalised(x);
  }
  return out;
}

double Lpips::distance(const io::Video& a, const io::Video& b) const {
  FPSA_CHECK(a.frames == b.frames && a.height == b.height && a.width == b.width && a.frames > 0,
             "LPIPS: expected two clips of one shape, got ", a.frames, " frames of ", a.width, "x", a.height, " and ",
             b.frames, " of ", b.width, "x", b.height);
  FPSA_CHECK(a.height >= kLeastSide && a.width >= kLeastSide, "LPIPS: expected frames of at least ", kLeastSide, "x",
             kLeastSide, ", got ", a.width, "x", a.height);
  const at::NoGradGuard no_grad;
  double sum = 0;
  for (int64_t first = 0; first < a.frames; first += kFramesAtOnce) {
    const int64_t count = std::min(kFramesAtOnce, a.frames - first);
    const auto fa = features(frames_of(a, first, count)), fb = features(frames_of(b, first, count));
    for (size_t i = 0; i < kLayers; ++i)
      sum += ((fa[i] - fb[i]).pow(2) * layers_[i].importance).sum(1).mean({1, 2}).sum().item<double>();
  }
  return sum / static_cast<double>(a.frames);
}

}  // namespace fpsa::app
