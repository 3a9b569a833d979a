// Latents of training clips, encoded once by the frozen autoencoder and used many times.
//
// Encoding a 33x256x256 clip costs more than a training step on its latents. So the pool holds the newest
// `capacity` clips, starts small and grows by one chunk at a time as training goes on. Chunk i always holds the same
// clips; finished chunks are kept as files, so a resumed run reads them back instead of encoding again.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <deque>
#include <filesystem>
#include <functional>
#include <string>

#include "fpsa/pattern/grid.h"
#include "fpsa/train/clips.h"
#include "fpsa/train/encoding_progress.h"

namespace fpsa::train {

/// Encodes one batch of videos [B, 3, F, H, W] into normalised latents [B, C, T, H/8, W/8].
using EncodeClips = std::function<at::Tensor(const at::Tensor& video)>;

class LatentPool {
 public:
  static constexpr int64_t kChunkClips = 16;

  struct Entry {
    ClipSpec spec;
    at::Tensor latents;   // [C, T, H/8, W/8] BF16, normalised
    at::Tensor coverage;  // [tokens] uint8, 0..255
  };

  /// `folder` keeps the chunks; `encoder_id` changes whenever the autoencoder does, so that chunks of another one
  /// are not read back.
  LatentPool(int64_t frames, int64_t height, int64_t width, uint64_t seed, int64_t capacity,
             std::filesystem::path folder, std::string encoder_id, EncodeClips encode);

  /// Makes chunks [0, chunks) known, of which the newest `capacity` clips stay.
  void grow_to(int64_t chunks, const EncodingProgress& progress = {});

  int64_t size() const { return static_cast<int64_t>(entries_.size()); }
  const Entry& operator[](int64_t index) const { return entries_[static_cast<size_t>(index)]; }
  pattern::Grid grid() const { return grid_; }

 private:
  void add_chunk(int64_t chunk, int64_t chunks, const EncodingProgress& progress);

  int64_t frames_, height_, width_;
  uint64_t seed_;
  int64_t capacity_chunks_, next_chunk_ = 0;
  std::filesystem::path folder_;
  std::string encoder_id_;
  EncodeClips encode_;
  pattern::Grid grid_;
  std::deque<Entry> entries_;
};

}  // namespace fpsa::train
