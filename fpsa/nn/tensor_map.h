// Named tensors in memory, and safetensors files as such.
#pragma once

#include <ATen/ATen.h>

#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "fpsa/io/safetensors.h"

namespace fpsa::nn {

using TensorMap = std::map<std::string, at::Tensor>;

/// What a checkpoint holds.
struct LoadedTensors {
  TensorMap tensors;
  std::map<std::string, std::string> metadata;
};

/// The torch type of a safetensors type, and back; throws for a torch type that the format lacks.
at::ScalarType scalar_type(io::Dtype dtype);
io::Dtype io_dtype(at::ScalarType type);

/// The safetensors files that make up the checkpoint at `path`.
///   Requires  path is a .safetensors file, a *.safetensors.index.json, or a folder that holds one of them; in a folder
///             only names that begin with `stem` count
///   Errors    fpsa::Error when nothing or more than one candidate is there, for pickles (with the way to convert
///             them), and for an index that leaves its folder
std::vector<std::filesystem::path> checkpoint_files(const std::filesystem::path& path, std::string_view stem = "");

/// Maps every tensor of a checkpoint (see checkpoint_files) into memory.
///   Layout    zero copy: CPU tensors over a read-only mapping that they keep alive; writing to one is a fault. A
///   tensor
///             that is not aligned to its element is copied instead
///   Errors    fpsa::Error on any violation of the format; a tensor in two shards; an index that disagrees with its
///             shards (all names at once); metadata that differs between shards
LoadedTensors load_tensors(const std::filesystem::path& path, std::string_view stem = "");

/// Writes one safetensors file atomically; tensors may have any strides and device.
void save_tensors(const std::filesystem::path& path, const TensorMap& tensors,
                  const std::map<std::string, std::string>& metadata = {});

}  // namespace fpsa::nn
