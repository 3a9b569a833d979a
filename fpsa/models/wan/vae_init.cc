// Identity-like initialisation.
//
// Residual branches are damped (second convolution and attention projection x 0.1), down-sampling averages, up-
// sampling and time convolutions pass their input on, the posterior is narrow. On top, a few channels of every
// level carry the colours: +c and -c for each colour and one constant. silu(u) - silu(-u) = u, so the pair
// survives the activations; the constant dominates the RMS norm, so the norm scales all colours about alike.
#include "fpsa/models/wan/vae_init.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <string_view>

#include "fpsa/base/check.h"

namespace fpsa::models::wan {
namespace {

constexpr double kDamping = 0.1;       // residual branches and attention against their skip
constexpr double kConstant = 4.0;      // the constant channel: 16 against a colour's share of at most 6 in the norm
constexpr double kOthers = 0.3;        // channels that carry nothing yet, small so that they do not shift the norm
constexpr double kLogVariance = -6.0;  // posterior standard deviation 0.05 against latents near 1

bool ends_with_any(const std::string& name, std::initializer_list<std::string_view> suffixes) {
  return std::any_of(suffixes.begin(), suffixes.end(), [&](std::string_view s) { return name.ends_with(s); });
}

class IdentityLike {
 public:
  IdentityLike(std::map<std::string, at::Tensor>& tensors, const VaeConfig& config, uint64_t seed)
      : tensors_(tensors), config_(config), generator_(at::detail::createCPUGenerator(seed)) {
    int64_t colours = std::min(config.in_channels, config.out_channels);
    int64_t narrowest = std::min(config.base_dim, config.decoder_dim()) *
                        *std::min_element(config.dim_mult.begin(), config.dim_mult.end());
    if (config.z_dim >= colours && narrowest >= 2 * colours + 2) colours_ = colours;
  }

  void run() {
    std::vector<std::string> names;
    for (const auto& [name, tensor] : tensors_) {
      if (name.starts_with("encoder.") || name.starts_with("decoder.")) names.push_back(name);
    }
    for (const std::string& name : names)
      layer(name);
    for (const char* conv : {"quant_conv", "post_quant_conv"})
      identity(get(join(conv, ".weight")), get(join(conv, ".bias")));
    posterior();
    if (colours_ > 0) ends();
  }

 private:
  at::Tensor get(const std::string& name) {
    auto it = tensors_.find(name);
    FPSA_CHECK(it != tensors_.end(), "identity_like_init: tensor '", name,
               "' is missing; pass the tensors of a WanVae");
    return it->second;
  }

  // Channels 0..2n-1 are +-colours, 2n is the constant.
  int64_t carriers() const { return colours_ > 0 ? 2 * colours_ + 1 : 0; }

  void layer(const std::string& name) {
    at::Tensor t = tensors_.at(name);
    if (ends_with_any(name, {".conv2.weight", ".conv2.bias", ".proj.weight", ".proj.bias"})) {
      t.mul_(kDamping);
      t.narrow(0, 0, carriers()).zero_();
    } else if (name.ends_with(".conv_shortcut.weight")) {
      carry(t, get(name.substr(0, name.size() - 6) + "bias"));
    } else if (name.ends_with(".resample.1.weight")) {
      resample(t, get(name.substr(0, name.size() - 6) + "bias"));
    } else if (name.ends_with(".time_conv.weight")) {
      time(t, get(name.substr(0, name.size() - 6) + "bias"));
    }
  }

  // Carriers pass unchanged through the centre tap; the other rows keep their random values, damped.
  void carry(at::Tensor weight, at::Tensor bias) {
    int64_t n = carriers();
    weight.mul_(kOthers);
    weight.narrow(0, 0, n).zero_();
    bias.narrow(0, 0, n).zero_();
    at::Tensor tap = centre(weight);
    for (int64_t i = 0; i < n; ++i)
      tap[i][i].fill_(1.0);
  }

