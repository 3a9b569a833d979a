#include "fpsa/models/wan/vae.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/CPUAllocator.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cstdlib>
#include <nlohmann/json.hpp>

#include "fpsa/base/check.h"
#include "fpsa/models/wan/vae_init.h"
#include "fpsa/models/wan/vae_norm.h"
#include "tests/tolerance.h"

namespace fpsa::models::wan {
namespace {

VaeConfig small_config() {
  VaeConfig c;
  c.base_dim = 4;
  c.z_dim = 2;
  c.dim_mult = {1, 2, 2};
  c.num_res_blocks = 1;
  c.attn_scales = {0.5};
  c.temperal_downsample = {true, true};
  return c;
}

double relative_error(const at::Tensor& actual, const at::Tensor& expected) {
  at::Tensor a = actual.detach().to(at::kDouble), e = expected.detach().to(at::kDouble);
  double range = (e.max() - e.min()).item<double>();
  return (a - e).abs().max().item<double>() / range;
}

double psnr(const at::Tensor& a, const at::Tensor& b) {  // for values in [-1,1]
  return 10 * std::log10(4.0 / (a - b).square().mean().item<double>());
}

// Serves F64 leaves so that finite differences are meaningful.
class DoubleInit : public nn::ParameterSource {
 public:
  at::Tensor get(const nn::ParameterSpec& spec) override {
    at::Tensor t = random_.get(spec).detach().to(at::kDouble);
    if (spec.init.kind == nn::Init::Kind::kOnes) t = t + 0.3 * at::randn_like(t);
    tensors.emplace(spec.name, t.requires_grad_(true));
    return t;
  }
  std::map<std::string, at::Tensor> tensors;

