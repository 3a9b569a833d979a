// What a checkpoint holds, checked in full without reading a weight.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "fpsa/models/wan/layouts.h"

namespace fpsa::models::wan {

/// How much a part's weights are, whatever they are stored as.
struct WeightCount {
  int64_t parameters = 0;
  int64_t kept_f32 = 0;        // of those, F32 whatever the compute dtype
  int64_t largest_scaled = 0;  // elements of the largest F8 tensor that has a scale

  /// Memory of the weights once the part is loaded to compute in elements of that size.
  int64_t loaded_bytes(int64_t element_bytes) const { return (parameters - kept_f32) * element_bytes + kept_f32 * 4; }
  /// What loading needs beside the weights: a scaled tensor is multiplied in F32.
  int64_t loading_bytes() const { return largest_scaled * 4; }
};

struct PartDescription {
  Part part = Part::kTransformer;
  std::filesystem::path source;
  Naming naming = Naming::kDiffusers;
  std::string prefix;  // in front of the names in the file
  int64_t tensors = 0, bytes = 0;
  WeightCount weights;
  std::map<std::string, int64_t> bytes_by_dtype;  // "BF16" and so on
  bool scaled = false;                            // F8 codes with scales
  nlohmann::json config;                          // diffusers' keys, also where it was deduced
  std::map<std::string, std::string> metadata;
};

struct Description {
  std::filesystem::path root;
  std::string layout;  // name_of(Layout), or "one part"
  std::vector<PartDescription> parts;
  std::map<Part, std::string> absent;  // for each part that is not there, why
  std::string no_tokenizer;            // why a text encoder that is there has none; empty: it has one

  /// The part, or nullptr.
  const PartDescription* find(Part part) const;
};

/// Describes a model in any layout; without `with_text` as if it had no text encoder and needed none.
///   Memory    headers, configs and the tokenizer only
///   Errors    fpsa::Error: whatever load_model refuses, except that parts may be absent (MissingPart); names, shapes
///             and configuration of every part that is there are checked, and that they belong together
Description describe_model(const ModelPlace& place, const PartPaths& named = {}, bool with_text = true);

/// Describes a model folder, one part's folder, or one part's file, as describe_model does.
///   Errors    the same; `named` beside one part alone
Description describe(const std::filesystem::path& path, const PartPaths& named = {});

/// A few lines for people, metadata as metadata_text shows it.
std::string text_of(const Description& description);

/// The beginning of a metadata value: a checkpoint may carry megabytes, a terminal wants a few lines.
std::string metadata_text(const std::string& value);

}  // namespace fpsa::models::wan
