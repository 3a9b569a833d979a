// One part of a model as it lies in its files: mapped, renamed, with the configuration it was made for.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "fpsa/models/wan/dit_config.h"
#include "fpsa/models/wan/layouts.h"
#include "fpsa/models/wan/text_encoder.h"
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

}  // namespace fpsa::models::wan
