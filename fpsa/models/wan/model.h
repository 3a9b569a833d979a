// A Wan2.1 text-to-video model from files on disk, whatever layout they are in.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "fpsa/models/wan/dit.h"
#include "fpsa/models/wan/layouts.h"
#include "fpsa/models/wan/lora.h"
#include "fpsa/models/wan/text_encoder.h"
#include "fpsa/models/wan/tokenizer.h"
#include "fpsa/models/wan/vae.h"

namespace fpsa::models::wan {

/// What to load, and as what.
struct LoadOptions {
  at::ScalarType dtype = at::kBFloat16;                      // of the transformer's weights and activations
  at::ScalarType text_dtype = at::kBFloat16;                 // of the text encoder's
  at::ScalarType vae_dtype = at::kFloat;                     // of the VAE's, as diffusers recommends
  at::Device device = at::kCPU;                              // where all weights go; anything but the CPU copies them
  bool transformer = true, text_encoder = true, vae = true;  // the text encoder brings the tokenizer
  PartPaths paths;
  std::vector<LoraFile> loras;  // merged into the transformer's weights, in this order
};

/// How one part was loaded.
struct LoadedPart {
  Part part = Part::kTransformer;
  std::filesystem::path source;
  Naming naming = Naming::kDiffusers;
  int64_t parameters = 0;
  int64_t weight_bytes = 0;  // of all weights in use
  int64_t converted_bytes =
      0;  // of those, private copies in another dtype or with a LoRA; the rest is the file's pages
};

/// The loaded model; parts that were not asked for are null.
struct WanModel {
  Layout layout = Layout::kDiffusers;
  std::filesystem::path root;
  std::unique_ptr<WanDit> transformer;
  std::unique_ptr<WanVae> vae;
  std::unique_ptr<Umt5Encoder> text_encoder;
  std::unique_ptr<Tokenizer> tokenizer;
  std::map<std::string, std::string> metadata;  // of the transformer's files
  std::vector<LoadedPart> parts;
};

/// Recognises the layout at `path` and loads the parts asked for, mapped and copied only where the dtype differs.
///   Errors    fpsa::Error: everything find_model, find_part, rename_part, read_loras and nn::CheckpointSource refuse;
///             parts that do not fit together (latent channels, text width, vocabulary)
WanModel load_model(const std::filesystem::path& path, const LoadOptions& options = {});

/// One part alone, from a checkpoint file or folder with or without a config file (deduced from the shapes then).
struct PartOptions {
  at::ScalarType dtype = at::kBFloat16;
  at::Device device = at::kCPU;
};
std::unique_ptr<WanDit> load_transformer(const PartFiles& files, const PartOptions& options,
                                         LoadedPart* report = nullptr);
std::unique_ptr<WanVae> load_vae(const PartFiles& files, const PartOptions& options, LoadedPart* report = nullptr);
std::unique_ptr<Umt5Encoder> load_text_encoder(const PartFiles& files, const PartOptions& options,
                                               LoadedPart* report = nullptr);

}  // namespace fpsa::models::wan
