// Tensors by key in a folder of safetensors files, written once and read many times.
//
// Encoding a data set takes hours, so what is done must survive a kill: tensors gather in memory and are written, one
// shard at a time, as a complete file under the next free number. A shard holds tensors "0", "1", ... and in its
// metadata a JSON list of their keys and checksums. Shards are never changed.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

namespace fpsa::train {

class ShardStore {
 public:
  /// A shard is written when it holds so many tensors or bytes.
  static constexpr size_t kShardTensors = 16;
  static constexpr int64_t kShardBytes = int64_t{256} << 20;

  /// Opens the shards "<stem>-000000.safetensors", ... of a folder, which is made if need be, and verifies every
  /// checksum. A shard that is damaged is reported through `warn` and renamed to "....damaged": its keys count as
  /// absent.
  ///   Memory    mapped; what is not used is not kept
  ///   Errors    fpsa::Error when the folder cannot be made or read
  ShardStore(std::filesystem::path folder, std::string stem, const std::function<void(const std::string&)>& warn);

  bool contains(const nlohmann::json& key) const { return stored_.contains(key.dump()); }
  /// All keys, in the order of their text.
  std::vector<nlohmann::json> keys() const;
  /// The tensor of a key that is there.
  const at::Tensor& get(const nlohmann::json& key) const;

  /// Adds a tensor under a new key; it is there at once, on disk after the shard is full or flush().
  ///   Errors    fpsa::Error when the disk is full; what was written before stays
  void put(const nlohmann::json& key, const at::Tensor& tensor);
  void flush();

 private:
  void open_shard(const std::filesystem::path& file);

  std::filesystem::path folder_;
  std::string stem_;
  int64_t next_shard_ = 0;
  std::map<std::string, at::Tensor> stored_;  // by the key's text
  std::vector<std::string> pending_;          // keys that are not on disk yet
  int64_t pending_bytes_ = 0;
};

/// 64 bits that change when any byte of a contiguous CPU tensor does, as 16 hexadecimal digits. No protection against
/// intent.
std::string checksum(const at::Tensor& tensor);

}  // namespace fpsa::train
