// LPIPS, the learned perceptual distance of Zhang et al. 2018 (arXiv 1801.03924), version 0.1, on AlexNet features.
#pragma once

#include <ATen/ATen.h>

#include <array>
#include <cstdint>
#include <filesystem>
#include <string>

#include "fpsa/io/video.h"

namespace fpsa::app {

/// What the flag --lpips-weights of the commands takes.
inline constexpr const char* kLpipsHelp =
    "Also LPIPS, with these weights of the package lpips (AlexNet), as safetensors";

class Lpips {
 public:
  /// Height and width of the smallest frame that AlexNet's strides leave anything of.
  static constexpr int64_t kLeastSide = 31;

  /// Opens the weights under the names of the Python package lpips, a safetensors file made by
  ///   save_file({k: v.clone() for k, v in lpips.LPIPS(net="alex").state_dict().items()}, "lpips.safetensors")
  ///   Errors    fpsa::Error naming every missing, unexpected or mis-shaped tensor
  explicit Lpips(const std::filesystem::path& weights);

  /// Tells weights apart.
  const std::string& id() const { return id_; }

  /// Mean over the frames: 0 for equal ones, mostly below 1.
  ///   Numerics  F32
  ///   Errors    fpsa::Error when frames, height or width differ, or a side is below kLeastSide
  double distance(const io::Video& a, const io::Video& b) const;

 private:
  static constexpr size_t kLayers = 5;
  struct Layer {
    at::Tensor weight, bias, importance;  // importance [1, C, 1, 1] of its channels
  };
  std::array<at::Tensor, kLayers> features(const at::Tensor& frames) const;

  std::string id_;
  at::Tensor shift_, scale_;
  std::array<Layer, kLayers> layers_;
};

}  // namespace fpsa::app
