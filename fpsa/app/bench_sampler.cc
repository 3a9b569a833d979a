#include "fpsa/app/bench_sampler.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <optional>
#include <sstream>

#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include "fpsa/app/failure.h"
#include "fpsa/app/interrupt.h"
#include "fpsa/app/study_stats.h"
#include "fpsa/base/check.h"

namespace fpsa::app::bench {
namespace {

// Seconds that the processors of this process's affinity mask have been busy, for anyone.
double busy_seconds() {
  cpu_set_t allowed;
  const bool all = sched_getaffinity(0, sizeof allowed, &allowed) != 0;
  std::ifstream file("/proc/stat");
  double ticks = 0;
  int processors = 0;
  for (std::string line; std::getline(file, line) && line.starts_with("cpu");) {
    std::istringstream fields(line.substr(3));
    int processor = 0;
    if (line[3] == ' ' || !(fields >> processor)) continue;  // the sum of all processors
    if (!all && (processor >= CPU_SETSIZE || !CPU_ISSET(static_cast<size_t>(processor), &allowed))) continue;
    double user = 0, nice = 0, system = 0, idle = 0, wait = 0, irq = 0, soft = 0, steal = 0;
    fields >> user >> nice >> system >> idle >> wait >> irq >> soft >> steal;
    ticks += user + nice + system + irq + soft + steal;
    ++processors;
  }
  FPSA_CHECK(processors > 0,
             "/proc/stat: expected lines of the processors, got none; without them no sample can be "
             "judged clean");
  return ticks / static_cast<double>(sysconf(_SC_CLK_TCK));
}

double process_seconds() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

int samples_for(double seconds, int most) {
  const int affordable = seconds < 2 ? most : seconds < 5 ? 3 : seconds < 12 ? 2 : 1;
  return std::min(most, affordable);
}

// One contender's turn-taking.
struct Turn {
  int repeats = 1, wanted = 1;
  std::vector<Sample> windows;
  std::string failure;

  int clean(double limit) const {
    return static_cast<int>(std::ranges::count_if(windows, [&](const Sample& s) { return s.others < limit; }));
  }
};

Timing timing_of(const Turn& turn, double limit) {
  if (!turn.failure.empty()) {
    Timing failed;
    failed.failure = turn.failure;
    return failed;
  }
  auto windows = turn.windows;
  std::ranges::stable_sort(windows, {}, &Sample::others);
  const int clean = turn.clean(limit);
  Timing timing;
  std::vector<double> cpu;
  timing.disturbed = clean < turn.wanted;
  timing.rejected = static_cast<int>(windows.size()) - clean;
  // Clean windows all count, in whatever number; disturbed ones only stand in.
  windows.resize(static_cast<size_t>(std::max(clean, turn.wanted)));
  for (const auto& window : windows) {
    timing.samples.push_back(window.seconds);
    cpu.push_back(window.cpu);
    timing.others = std::max(timing.others, window.others);
  }
  timing.cpu = median(cpu);
  timing.seconds = median(timing.samples);
  timing.spread = (std::ranges::max(timing.samples) - std::ranges::min(timing.samples)) / timing.seconds;
  return timing;
}

}  // namespace

OthersWatch::OthersWatch() : begin_(std::chrono::steady_clock::now()), busy_(busy_seconds()), own_(process_seconds()) {}

double OthersWatch::seconds() const {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
}

double OthersWatch::own_seconds() const {
  return process_seconds() - own_;
}

double OthersWatch::others() const {
  const double wall = seconds(), own = own_seconds(), busy = busy_seconds() - busy_;
  return wall > 0 ? std::max(busy - own, 0.0) / wall : 0.0;
}

nlohmann::json Timing::to_json() const {
  if (!failure.empty()) return {{"failure", failure}};
  return {{"seconds", seconds},     {"spread", spread}, {"samples", samples}, {"rejected", rejected},
          {"disturbed", disturbed}, {"others", others}, {"cpu_seconds", cpu}};
}

std::vector<Timing> take_turns(const std::vector<Contender>& contenders, const SamplePolicy& policy) {
  constexpr double kOwnWarmUp = 2.0;
  std::vector<Turn> turns(contenders.size());
  const auto sample = [&](size_t i, int repeats) -> std::optional<Sample> {
    policy.between();
    try {
      return contenders[i].run(repeats);
    } catch (const Interrupted&) {
      throw;
    } catch (const std::exception& error) {
      turns[i].failure = message_of(error);
      return std::nullopt;
    }
  };
  for (size_t i = 0; i < contenders.size(); ++i) {
    const auto first = sample(i, 1);
    if (!first) continue;
    turns[i].wanted = samples_for(first->seconds, contenders[i].most);
    const double repeats = std::ceil(policy.window_seconds / std::max(first->seconds, 1e-9));
    turns[i].repeats = static_cast<int>(std::clamp(repeats, 1.0, 1e6));
    if (first->seconds > kOwnWarmUp) turns[i].windows.push_back(*first);
  }
  for (bool open = true; open;) {
    open = false;
    for (size_t i = 0; i < contenders.size(); ++i) {
      Turn& turn = turns[i];
      const int taken = static_cast<int>(turn.windows.size());
      const bool done = turn.clean(policy.others_limit) >= turn.wanted || taken >= 2 * turn.wanted;
      const bool late = taken >= turn.wanted && std::chrono::steady_clock::now() > policy.retry_until;
      if (!turn.failure.empty() || done || late) continue;
      if (const auto window = sample(i, turn.repeats)) turn.windows.push_back(*window);
      open = true;
    }
  }
  std::vector<Timing> timings;
  for (const Turn& turn : turns)
    timings.push_back(timing_of(turn, policy.others_limit));
  return timings;
}

}  // namespace fpsa::app::bench
