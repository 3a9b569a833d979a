#include "fpsa/train/vae_objective.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/grad_mode.h>

#include <cmath>
#include <random>

#include "fpsa/base/check.h"
#include "fpsa/models/wan/vae_init.h"
#include "fpsa/ops/compute_dtype.h"
#include "fpsa/train/clip_batch.h"
#include "fpsa/train/contact_sheet.h"

namespace fpsa::train {
namespace {

enum : uint64_t { kCropStream = 1, kDataStream = 2, kNoiseStream = 3, kTestStream = 4, kStatisticsStream = 5 };
constexpr double kMseWeight = 0.5, kKlWeight = 1e-4;

at::Tensor as_batch(const at::Tensor& video, at::ScalarType dtype) {
  return video.to(dtype).contiguous(at::MemoryFormat::ChannelsLast3d);
}

double psnr(double mean_square) {
  return 10.0 * std::log10(4.0 / std::max(mean_square, 1e-12));
}

const Stage::Crop& choose_crop(const std::vector<Stage::Crop>& crops, uint64_t seed) {
  double total = 0;
  for (const auto& crop : crops)
    total += crop.weight;
  std::mt19937_64 random(seed);
  double at = std::uniform_real_distribution<>(0.0, total)(random);
  for (const auto& crop : crops)
    if ((at -= crop.weight) < 0) return crop;
  return crops.back();
}

}  // namespace

models::wan::VaeConfig tiny_vae_config() {
  models::wan::VaeConfig config;
  config.base_dim = 16;
  config.z_dim = 8;
  config.dim_mult = {1, 1, 2, 4};
  config.num_res_blocks = 1;
  return config;
}

VaeObjective::VaeObjective(uint64_t seed, bool decoder_only) : seed_(seed) {
  nn::RandomInit init(seed);
  vae_ = std::make_unique<models::wan::WanVae>(tiny_vae_config(), nn::Scope(init));
  parameters_ = init.tensors;
  models::wan::identity_like_init(parameters_, tiny_vae_config(), seed);
  for (auto& [name, weight] : parameters_)
    if (decoder_only && (name.starts_with("encoder.") || name.starts_with("quant_conv.")))
      weight.set_requires_grad(false);
}

bool VaeObjective::is_matrix(const std::string& name, const at::Tensor& weight) const {
  // The convolutions to and from pixels and latents are no mixing of like channels; they and the norms are AdamW's.
  if (!weight.requires_grad() || weight.dim() < 2 || weight.numel() / weight.size(0) < 8) return false;
  return name.find("conv_in") == std::string::npos && name.find("conv_out") == std::string::npos &&
         name.find("quant_conv") == std::string::npos;
}

Loss VaeObjective::loss(int64_t step, int64_t, int64_t micro) {
  const uint64_t index = static_cast<uint64_t>(step), batch = static_cast<uint64_t>(micro);
  const auto dtype = stage_.bf16 ? ops::fast_compute_dtype() : at::kFloat;
  const Stage::Crop& crop = choose_crop(stage_.crops, mix(seed_, kCropStream, index, batch));
  const at::Tensor video = crop_batch(crop, mix(seed_, kDataStream, index, batch));

  const auto [mean, log_variance] =
      models::wan::WanVae::posterior(vae_->encode_whole(as_batch(video, dtype)).to(at::kFloat));
  auto generator = at::detail::createCPUGenerator(mix(seed_, kNoiseStream, index, batch));
  const at::Tensor noise = at::randn(mean.sizes(), generator, at::kFloat);
  const at::Tensor latents = mean + (0.5 * log_variance).exp() * noise;
  const at::Tensor decoded = vae_->decode_whole(as_batch(latents, dtype)).to(at::kFloat);

  const at::Tensor l1 = at::l1_loss(decoded, video), mse = at::mse_loss(decoded, video);
  const at::Tensor kl = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).mean();
  Loss loss;
  loss.total = l1 + kMseWeight * mse + kKlWeight * kl;
  loss.samples = video.size(0);
  loss.figures = {{"l1", l1.item<double>()}, {"psnr_batch", psnr(mse.item<double>())}, {"kl", kl.item<double>()}};
  return loss;
}

