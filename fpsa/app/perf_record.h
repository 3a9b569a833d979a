// What a run measured, for the summary and for --perf-dump-path.
#pragma once

#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "fpsa/accel/methods.h"

namespace fpsa::app {

/// Seconds of named stages in the order they first ran; a stage that runs again adds up.
class StageTimes {
 public:
  /// Adds the time since construction to its stage when it ends.
  class Timer {
   public:
    Timer(StageTimes& times, std::string stage) : times_(times), stage_(std::move(stage)) {}
    ~Timer() { times_.add(stage_, std::chrono::duration<double>(Clock::now() - begin_).count()); }
    Timer(const Timer&) = delete;
    Timer& operator=(const Timer&) = delete;

   private:
    using Clock = std::chrono::steady_clock;
    StageTimes& times_;
    std::string stage_;
    Clock::time_point begin_ = Clock::now();
  };

  Timer time(std::string stage) { return {*this, std::move(stage)}; }
  void add(const std::string& stage, double seconds);
  double seconds(const std::string& stage) const;
  double total() const;
  const std::vector<std::pair<std::string, double>>& stages() const { return stages_; }

 private:
  std::vector<std::pair<std::string, double>> stages_;
};

/// One video of a run.
struct VideoRecord {
  std::string prompt, output;
  std::vector<double> step_seconds;
  double attention_seconds = 0;
};

/// Everything that one run of `fpsa generate` reports.
struct PerfRecord {
  nlohmann::json parameters;
  std::string attention, attention_reason;
  double estimated_bytes = 0;
  StageTimes stages;
  std::vector<VideoRecord> videos;
  std::vector<accel::Explain> attention_report;  // of the last video

  /// Mean over the steps of all videos.
  double seconds_per_step() const;
  double attention_seconds() const;
  /// Share of the denoising time that attention took, 0 to 1.
  double attention_share() const;
  nlohmann::json to_json() const;
};

}  // namespace fpsa::app