 private:
  nn::RandomInit random_{7};
};

TEST(WanVae, ChunkedEqualsWholeSequence) {
  nn::RandomInit source(1);
  WanVae vae(small_config(), nn::Scope(source));
  at::manual_seed(2);
  for (int64_t frames : {1, 5, 9, 17}) {
    at::Tensor video = at::rand({2, 3, frames, 8, 12}) * 2 - 1;
    at::Tensor moments = vae.encode(video);
    EXPECT_LE(relative_error(vae.encode_whole(video), moments), tolerance::kModelF32) << frames << " frames";
    at::Tensor latents = at::randn({2, 2, 1 + (frames - 1) / 4, 2, 3});
    at::Tensor decoded = vae.decode(latents);
    EXPECT_EQ(decoded.size(2), frames);
    EXPECT_LE(relative_error(vae.decode_whole(latents).clamp(-1, 1), decoded), tolerance::kModelF32)
        << frames << " frames";
  }
}

TEST(WanVae, GradientOfTheWholeSequenceMatchesFiniteDifferencesInF64) {
  DoubleInit source;
  at::manual_seed(3);
  WanVae vae(small_config(), nn::Scope(source));
  at::Tensor video = at::rand({1, 3, 5, 8, 8}, at::kDouble) * 2 - 1;
  at::Tensor weight_m = at::randn({1, 4, 2, 2, 2}, at::kDouble), weight_v = at::randn({1, 3, 5, 8, 8}, at::kDouble);
  auto loss = [&] {
    at::Tensor moments = vae.encode_whole(video);
    at::Tensor decoded = vae.decode_whole(WanVae::posterior(moments).mean);
    return (moments * weight_m).sum() + (decoded * weight_v).sum();
  };
  std::vector<at::Tensor> leaves;
  std::vector<std::string> names;
  for (auto& [name, t] : source.tensors) {
    names.push_back(name);
    leaves.push_back(t);
  }
  auto grads = torch::autograd::grad({loss()}, leaves);
  at::NoGradGuard no_grad;
  // Small because the norm of few channels bends sharply near zero: at 1e-5 truncation alone reached 1e-5.
  constexpr double kStep = 1e-6;
  for (size_t i = 0; i < leaves.size(); ++i) {
    at::Tensor direction = at::randn_like(leaves[i]);
    leaves[i].add_(direction, kStep);
    double up = loss().item<double>();
    leaves[i].add_(direction, -2 * kStep);
    double down = loss().item<double>();
    leaves[i].add_(direction, kStep);
    double expected = (up - down) / (2 * kStep), actual = (grads[i] * direction).sum().item<double>();
    EXPECT_NEAR(actual, expected, tolerance::kFiniteDifferenceF64 * (1 + std::abs(expected))) << names[i];
  }
}

TEST(RmsNormAct, FusedEqualsComposedInValueAndGradient) {
  at::manual_seed(4);
  for (int64_t channels : {1, 3, 16, 24, 40}) {
    for (bool silu : {false, true}) {
      at::Tensor x = at::randn({2, channels, 3, 5, 4}).requires_grad_(true);
      at::Tensor gamma = at::randn({channels, 1, 1, 1}).requires_grad_(true);
      at::Tensor fused = rms_norm_act(x, gamma, silu, 2);
      at::Tensor composed = rms_norm_act_composed(x, gamma, silu, 2, {});
      EXPECT_LE(relative_error(fused, composed), tolerance::kNormActF32) << channels;
      at::Tensor cotangent = at::randn_like(composed);
      auto g = torch::autograd::grad({fused}, {x, gamma}, {cotangent});
      auto e = torch::autograd::grad({composed}, {x, gamma}, {cotangent});
      if (channels > 1) {  // with one channel the gradient in x is zero and its range rounding alone
        EXPECT_LE(relative_error(g[0], e[0]), tolerance::kNormActF32) << channels;
        EXPECT_LE(relative_error(g[1], e[1]), tolerance::kNormActF32) << channels;
      }
    }
  }
}

TEST(RmsNormAct, Bf16RoundsTheF32ResultOnce) {
  at::manual_seed(5);
  at::Tensor x = at::randn({1, 20, 2, 3, 4}).to(at::kBFloat16), gamma = at::randn({20, 1, 1, 1});
  at::Tensor exact = rms_norm_act_composed(x.to(at::kDouble), gamma.to(at::kDouble), true, 0, {});
  at::Tensor error = (rms_norm_act(x, gamma, true).to(at::kDouble) - exact).abs();
  // Half a unit in the last of 8 significant bits, and what F32 arithmetic adds.
  EXPECT_TRUE((error <= exact.abs() * (std::ldexp(1.0, -8) * 0.5 * 2 + 1e-5) + 1e-30).all().item<bool>());
}

TEST(RmsNormAct, ZeroInputGivesZeroAndExtremesStayFinite) {
  at::Tensor x = at::zeros({1, 16, 1, 2, 2}), gamma = at::full({16, 1, 1, 1}, 100.0);
  EXPECT_TRUE(at::equal(rms_norm_act(x, gamma, true), at::zeros_like(x)));
  at::Tensor spread = at::linspace(-1, 1, 64).view({1, 16, 1, 2, 2});
  EXPECT_TRUE(rms_norm_act(spread, gamma, true).isfinite().all().item<bool>());
}

TEST(RmsNormAct, BytesDoNotDependOnTheNumberOfThreads) {
  at::manual_seed(6);
  at::Tensor x = at::randn({1, 16, 4, 24, 24}).requires_grad_(true),
             gamma = at::randn({16, 1, 1, 1}).requires_grad_(true);
  int threads = at::get_num_threads();
  std::vector<std::vector<at::Tensor>> results;
  for (int n : {1, 2}) {
    at::set_num_threads(n);
    at::Tensor y = rms_norm_act(x, gamma, true, 2);
    auto g = torch::autograd::grad({y.square().sum()}, {x, gamma});
    results.push_back({y.detach(), g[0], g[1]});
  }
  at::set_num_threads(threads);
  for (size_t i = 0; i < 3; ++i)
    EXPECT_TRUE(at::equal(results[0][i], results[1][i])) << i;
}

// Counts live bytes of tensors (and of oneDNN's scratch) and their peak. The size stands in front of the data,
// because callers of raw_allocate need the data pointer itself as context.
class PeakAllocator : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    auto* base = static_cast<char*>(std::aligned_alloc(kHeader, kHeader + (bytes + kHeader - 1) / kHeader * kHeader));
    *reinterpret_cast<size_t*>(base) = bytes;
    live() += bytes;
    peak() = std::max(peak(), live());
    return {base + kHeader, base + kHeader, &release, c10::Device(c10::kCPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }
  size_t peak_of(const std::function<void()>& work) {
    c10::Allocator* before = c10::GetCPUAllocator();
    c10::SetCPUAllocator(this, 1);
    size_t start = live();
    peak() = start;
    work();
    c10::SetCPUAllocator(before, 1);
    return peak() - start;
  }

 private:
  static constexpr size_t kHeader = 64;
  static size_t& live() {
    static size_t bytes = 0;
    return bytes;
  }
  static size_t& peak() {
    static size_t bytes = 0;
    return bytes;
  }
  static void release(void* data) {
    if (data == nullptr) return;
    char* base = static_cast<char*>(data) - kHeader;
    live() -= *reinterpret_cast<size_t*>(base);
    std::free(base);
  }
};

TEST(WanVae, MemoryOfDecodeGrowsByTheOutputOnly) {
  static PeakAllocator allocator;  // outlives every tensor it made
  at::NoGradGuard no_grad;
  nn::RandomInit source(1);
  WanVae vae(small_config(), nn::Scope(source));
  auto peak = [&](int64_t latent_frames, bool streamed) {
    at::Tensor latents = at::randn({1, 2, latent_frames, 8, 8});
    return static_cast<double>(allocator.peak_of([&] {
      if (streamed) {
        vae.decode(latents, [](const at::Tensor&) {});
      } else {
        vae.decode(latents);
      }
    }));
  };
  double latent_bytes = 2 * 8 * 8 * 4, frame_bytes = 3 * 32 * 32 * 4;
  // A streamed decode keeps post_quant_conv's result (and, while that is made, its input in the other layout).
  EXPECT_LE(peak(13, true) - peak(5, true), 2 * 8 * latent_bytes);
  EXPECT_LE(peak(13, false) - peak(5, false), 2 * 8 * latent_bytes + 32 * frame_bytes);
}

TEST(WanVae, StreamedFramesAreTheDecodedVideo) {
  nn::RandomInit source(1);
  WanVae vae(small_config(), nn::Scope(source));
  at::Tensor latents = at::randn({1, 2, 3, 2, 2});
  std::vector<at::Tensor> chunks;
  vae.decode(latents, [&](const at::Tensor& frames) { chunks.push_back(frames.clone()); });
  ASSERT_EQ(chunks.size(), 3u);
  EXPECT_EQ(chunks[0].size(2), 1);
  EXPECT_TRUE(at::equal(at::cat(chunks, 2), vae.decode(latents)));
}

TEST(WanVae, Bf16StaysNearF32) {
  nn::RandomInit source(1);
  VaeConfig config;
  config.base_dim = 16;
  config.num_res_blocks = 1;
  WanVae vae(config, nn::Scope(source));
  identity_like_init(source.tensors, config, 1);
  at::manual_seed(8);
  at::Tensor video = at::rand({1, 3, 5, 16, 16}) * 2 - 1;
  at::Tensor moments = vae.encode(video), low = vae.encode(video.to(at::kBFloat16));
  EXPECT_EQ(low.scalar_type(), at::kBFloat16);
  EXPECT_LE(relative_error(low, moments), tolerance::kVaeBf16);
  at::Tensor mean = WanVae::posterior(moments).mean;
  EXPECT_LE(relative_error(vae.decode(mean.to(at::kBFloat16)), vae.decode(mean)), tolerance::kVaeBf16);
}

TEST(VaeInit, IdentityLikeReconstructsAnUntrainedClip) {
  at::NoGradGuard no_grad;
  VaeConfig config;
  config.base_dim = 16;
  config.z_dim = 8;
  config.dim_mult = {1, 1, 2, 4};
  config.num_res_blocks = 1;
  at::manual_seed(9);
  at::Tensor clip = at::upsample_trilinear3d(at::rand({1, 3, 2, 4, 4}) * 2 - 1, {9, 48, 64}, /*align_corners=*/true);
  double reached[2];
  for (bool identity_like : {false, true}) {
    nn::RandomInit source(1);
    WanVae vae(config, nn::Scope(source));
    if (identity_like) identity_like_init(source.tensors, config, 1);
    VaePosterior posterior = WanVae::posterior(vae.encode(clip));
    reached[identity_like] = psnr(vae.decode(posterior.mean), clip);
    if (identity_like) {
      EXPECT_LT((posterior.log_variance * 0.5).exp().max().item<double>(), 0.1);
    }
  }
  EXPECT_LT(reached[0], 15.0);
  EXPECT_GT(reached[1], reached[0] + 10.0);
}

TEST(VaeInit, NamesTheMissingTensor) {
  std::map<std::string, at::Tensor> none;
  try {
    identity_like_init(none, small_config(), 1);
    FAIL();
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("quant_conv"), std::string::npos) << e.what();
  }
}

void expect_error(const std::function<void()>& work, const std::string& part) {
  try {
    work();
    ADD_FAILURE() << "no error; expected one with '" << part << "'";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
  }
}

TEST(WanVae, RefusesWrongShapesByName) {
  nn::RandomInit source(1);
  WanVae vae(small_config(), nn::Scope(source));
  expect_error([&] { vae.encode(at::zeros({1, 3, 4, 8, 8})); }, "number of frames must be 1 + a multiple of 4");
  expect_error([&] { vae.encode(at::zeros({1, 3, 5, 8, 10})); }, "multiples of 4");
  expect_error([&] { vae.encode(at::zeros({1, 4, 5, 8, 8})); }, "in_channels = 3");
  expect_error([&] { vae.encode(at::zeros({3, 5, 8, 8})); }, "5 dimensions");
  expect_error([&] { vae.decode(at::zeros({1, 3, 1, 2, 2})); }, "z_dim = 2");
  expect_error([&] { vae.decode(at::zeros({1, 2, 0, 2, 2})); }, "at least one element");
  expect_error([&] { vae.decode(at::zeros({1, 2, 1, 2, 2}, at::kLong)); }, "floating-point");
  expect_error([&] { vae.decode(at::zeros({1, 2, 1, 4, 4}), VaeTiling{8, 8, 6, 8}); }, "VAE tiling");
}

TEST(WanVae, ProgressIsToldPerLatentFrameOfEachTile) {
  nn::RandomInit source(1);
  WanVae vae(small_config(), nn::Scope(source));
  const at::Tensor latents = at::zeros({1, 2, 3, 4, 5});  // 9 frames of 16x20
  std::vector<int64_t> done, totals;
  const auto progress = [&](int64_t d, int64_t total) {
    done.push_back(d);
    totals.push_back(total);
  };
  int64_t frames = 0;
  const auto sink = [&](const at::Tensor& chunk) { frames += chunk.size(2); };
  // Strides of 8 cover 16 rows with 2 tiles and 20 columns with 3.
  for (const auto& [tiling, total] : std::vector<std::pair<std::optional<VaeTiling>, int64_t>>{
           {std::nullopt, 3}, {VaeTiling{12, 12, 8, 8}, 2 * 3 * 3}, {VaeTiling{16, 20, 16, 20}, 3}}) {
    done.clear();
    totals.clear();
    frames = 0;
    vae.decode(latents, sink, tiling, progress);
    EXPECT_EQ(frames, 9);
    ASSERT_EQ(done.size(), static_cast<size_t>(total));
    for (int64_t i = 0; i < total; ++i)
      EXPECT_EQ(done[i], i + 1);
    EXPECT_EQ(totals, std::vector<int64_t>(static_cast<size_t>(total), total));
  }
  // What it throws ends the decode.
  EXPECT_THROW(vae.decode(latents, sink, VaeTiling{12, 12, 8, 8}, [](int64_t, int64_t) { throw Error("stop"); }),
               Error);
}

TEST(VaeConfig, RoundTripsThroughJson) {
  VaeConfig config = small_config();
  config.decoder_base_dim = 6;
  config.latents_mean = {0.5, -1};
  config.latents_std = {2, 3};
  VaeConfig again = VaeConfig::from_json(config.to_json());
  EXPECT_EQ(again.to_json(), config.to_json());
  EXPECT_EQ(again.temporal_factor(), 4);
  EXPECT_EQ(again.spatial_factor(), 4);
  VaeConfig wan = VaeConfig::from_json(nlohmann::json::object());
  EXPECT_EQ(wan.latents_mean.size(), 16u);
  EXPECT_EQ(wan.base_dim, 96);
}

TEST(VaeConfig, RefusesWhatItCannotRunByName) {
  auto refuse = [](nlohmann::json changes, const std::string& part) {
    nlohmann::json json = small_config().to_json();
    json.update(changes);
    expect_error([&] { VaeConfig::from_json(json); }, part);
  };
  refuse({{"is_residual", true}}, "Wan2.2");
  refuse({{"patch_size", 2}}, "Wan2.2");
  refuse({{"_class_name", "AutoencoderKL"}}, "_class_name");
  refuse({{"colour", 1}}, "unknown key 'colour'");
  refuse({{"base_dim", "many"}}, "base_dim");
  refuse({{"base_dim", 0}}, "base_dim");
  refuse({{"dim_mult", {1, 2}}}, "temperal_downsample");
  refuse({{"dim_mult", "wide"}}, "dim_mult");
  refuse({{"latents_mean", {1.0}}}, "latents_mean");
  refuse({{"latents_std", {1.0, 0.0}}}, "latents_std");
  refuse({{"scale_factor_spatial", 8}}, "scale_factor_spatial");
  refuse({{"scale_factor_temporal", 2}}, "scale_factor_temporal");
  refuse({{"decoder_base_dim", 3}, {"dim_mult", {1, 1, 1}}}, "must be even");
}

}  // namespace
}  // namespace fpsa::models::wan