Figures VaeObjective::evaluate(const std::filesystem::path& folder, const std::string& tag, bool final) {
  // Some clips at the final size; the small sizes that early stages of the transformer use; twice the pace.
  const std::array<std::array<int64_t, 3>, 3> sizes = {{{33, 256, 256}, {17, 128, 128}, {17, 64, 64}}};
  const int64_t clips = final ? 8 : 3;
  Figures figures;
  std::vector<SheetClip> sheet;
  for (const auto& size : sizes) {
    double square = 0, object_square = 0, object_weight = 0, worst = 0;
    for (int64_t i = 0; i < clips; ++i) {
      const ClipSpec spec = random_spec(mix(seed_, kTestStream, static_cast<uint64_t>(i)), /*held_out_only=*/true);
      const Clip clip = render(spec, size[0], size[1], size[2]);
      const at::Tensor video = video_of(clip).unsqueeze(0);
      const at::Tensor moments = vae_->encode(as_batch(video, ops::fast_compute_dtype()));
      const at::Tensor latents = models::wan::WanVae::posterior(moments).mean;
      const at::Tensor decoded = vae_->decode(latents).to(at::kFloat);
      const at::Tensor error = (decoded - video).square().mean(1)[0];
      const at::Tensor object =
          at::from_blob(const_cast<uint8_t*>(clip.coverage.data()), {clip.frames, clip.height, clip.width}, at::kByte)
              .gt(0)
              .to(at::kFloat);
      const double mean = error.mean().item<double>();
      square += mean / static_cast<double>(clips);
      worst = std::max(worst, mean);
      object_square += (error * object).sum().item<double>();
      object_weight += object.sum().item<double>();
      if (i < 3) {
        sheet.push_back({join("original ", size[0], "x", size[1], "x", size[2]), pixels_of(video[0])});
        sheet.push_back({"decoded", pixels_of(decoded[0])});
      }
    }
    const std::string suffix = size[1] == 256 ? "" : join("_", size[1]);
    figures["psnr" + suffix] = psnr(square);
    figures["psnr_worst" + suffix] = psnr(worst);
    figures["psnr_object" + suffix] = psnr(object_square / std::max(object_weight, 1.0));
    write_contact_sheet(folder / join(tag, "-", size[0], "x", size[1], ".png"), sheet, /*columns=*/9, /*side=*/128);
    sheet.clear();
  }
  return figures;
}

LatentStatistics measure_latents(const models::wan::WanVae& vae, uint64_t seed, int64_t clips) {
  at::NoGradGuard no_grad;
  const std::array<std::array<int64_t, 3>, 3> sizes = {{{33, 256, 256}, {17, 128, 128}, {17, 64, 64}}};
  at::Tensor sum, square;
  double count = 0;
  for (int64_t i = 0; i < clips; ++i) {
    // Each size counts for one third of the clips; inside a size every latent counts alike.
    const auto& size = sizes[static_cast<size_t>(i) % sizes.size()];
    const Clip clip =
        render(random_spec(mix(seed, kStatisticsStream, static_cast<uint64_t>(i)), false), size[0], size[1], size[2]);
    const at::Tensor mean =
        models::wan::WanVae::posterior(vae.encode(as_batch(video_of(clip).unsqueeze(0), ops::fast_compute_dtype())))
            .mean.to(at::kDouble);
    const at::Tensor first = mean.mean({0, 2, 3, 4}), second = mean.square().mean({0, 2, 3, 4});
    sum = sum.defined() ? sum + first : first;
    square = square.defined() ? square + second : second;
    ++count;
  }
  FPSA_CHECK(count > 0, "latent statistics need at least one clip");
  const at::Tensor mean = sum / count;
  const at::Tensor deviation = (square / count - mean.square()).clamp_min(1e-12).sqrt();
  LatentStatistics out;
  for (int64_t c = 0; c < mean.size(0); ++c) {
    out.mean.push_back(mean[c].item<double>());
    out.deviation.push_back(deviation[c].item<double>());
  }
  return out;
}

}  // namespace fpsa::train
