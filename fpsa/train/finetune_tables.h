// Reading the recipe's [data] and [lora] tables. For recipe.cc alone: toml++ stays out of the room's interface.
#pragma once

#include <toml++/toml.h>

#include <string>

#include "fpsa/train/finetune_config.h"

namespace fpsa::train {

/// `origin` is the path of the recipe: paths in it are relative to its folder.
///   Errors    fpsa::Error naming file, key, what was expected and what was found; unknown keys are errors
DataConfig read_data_table(const toml::table& table, const std::string& origin);
LoraConfig read_lora_table(const toml::table& table, const std::string& origin);

}  // namespace fpsa::train
