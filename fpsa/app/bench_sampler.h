// Samples that count: wall time of calls during which other processes hardly ran.
//
// A sample is a window of repeated calls, long enough for the kernel's 10 ms accounting to tell who used the processors
// meanwhile. Contenders take turns, so that drift of the clock frequency meets them all.
#pragma once

#include <chrono>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace fpsa::app::bench {

/// One window of calls.
struct Sample {
  double seconds = 0;  // per call
  double others = 0;   // processor time of other processes, as a share of the window's wall time
  double cpu = 0;      // this process's processor time per call, all threads
};

/// Watches the processors that this process may use, from construction on.
class OthersWatch {
 public:
  OthersWatch();
  double seconds() const;      // wall time so far
  double own_seconds() const;  // processor time of this process
  /// Processor time that other processes and the hypervisor took, divided by wall time.
  ///   Errors    fpsa::Error where /proc/stat is missing
  double others() const;

 private:
  std::chrono::steady_clock::time_point begin_;
  double busy_, own_;
};

/// Times `repeats` calls as one window.
template <class Function>
Sample time_calls(int repeats, const Function& call) {
  const OthersWatch watch;
  for (int i = 0; i < repeats; ++i)
    call();
  return {watch.seconds() / repeats, watch.others(), watch.own_seconds() / repeats};
}

/// Something that takes turns.
struct Contender {
  std::function<Sample(int repeats)> run;
  int most = 3;  // samples wanted; long calls get fewer
};

/// The samples of one contender.
struct Timing {
  double seconds = 0;  // median
  double spread = 0;   // (largest - smallest) / median of the samples that count
  double cpu = 0;      // median of processor time: what is left to look at on a machine that is never quiet
  std::vector<double> samples;
  int rejected = 0;        // windows that others disturbed
  bool disturbed = false;  // too few clean windows: the least disturbed ones stand in
  double others = 0;       // largest share of other processes in a window that counts
  std::string failure;     // why there is no time; the other fields are then empty
  nlohmann::json to_json() const;
};

struct SamplePolicy {
  double window_seconds = 0.3;
  double others_limit = 0.05;
  std::chrono::steady_clock::time_point retry_until = std::chrono::steady_clock::time_point::max();
  std::function<void()> between = [] {};  // called before every window
};

/// Warms every contender up, then samples them in turns until each has its number of clean windows, at most
/// twice as many windows as wanted, and none beyond that number after retry_until.
///   Numerics  calls over 2 s are their own warm-up; over 2, 5 and 12 s at most 3, 2 and 1 samples are taken
///   Errors    a contender that throws leaves the turns, with its message as failure; Interrupted ends them
std::vector<Timing> take_turns(const std::vector<Contender>& contenders, const SamplePolicy& policy);

}  // namespace fpsa::app::bench
