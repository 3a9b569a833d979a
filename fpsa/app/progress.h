// Progress of one stage: a bar with rate and remaining time on a terminal, plain lines elsewhere.
#pragma once

#include <chrono>
#include <cstdint>
#include <ostream>
#include <string>

namespace fpsa::app {

/// Where and how progress is shown.
struct ProgressStyle {
  std::ostream* out = nullptr;
  bool terminal = false;  // a bar that redraws itself; otherwise a line now and then
  int columns = 80;
};

/// Standard error, a bar when it is a terminal.
ProgressStyle progress_on_stderr();

/// "1:05" for 65 s, "2:03:00" for two hours and three minutes.
std::string clock_text(double seconds);

/// One stage.
class Progress {
 public:
  /// `unit` names what is counted, in the singular: "step", "chunk".
  Progress(ProgressStyle style, std::string label, std::string unit, int64_t total);
  /// Ends an unfinished bar's line, so that what follows starts on its own.
  ~Progress();

  /// Says that `done` units are complete.
  void advance_to(int64_t done);
  /// The same where the work tells its length as it goes.
  void advance_to(int64_t done, int64_t total);

 private:
  using Clock = std::chrono::steady_clock;
  void draw_bar(double per_unit, double remaining);
  void print_line(double per_unit, double remaining);

  ProgressStyle style_;
  std::string label_, unit_;
  int64_t total_, done_ = 0;
  Clock::time_point begin_, last_line_;
  bool line_open_ = false;
};

}  // namespace fpsa::app
