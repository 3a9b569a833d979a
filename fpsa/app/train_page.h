// OUT/train.html: a training run on one page that needs nothing but itself and renews itself while the run is on.
#pragma once

#include <chrono>
#include <filesystem>
#include <string>

#include "fpsa/app/train_metrics.h"
#include "fpsa/train/recipe.h"

namespace fpsa::app {

enum class PageState { kRunning, kStopped, kFinished, kFailed };

struct TrainPage {
  std::filesystem::path out;  // with metrics.jsonl and previews/
  std::string recipe_name, machine;
  const train::Recipe* recipe = nullptr;  // must outlive this
  int64_t parameters = 0;
  PageState state = PageState::kRunning;
  std::string failure;  // what a failed run said
};

/// The page: position and time left, curves, sample frames, what was skipped, recipe and machine.
///   Errors    fpsa::Error for a preview that cannot be read
std::string train_page(const TrainPage& page);

/// Keeps OUT/train.html up to date.
class TrainPageWriter {
 public:
  explicit TrainPageWriter(TrainPage page) : page_(std::move(page)) {}
  /// Replaces the page atomically; while the run goes on at most every ten seconds, for which the curves of days are
  /// read.
  void write(PageState state, const std::string& failure = "");

 private:
  TrainPage page_;
  bool written_ = false;
  std::chrono::steady_clock::time_point last_;
};

}  // namespace fpsa::app
