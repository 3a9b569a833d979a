// What a checkpoint holds, checked in full without reading a weight.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "fpsa/models/wan/layouts.h"

namespace fpsa::models::wan {

struct PartDescription {
  Part part = Part::kTransformer;
  std::filesystem::path source;
  Naming naming = Naming::kDiffusers;
  std::string prefix;  // in front of the names in the file
  int64_t tensors = 0, parameters = 0, bytes = 0;
  std::map<std::string, int64_t> bytes_by_dtype;  // "BF16" and so on
  bool scaled = false;                            // F8 codes with scales
  nlohmann::json config;                          // diffusers' keys, also where it was deduced
  std::map<std::string, std::string> metadata;
};

struct Description {
  std::filesystem::path root;
  std::string layout;  // name_of(Layout), or "one part"
  std::vector<PartDescription> parts;
  std::vector<std::string> absent;  // for each part that is not there, why
};

/// Describes a model folder in any layout, one part's folder, or one part's file.
///   Memory    headers and configs only
///   Errors    fpsa::Error: whatever load_model refuses, except that parts may be absent; names, shapes and
///             configuration of every part that is there are checked
Description describe(const std::filesystem::path& path);

/// A few lines for people.
std::string text_of(const Description& description);

}  // namespace fpsa::models::wan
