// What the bench found: cases as they come, and the figures drawn from them.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "fpsa/app/bench_sampler.h"
#include "fpsa/pattern/grid.h"

namespace fpsa::app::bench {

/// One thing that was timed, or that failed.
struct Case {
  std::string group, name;  // "dense", "dense/e4m3/L32760/D128"
  std::string kernel;       // the entry that ran, or whose implementation
  std::string isa;
  std::string format;  // "bf16", "e4m3"; empty where it does not matter
  pattern::Grid grid;
  int64_t heads = 1, dim = 0;
  int threads = 1;
  double density = 1;
  double operations = 0;  // multiplications and additions of visible pairs, per call; 0: not a matter of rates
  Timing timing;
  std::optional<double> peak_fraction;
  bool peak_disturbed = false;                     // others ran while the peak was measured
  std::optional<double> error;                     // relative L2 distance from the reference
  nlohmann::json more = nlohmann::json::object();  // what only some cases have

  bool failed() const { return !timing.failure.empty(); }
  double rate() const { return timing.seconds > 0 ? operations / timing.seconds : 0; }
};

/// The keys of the summary, in order.
const std::vector<std::string>& summary_keys();

/// Collects cases and figures and prints them as they come.
class Report {
 public:
  /// `about` is put in front of the cases in JSON: machine, mode, threads.
  explicit Report(nlohmann::json about);

  void add(Case item);
  /// A summary figure; `disturbed` when a case behind it is.
  void figure(const std::string& key, nlohmann::json value, bool disturbed);
  /// top / bottom * factor in seconds, or no figure with the reason when one is missing or failed.
  void ratio(const std::string& key, const Case* top, const Case* bottom, double factor = 1);
  void no_figure(const std::string& key, const std::string& reason);
  /// Something that went wrong outside of a case.
  void failure(const std::string& what);

  const std::vector<std::string>& failures() const { return failures_; }
  void print_summary() const;
  nlohmann::json to_json(double seconds) const;

 private:
  nlohmann::json about_, cases_ = nlohmann::json::array();
  nlohmann::json summary_ = nlohmann::json::object(), notes_ = nlohmann::json::object();
  std::vector<std::string> failures_;
};

/// The fastest of those that did not fail; null when there is none.
const Case* fastest(const std::vector<const Case*>& cases);

}  // namespace fpsa::app::bench