  // Down (C -> C, window 2j..2j+2): mean of the 2x2 pixels that become one. Up (C -> C/2): centre tap.
  void resample(at::Tensor weight, at::Tensor bias) {
    int64_t out = weight.size(0), in = weight.size(1);
    weight.zero_();
    bias.zero_();
    if (out == in) {
      for (int64_t i = 0; i < out; ++i)
        weight[i][i].narrow(0, 0, 2).narrow(1, 0, 2).fill_(0.25);
      return;
    }
    at::Tensor tap = centre(weight);
    tap.normal_(0.0, kOthers / std::sqrt(static_cast<double>(in)), generator_);
    tap.narrow(0, 0, carriers()).zero_();
    for (int64_t i = 0; i < carriers(); ++i)
      tap[i][i].fill_(1.0);
  }

  // Down (C -> C): mean of the two newest frames. Up (C -> 2C): both new frames equal the present one.
  void time(at::Tensor weight, at::Tensor bias) {
    int64_t out = weight.size(0), in = weight.size(1);
    weight.zero_();
    bias.zero_();
    for (int64_t i = 0; i < out; ++i) {
      if (out == in) {
        weight[i][i].narrow(0, 1, 2).fill_(0.5);
      } else {
        weight[i][i % in][2].fill_(1.0);
      }
    }
  }

  void identity(at::Tensor weight, at::Tensor bias) {
    bias.zero_();
    weight.zero_();
    for (int64_t i = 0; i < weight.size(0); ++i)
      weight[i][i].fill_(1.0);
  }

  void posterior() {
    at::Tensor weight = get("encoder.conv_out.weight"), bias = get("encoder.conv_out.bias");
    weight.narrow(0, config_.z_dim, config_.z_dim).mul_(kDamping);
    bias.narrow(0, config_.z_dim, config_.z_dim).fill_(kLogVariance);
  }

  // The layers where colours enter and leave the carriers.
  void ends() {
    for (const char* side : {"encoder", "decoder"}) {
      at::Tensor weight = get(join(side, ".conv_in.weight")), bias = get(join(side, ".conv_in.bias"));
      weight.mul_(kOthers);
      weight.narrow(0, 0, carriers()).zero_();
      bias.narrow(0, 0, carriers()).zero_();
      bias[2 * colours_].fill_(kConstant);
      at::Tensor tap = centre(weight);
      for (int64_t i = 0; i < colours_; ++i) {
        tap[2 * i][i].fill_(1.0);
        tap[2 * i + 1][i].fill_(-1.0);
      }
    }
    for (const char* side : {"encoder", "decoder"}) {
      at::Tensor weight = get(join(side, ".conv_out.weight")), bias = get(join(side, ".conv_out.bias"));
      weight.narrow(0, 0, colours_).zero_();
      bias.narrow(0, 0, colours_).zero_();
      // Undoes the norm's sqrt(C) / |x| for colours of mean square 1/4 in [-1,1].
      double channels = static_cast<double>(weight.size(1));
      double gain = std::sqrt((kConstant * kConstant + 0.5 * static_cast<double>(colours_)) / channels);
      at::Tensor tap = centre(weight);
      for (int64_t i = 0; i < colours_; ++i) {
        tap[i][2 * i].fill_(gain);
        tap[i][2 * i + 1].fill_(-gain);
      }
    }
  }

  // [out, in] at the spatial centre and the newest frame.
  static at::Tensor centre(const at::Tensor& weight) {
    at::Tensor t = weight.select(-1, weight.size(-1) / 2).select(-1, weight.size(-2) / 2);
    return t.dim() == 3 ? t.select(2, t.size(2) - 1) : t;
  }

  std::map<std::string, at::Tensor>& tensors_;
  const VaeConfig& config_;
  at::Generator generator_;
  int64_t colours_ = 0;  // 0: the widths cannot carry them
};

}  // namespace

void identity_like_init(std::map<std::string, at::Tensor>& tensors, const VaeConfig& config, uint64_t seed) {
  at::NoGradGuard no_grad;
  IdentityLike(tensors, config, seed).run();
}

}  // namespace fpsa::models::wan
