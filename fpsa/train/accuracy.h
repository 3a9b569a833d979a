// How often generated clips show what their prompt asked for, judged by the clip checker.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "fpsa/train/clip_checker.h"
#include "fpsa/train/objective.h"

namespace fpsa::train {

inline constexpr std::array<std::string_view, 4> kAttributeNames = {"shape", "colour", "background", "motion"};

/// A share with its 95% Wilson score interval.
struct Share {
  int64_t right = 0, total = 0;
  double value() const { return total ? static_cast<double>(right) / static_cast<double>(total) : 0.0; }
  double low() const;
  double high() const;
};

/// Counts agreement per attribute. The control compares every reading with the next clip's prompt: what a checker
/// that ignores the clip, or a model that ignores the prompt, would score.
class Accuracy {
 public:
  void add(const ClipSpec& spec, const Reading& reading);
  /// By attribute, in the order of kAttributeNames.
  std::array<Share, 4> shares() const { return score(0); }
  std::array<Share, 4> control() const { return score(1); }
  /// All four attributes right.
  Share all_right() const;
  /// "accuracy_shape" and so on.
  Figures figures() const;
  /// A table in Markdown: attribute, share, interval, control.
  std::string table() const;

 private:
  std::array<Share, 4> score(size_t offset) const;
  std::vector<ClipSpec> specs_;
  std::vector<Reading> readings_;
};

}  // namespace fpsa::train
