// What the groups of cases share: sizes, peers, peaks, and the way from a problem to timed cases.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "fpsa/app/bench_attention.h"
#include "fpsa/app/bench_peak.h"
#include "fpsa/app/bench_peer.h"
#include "fpsa/app/bench_problem.h"
#include "fpsa/app/bench_report.h"

namespace fpsa::app::bench {

/// What a run works on.
struct Sizes {
  std::vector<Shape> dense;            // rising
  pattern::Grid primary, tile;         // the summary's dense and sparse cases
  std::vector<pattern::Grid> windows;  // on the primary grid
  pattern::Grid paper, paper_window;   // the paper's own case
  pattern::Grid kernel_grid;           // of the table of all kernels
  std::vector<int64_t> dims;           // all head dims
  std::vector<int64_t> long_dims;      // those of the paper's case
  double window_seconds;               // of a sample
  int samples;
  int64_t bandwidth_bytes;  // per thread
};
Sizes sizes_of(Extent extent);

/// A case and how to time it.
struct Entrant {
  Case result;
  Contender contender;
};

/// What `prepare` returns: how to time something that it has checked. When it throws, something that fails with the
/// same message; Interrupted passes.
std::function<Sample(int repeats)> attempt(const std::function<std::function<Sample(int repeats)>()>& prepare);

/// A contender that has failed already.
Contender failing(const std::string& why);

/// One run of the bench.
class Session {
 public:
  explicit Session(const AttentionBenchOptions& options);

  const AttentionBenchOptions& options() const { return options_; }
  const Sizes& sizes() const { return sizes_; }
  Report& report() { return report_; }
  double seconds() const;

  /// A case of this session's threads whose result no one has checked yet.
  Case start_case(const std::string& group, const std::string& name, const Shape& shape) const;
  /// Our operator on a plan, its result checked against the reference.
  Entrant own(const std::string& group, const Shape& shape, const std::string& pattern, const pattern::Grid& window,
              const Format& format);
  /// torch's dense attention in every peer process and layout, its result checked. A peer that cannot serve becomes
  /// a failed case.
  std::vector<Entrant> torch(const std::string& group, const Shape& shape, bool backward = false);
  /// Lets entrants take turns; every case comes back, at the same place, and goes to the report after `annotate`.
  std::vector<Case> race(
      std::vector<Entrant> entrants,
      const std::function<void(std::vector<Case>&)>& annotate = [](std::vector<Case>&) {});

  /// Operations per second of a loop on so many threads, measured once.
  const PeakRate& peak(const PeakLoop& loop, int threads);
  /// Sets the fraction of the peak of the instruction that the case's kernel uses, if there is a loop for it.
  void judge(Case& item);
  SamplePolicy policy() const;

  std::shared_ptr<const ops::Plan> plan(const pattern::Grid& grid, const std::string& pattern,
                                        const pattern::Grid& window) const;

 private:
  Entrant torch_entrant(const Case& base, Peer& peer, const PeerCall& call, const Rows* expected);
  void start_peers();

  AttentionBenchOptions options_;
  Sizes sizes_;
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
  Report report_;
  std::map<std::pair<std::string_view, int>, PeakRate> peaks_;
  bool peers_started_ = false;
  std::vector<std::unique_ptr<Peer>> peers_;
  std::vector<std::pair<std::string, std::string>> missing_peers_;  // name, why
};

/// Names of the two peers, which end the names of their cases.
inline constexpr char kTorchShipped[] = "torch as shipped";
inline constexpr char kTorchTuned[] = "torch, MKL check overridden";

bool is_torch(const Case& item);

/// The fastest torch case of a race. Where one of them failed it is that one: the best of the rest would flatter us.
const Case* best_torch(const std::vector<Case>& cases);
/// The fastest torch case as shipped, or one that failed.
const Case* shipped_torch(const std::vector<Case>& cases);

}  // namespace fpsa::app::bench
