// Where the parts of a Wan model lie in the folders that people download.
//
//   diffusers    model_index.json, transformer/, vae/, text_encoder/, tokenizer/, scheduler/
//   original     config.json and diffusion_pytorch_model*.safetensors, the VAE and UMT5 beside them, google/umt5-xxl/
//   repackaged   one file per part in diffusion_models/, vae/, text_encoders/ (ComfyUI), with or without split_files/
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "fpsa/base/check.h"
#include "fpsa/models/wan/weight_map.h"

namespace fpsa::models::wan {

enum class Layout { kDiffusers, kOriginal, kRepackaged };

/// "diffusers folder", "original Wan folder", "repackaged files".
std::string_view name_of(Layout layout);

/// A recognised place.
struct ModelPlace {
  Layout layout = Layout::kDiffusers;
  std::filesystem::path root;              // of the repackaged layout: the folder above diffusion_models/
  std::filesystem::path transformer_file;  // repackaged: the file that was named, if one was
  nlohmann::json index;                    // diffusers: model_index.json
};

/// Recognises the layout of a folder, or of a transformer's file inside one.
///   Errors    fpsa::Error: nothing recognisable (says what was expected), a pipeline of another model, and Wan2.2,
///             I2V and VACE folders, each by name
ModelPlace find_model(const std::filesystem::path& path);

/// A part's checkpoint (file, index or folder, as nn::load_tensors takes it) and its config file, empty where the
/// layout has none.
struct PartFiles {
  std::filesystem::path weights, config;
};

/// Parts from elsewhere, named one by one; empty: where the layout puts them.
struct PartPaths {
  std::filesystem::path vae, text_encoder;  // a checkpoint file, an index of shards, or a folder that holds one
  std::filesystem::path tokenizer;          // a folder with spiece.model, or a .model file
};

/// A part, or the tokenizer, that a place does not have, or has only as a Python pickle.
class MissingPart : public Error {
 public:
  using Error::Error;
};

/// Where a part lies.
///   Errors    fpsa::Error: ambiguous (names the candidates), only damaged files, a named path that does not exist.
///             MissingPart: not there, or a pickle, with the way to convert it
PartFiles find_part(const ModelPlace& place, Part part, const PartPaths& named = {});

/// A part's files from the path of its checkpoint alone: a config.json of that part inside the folder or beside the
/// file belongs to it.
PartFiles part_at(const std::filesystem::path& path, Part part);

/// The part that a folder's config.json of diffusers or transformers is for; nothing for others, or without the file.
std::optional<Part> configured_part(const std::filesystem::path& folder);

/// Folder or file for Tokenizer::load; empty when the place has none and none is named.
std::filesystem::path find_tokenizer(const ModelPlace& place, const PartPaths& named = {});

/// scheduler/scheduler_config.json; empty when the place has none.
std::filesystem::path find_scheduler(const ModelPlace& place);

/// Shift of the noise levels where no scheduler_config.json gives it: the default of the original repository.
inline constexpr double kOriginalFlowShift = 5.0;

}  // namespace fpsa::models::wan
