#include "fpsa/app/progress.h"

#include <algorithm>
#include <cmath>
#include <iomanip>
#include <iostream>
#include <sstream>

#include <sys/ioctl.h>
#include <unistd.h>

namespace fpsa::app {
namespace {

// Without a terminal a log gets a line at most this often, and always the last one.
constexpr double kLineSeconds = 5.0;

std::string rate_text(double seconds, const std::string& unit) {
  std::ostringstream out;
  out << std::fixed << std::setprecision(seconds < 10 ? 2 : 1) << seconds << " s/" << unit;
  return out.str();
}

}  // namespace

ProgressStyle progress_on_stderr() {
  ProgressStyle style{&std::cerr, isatty(STDERR_FILENO) == 1, 80};
  winsize size = {};
  if (style.terminal && ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) style.columns = size.ws_col;
  return style;
}

std::string clock_text(double seconds) {
  const auto total = static_cast<int64_t>(std::llround(std::max(0.0, seconds)));
  std::ostringstream out;
  out << std::setfill('0');
  if (total >= 3600) {
    out << total / 3600 << ':' << std::setw(2) << total / 60 % 60;
  } else {
    out << total / 60;
  }
  out << ':' << std::setw(2) << total % 60;
  return out.str();
}

Progress::Progress(ProgressStyle style, std::string label, std::string unit, int64_t total)
    : style_(style),
      label_(std::move(label)),
      unit_(std::move(unit)),
      total_(total),
      begin_(Clock::now()),
      last_line_(begin_) {}

Progress::~Progress() {
  if (line_open_) *style_.out << '\n' << std::flush;
}

void Progress::advance_to(int64_t done, int64_t total) {
  total_ = total;
  advance_to(done);
}

void Progress::advance_to(int64_t done) {
  if (!style_.out || done <= done_) return;
  done_ = done;
  const auto now = Clock::now();
  const double per_unit = std::chrono::duration<double>(now - begin_).count() / static_cast<double>(done);
  const double remaining = per_unit * static_cast<double>(total_ - done);
  if (style_.terminal) {
    draw_bar(per_unit, remaining);
  } else if (done >= total_ || std::chrono::duration<double>(now - last_line_).count() >= kLineSeconds) {
    last_line_ = now;
    print_line(per_unit, remaining);
  }
}

void Progress::draw_bar(double per_unit, double remaining) {
  std::ostringstream tail;
  tail << ' ' << done_ << '/' << total_ << "  " << rate_text(per_unit, unit_) << "  "
       << (done_ >= total_ ? "took " + clock_text(per_unit * static_cast<double>(done_))
                           : "ETA " + clock_text(remaining));
  const auto used = static_cast<int>(label_.size() + tail.str().size()) + 4;
  const int width = std::clamp(style_.columns - used, 0, 40);
  const auto filled = static_cast<int>(width * done_ / std::max<int64_t>(total_, 1));
  // Erase to the end of the line first: the text may have become shorter.
  *style_.out << "\r\033[K" << label_;
  if (width >= 5) *style_.out << " [" << std::string(filled, '=') << std::string(width - filled, ' ') << ']';
  *style_.out << tail.str();
  line_open_ = done_ < total_;
  if (!line_open_) *style_.out << '\n';
  *style_.out << std::flush;
}

void Progress::print_line(double per_unit, double remaining) {
  *style_.out << label_ << ": " << unit_ << ' ' << done_ << '/' << total_ << ", " << rate_text(per_unit, unit_);
  if (done_ < total_) *style_.out << ", ETA " << clock_text(remaining);
  *style_.out << '\n' << std::flush;
}

}  // namespace fpsa::app
