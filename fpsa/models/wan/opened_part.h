// One part of a model as it lies in its files: mapped, renamed, with the configuration it was made for.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "fpsa/models/wan/dit_config.h"
#include "fpsa/models/wan/layouts.h"
#include "fpsa/models/wan/text_encoder.h"
#include "fpsa/models/wan/tokenizer.h"
#include "fpsa/models/wan/vae_config.h"
#include "fpsa/models/wan/weight_map.h"

namespace fpsa::models::wan {

struct OpenedPart {
  PartFiles files;
  PartWeights weights;
  std::map<std::string, std::string> metadata;
  nlohmann::json config;  // null where there is no config file

  std::string origin() const { return files.weights.string(); }
};

/// Maps and renames; reads no weights.
OpenedPart open_part(const PartFiles& files, Part part);

/// The checkpoint's files: load_tensors' stem keeps an original transformer apart from its neighbours in the folder.
std::string_view checkpoint_stem(const PartFiles& files, Part part);

/// The configuration, from the config file or, without one, from the shapes.
DitConfig dit_config_of(const OpenedPart& part);
VaeConfig vae_config_of(const OpenedPart& part);
Umt5Config text_config_of(const OpenedPart& part);

/// The tokenizer that is named, else the place's, else the one that the text encoder's file carries.
///   Errors    MissingPart when there is none; fpsa::Error: everything Tokenizer refuses
Tokenizer load_tokenizer(const ModelPlace& place, const PartPaths& named, const OpenedPart& text);

/// Throws fpsa::Error, beginning with `origin`, when parts belong to different models; null: a part that is not there.
void check_fit(const std::string& origin, const DitConfig* dit, const VaeConfig* vae, const Umt5Config* text,
               const Tokenizer* tokenizer);

}  // namespace fpsa::models::wan
