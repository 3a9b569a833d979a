#include "fpsa/models/wan/vae_config.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>

#include "fpsa/base/check.h"

namespace fpsa::models::wan {
namespace {

// Statistics of Wan2.1's latents; a config.json that omits them means these.
const std::vector<double> kWanLatentsMean = {-0.7571, -0.7089, -0.9113, 0.1075,  -0.1745, 0.9653,  -0.1517, 1.5508,
                                             0.4134,  -0.0715, 0.5517,  -0.3632, -0.1922, -0.9497, 0.2503,  -0.2921};
const std::vector<double> kWanLatentsStd = {2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
                                            3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160};

template <class T>
void read(const nlohmann::json& json, const char* key, T& value) {
  auto it = json.find(key);
  if (it == json.end() || it->is_null()) return;
  try {
    value = it->get<T>();
  } catch (const nlohmann::json::exception& e) {
    throw Error(join("VAE config: '", key, "' has the wrong type: received ", it->dump(), " (", e.what(), ")"));
  }
}

void read(const nlohmann::json& json, const char* key, int64_t& value) {
  auto it = json.find(key);
  if (it == json.end() || it->is_null()) return;
  FPSA_CHECK(it->is_number_integer(), "VAE config: '", key, "' must be an integer, received ", it->dump());
  value = it->get<int64_t>();
}

// Wan2.2's VAE shares the class name; what differs is named by these two keys.
void refuse_wan22(const nlohmann::json& json) {
  auto residual = json.find("is_residual");
  FPSA_CHECK(residual == json.end() || *residual == false || residual->is_null(),
             "VAE config: is_residual = ", residual->dump(),
             " is the VAE of Wan2.2 (5B), which is not supported yet; use a Wan2.1 text-to-video checkpoint");
  auto patch = json.find("patch_size");
  FPSA_CHECK(patch == json.end() || patch->is_null(), "VAE config: patch_size = ", patch->dump(),
             " is the VAE of Wan2.2 (5B), which is not supported yet; use a Wan2.1 text-to-video checkpoint");
}

void check_keys(const nlohmann::json& json) {
  static const std::vector<std::string> known = {"base_dim",
                                                 "decoder_base_dim",
                                                 "z_dim",
                                                 "dim_mult",
                                                 "num_res_blocks",
                                                 "attn_scales",
                                                 "temperal_downsample",
                                                 "dropout",
                                                 "latents_mean",
                                                 "latents_std",
                                                 "in_channels",
                                                 "out_channels",
                                                 "is_residual",
                                                 "patch_size",
                                                 "scale_factor_temporal",
                                                 "scale_factor_spatial"};
  for (const auto& [key, value] : json.items()) {
    if (key.starts_with("_") || value.is_null()) continue;
    FPSA_CHECK(std::find(known.begin(), known.end(), key) != known.end(), "VAE config: unknown key '", key,
               "' = ", value.dump(), "; expected the keys of AutoencoderKLWan, among them base_dim, z_dim, dim_mult");
  }
}

// No real VAE comes near these: a larger value is a broken file, and loops and products of sizes stay small.
constexpr int64_t kLargestWidth = 1 << 20;
constexpr int64_t kMostResBlocks = 64;

void check_size(const char* key, int64_t value, int64_t largest) {
  FPSA_CHECK(value >= 1 && value <= largest, "VAE config: ", key, " must be from 1 to ", largest, ", received ", value);
}

}  // namespace

int64_t VaeConfig::temporal_factor() const {
  return int64_t{1} << std::count(temperal_downsample.begin(), temperal_downsample.end(), true);
}

void VaeConfig::check() const {
  check_size("base_dim", base_dim, kLargestWidth);
  check_size("decoder_base_dim", decoder_dim(), kLargestWidth);
  FPSA_CHECK(!dim_mult.empty() && dim_mult.size() <= 8, "VAE config: dim_mult needs 1 to 8 entries, received ",
             dim_mult.size());
  for (int64_t m : dim_mult) {
    check_size("dim_mult's entries", m, kLargestWidth);
    FPSA_CHECK(std::max(base_dim, decoder_dim()) * m <= kLargestWidth,
               "VAE config: dim_mult: a level may have at most ", kLargestWidth, " channels, received ",
               std::max(base_dim, decoder_dim()), " * ", m);
  }
  FPSA_CHECK(temperal_downsample.size() + 1 == dim_mult.size(), "VAE config: temperal_downsample must have ",
             dim_mult.size() - 1, " entries (one fewer than dim_mult), received ", temperal_downsample.size());
  check_size("z_dim", z_dim, kLargestWidth);
  check_size("num_res_blocks", num_res_blocks, kMostResBlocks);
  check_size("in_channels", in_channels, kLargestWidth);
  check_size("out_channels", out_channels, kLargestWidth);
  for (size_t i = 1; i < dim_mult.size(); ++i) {  // an up-sampling halves the channels of its level
    FPSA_CHECK(decoder_dim() * dim_mult[i] % 2 == 0, "VAE config: decoder_base_dim * dim_mult[", i,
               "] must be even, received ", decoder_dim(), " * ", dim_mult[i]);
  }
  auto z = static_cast<size_t>(z_dim);
  FPSA_CHECK(latents_mean.size() == latents_std.size() && (latents_mean.empty() || latents_mean.size() == z),
             "VAE config: latents_mean and latents_std must have z_dim = ", z_dim, " entries each, received ",
             latents_mean.size(), " and ", latents_std.size());
  for (double s : latents_std)
    FPSA_CHECK(s > 0, "VAE config: latents_std must be positive, received ", s);
}

VaeConfig VaeConfig::from_json(const nlohmann::json& json) {
  FPSA_CHECK(json.is_object(), "VAE config: expected a JSON object, received ", json.type_name());
  std::string class_name = "AutoencoderKLWan";
  read(json, "_class_name", class_name);
  FPSA_CHECK(class_name == "AutoencoderKLWan", "VAE config: _class_name must be AutoencoderKLWan, received '",
             class_name, "'; point at the vae folder of a Wan2.1 checkpoint");
  refuse_wan22(json);
  check_keys(json);
  VaeConfig c;
  read(json, "base_dim", c.base_dim);
  read(json, "z_dim", c.z_dim);
  read(json, "num_res_blocks", c.num_res_blocks);
  read(json, "in_channels", c.in_channels);
  read(json, "out_channels", c.out_channels);
  int64_t decoder_dim = c.base_dim;
  read(json, "decoder_base_dim", decoder_dim);
  if (decoder_dim != c.base_dim) c.decoder_base_dim = decoder_dim;
  read(json, "dim_mult", c.dim_mult);
  read(json, "attn_scales", c.attn_scales);
  read(json, "temperal_downsample", c.temperal_downsample);
  read(json, "dropout", c.dropout);
  if (c.z_dim == 16) {
    c.latents_mean = kWanLatentsMean;
    c.latents_std = kWanLatentsStd;
  }
  read(json, "latents_mean", c.latents_mean);
  read(json, "latents_std", c.latents_std);
  c.check();
  int64_t spatial = c.spatial_factor(), temporal = c.temporal_factor();
  read(json, "scale_factor_spatial", spatial);
  read(json, "scale_factor_temporal", temporal);
  FPSA_CHECK(spatial == c.spatial_factor(), "VAE config: scale_factor_spatial must be ", c.spatial_factor(), " for ",
             c.dim_mult.size(), " entries of dim_mult, received ", spatial);
  FPSA_CHECK(temporal == c.temporal_factor(), "VAE config: scale_factor_temporal must be ", c.temporal_factor(),
             " for this temperal_downsample, received ", temporal);
  return c;
}

nlohmann::json VaeConfig::to_json() const {
  nlohmann::json j = {{"_class_name", "AutoencoderKLWan"},
                      {"base_dim", base_dim},
                      {"decoder_base_dim", nullptr},
                      {"z_dim", z_dim},
                      {"dim_mult", dim_mult},
                      {"num_res_blocks", num_res_blocks},
                      {"attn_scales", attn_scales},
                      {"temperal_downsample", temperal_downsample},
                      {"dropout", dropout},
                      {"in_channels", in_channels},
                      {"out_channels", out_channels},
                      {"is_residual", false},
                      {"patch_size", nullptr},
                      {"scale_factor_temporal", temporal_factor()},
                      {"scale_factor_spatial", spatial_factor()}};
  if (decoder_base_dim) j["decoder_base_dim"] = *decoder_base_dim;
  // diffusers multiplies by these unconditionally, so an absent statistic is written as the identity.
  auto z = static_cast<size_t>(z_dim);
  j["latents_mean"] = latents_mean.empty() ? std::vector<double>(z, 0.0) : latents_mean;
  j["latents_std"] = latents_std.empty() ? std::vector<double>(z, 1.0) : latents_std;
  return j;
}

}  // namespace fpsa::models::wan
