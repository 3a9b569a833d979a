// A user's videos as training reads them: latents and caption states, encoded once and kept in a cache folder.
//
// The cache is a folder of shards (data_shards.h). What a stored clip was made of is its key: the file's name, size and
// time of change, the clip's shape, rate and number, and the VAE's identity; of a caption its text and the text
// encoder's identity. Preparing a second time encodes what is not there under its key, and nothing else.
#pragma once

#include <ATen/ATen.h>

#include <array>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "fpsa/models/wan/layouts.h"
#include "fpsa/train/data_manifest.h"
#include "fpsa/train/data_shards.h"
#include "fpsa/train/encoding_progress.h"
#include "fpsa/train/recipe.h"

namespace fpsa::train {

/// Frames, height and width of the clips of a stage.
using Bucket = std::array<int64_t, 3>;

/// What preparing found and did. A video counts once for each bucket.
struct DataReport {
  int64_t videos = 0;                                        // in the list
  int64_t encoded = 0;                                       // videos encoded now, those that changed among them
  int64_t reused = 0;                                        // videos found in the cache
  int64_t changed = 0;                                       // found under an older key and encoded again
  int64_t clips = 0;                                         // usable, all buckets together
  std::vector<std::pair<std::string, std::string>> skipped;  // file and reason
  std::vector<std::string> uncaptioned;                      // videos in the folder that the list does not name

  /// For metrics.jsonl: {"data": {"videos": ..., "skipped": [{"file": ..., "reason": ...}]}}.
  nlohmann::json to_json() const;
  /// For people: one line of counts, then one line per skipped or uncaptioned video.
  std::string text() const;
};

struct DataHooks {
  std::function<void(const std::string&)> print;  // what is damaged or encoded again, and why
  EncodingProgress progress;
};

class ClipCache {
 public:
  /// Makes every clip of every bucket and every caption available, encoding what is missing. The VAE is read in any
  /// case, to know it by its weights; the text encoder is loaded only if a caption is missing.
  ///   Errors    fpsa::Error: the list's faults (read_manifest), an unwritable cache, a bucket without a single usable
  ///             clip. A video that cannot be read or is too short is skipped and reported instead.
  ClipCache(const DataConfig& config, const std::vector<Bucket>& buckets, const models::wan::ModelPlace& place,
            const DataHooks& hooks = {});

  const DataReport& report() const { return report_; }

  /// Clips of a bucket, in the order of the list.
  int64_t size(const Bucket& bucket) const { return static_cast<int64_t>(clips_.at(bucket).size()); }
  /// Normalised latents [C, T, H/8, W/8] BF16.
  at::Tensor latents(const Bucket& bucket, int64_t index) const;
  const std::string& caption(const Bucket& bucket, int64_t index) const;
  /// States of the clip's caption [tokens, d_model] BF16, without padding.
  at::Tensor states(const Bucket& bucket, int64_t index) const;
  /// States of the empty prompt.
  at::Tensor empty_states() const;

 private:
  struct Clip {
    nlohmann::json key;  // of the video's clips in the store
    int64_t index;       // among them
    size_t video;        // in the list
  };
  void prepare_clips(const std::vector<Bucket>& buckets, const models::wan::ModelPlace& place, const DataHooks& hooks);
  void prepare_captions(const models::wan::ModelPlace& place, const DataHooks& hooks);
  nlohmann::json caption_key(const std::string& caption) const;

  DataConfig config_;
  Manifest manifest_;  // with captions cleaned as prompts are
  DataReport report_;
  ShardStore clip_store_, caption_store_;
  std::string text_id_;
  std::map<Bucket, std::vector<Clip>> clips_;
};

/// The buckets of a recipe's stages, each once.
std::vector<Bucket> buckets_of(const Recipe& recipe);

}  // namespace fpsa::train
