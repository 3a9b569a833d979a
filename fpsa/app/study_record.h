// What a study keeps on disk: one file for each clip that was made and judged, so that a second run goes on where the
// first one stopped.
//
//   OUT/study.json              settings of all arms
//   OUT/arms/NAME/arm.json      what the arm runs
//   OUT/arms/NAME/item-0007.json, and for some item-0007.mp4
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "fpsa/app/study_arms.h"

namespace fpsa::app {

/// Wall seconds of one clip.
struct ClipSeconds {
  double denoise = 0, attention = 0, decode = 0;
  double total() const { return denoise + decode; }
};

/// One clip of one arm.
struct ClipRecord {
  int64_t item = 0;
  int64_t prompt_index = 0;  // several items when a prompt has several samples
  std::string prompt;
  uint64_t seed = 0;    // of the noise
  std::string machine;  // processor, instruction set and threads
  std::string digest;   // of the pixels
  ClipSeconds seconds;
  ClipSeconds dense;                 // of the dense clip of this item in the same run
  double density = 1;                // mean over steps, layers and heads
  std::vector<std::string> kernels;  // sorted
  // Against the dense clip; PSNRs are empty for equal clips.
  bool identical = false;
  std::optional<double> psnr_db, temporal_psnr_db;
  double ssim = 1;
  std::optional<double> lpips;                 // where weights for it were given
  double change = 0, flicker = 0;              // temporal_metrics.h
  std::optional<std::array<bool, 4>> correct;  // shape, colour, background, motion, where there is something to judge
};

nlohmann::json to_json(const ClipRecord& record);
/// Errors    fpsa::Error beginning with `origin`: a missing key or a value of a wrong kind
ClipRecord record_from_json(const nlohmann::json& json, const std::string& origin);

/// 16 hexadecimal digits of FNV-1a: tells apart what is different by accident, not by intent.
std::string digest_of(std::string_view bytes);

/// The digest of a model's weights: of every safetensors file in its parts the size and 64 evenly spread pieces.
std::string weights_digest(const std::vector<std::filesystem::path>& parts);

class StudyFolder {
 public:
  /// Opens or begins a study; `settings` is a flat object of everything that all clips depend on.
  ///   Edges     an empty or missing folder begins one; with `look_only` nothing is ever written
  ///   Errors    UsageError naming --out and the first setting that differs; a folder with other content
  StudyFolder(std::filesystem::path path, const nlohmann::json& settings, bool look_only);

  /// Accepts an arm, new or with the same identity as before. `weights` is the digest of its model.
  ///   Errors    UsageError when the folder has clips of an arm of this name that ran something else
  void add(const Arm& arm, const std::string& weights);

  /// The record of one item, or nothing; of another prompt or seed it is an error, not a result.
  ///   Errors    fpsa::Error naming the file and what to do
  std::optional<ClipRecord> read(const Arm& arm, int64_t item, const std::string& prompt, uint64_t seed) const;
  void write(const Arm& arm, const ClipRecord& record) const;

  std::filesystem::path clip(const Arm& arm, int64_t item) const;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path arm_folder(const Arm& arm) const { return path_ / "arms" / arm.name; }
  std::filesystem::path path_;
  bool look_only_;
};

}  // namespace fpsa::app
