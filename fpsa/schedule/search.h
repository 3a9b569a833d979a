// From measured errors to a schedule: which candidate each phase, layer or head gets under a budget.
//
// Two means over all steps, layers and heads are weighed: of the error and of the density. One has a limit, the other
// is made as small as it gets. Three phases are found by trying all borders and candidates. Layers and heads are then
// given candidates of their own between those borders, by the largest fall of the error per density spent. Density
// counts visible pairs alone: precision and granularity are free in it, so a list of candidates should leave out what
// would be too slow.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "fpsa/schedule/candidates.h"
#include "fpsa/schedule/schedule.h"

namespace fpsa::schedule {

/// What each candidate costs and spoils.
struct ErrorTable {
  CandidateList list;
  std::vector<double> density;  // of each candidate
  int64_t steps = 0, layers = 0, heads = 0;
  std::vector<double> error;  // [candidate][step][layer][head], finite, not negative

  size_t candidates() const { return list.candidates.size(); }
  double at(size_t candidate, int64_t step, int64_t layer, int64_t head) const {
    return error[static_cast<size_t>(((static_cast<int64_t>(candidate) * steps + step) * layers + layer) * heads +
                                     head)];
  }
};

/// The limit, and so what is minimised.
enum class Limit {
  kDensity,  // mean density at most the value; least error
  kError,    // mean error at most the value; least density
};
struct Budget {
  Limit limit = Limit::kDensity;
  double value = 0.25;
};

inline constexpr int64_t kPhases = 3;

/// A candidate for every phase, layer and head.
struct Choice {
  std::array<int64_t, kPhases - 1> borders = {};  // first steps of the second and third phase, rising
  std::vector<size_t> candidate;                  // [phase][layer][head]
  double error = 0, density = 0;                  // means over all steps, layers and heads
};

/// Chooses under the budget.
///   Numerics  kPhases: no three phases of the candidates are better (by more than 1e-9 in a mean). kLayers, kHeads:
///             never worse than kPhases; between the same borders the error under a limit of density is above the
///             best possible by at most what the largest single change of one layer or head would gain
///   Edges     ties go to the smaller other mean, then to earlier borders, then to the sparser candidate of the
///             earlier phase; candidates of equal density and error to the one listed first
///   Errors    fewer than three steps; a table whose sizes disagree or that holds a negative or non-finite value; a
///             limit that no choice meets, with the least that can be met
Choice choose(const ErrorTable& table, const Budget& budget, Detail detail);

/// The choice as a schedule: neighbouring phases that do the same are one, a phase's most common candidate is its
/// setting, and every other candidate is given to layers and heads by overrides, as few as grouping equal rows or
/// equal columns of (layer, head) makes them.
Schedule to_schedule(const ErrorTable& table, const Choice& choice, double shift);

/// The candidate that a schedule gives to a phase, layer and head.
///   Errors    a setting that is no candidate of the table
size_t candidate_at(const ErrorTable& table, const Schedule& schedule, int phase, int64_t layer, int64_t head);

/// Mean error and density of a schedule of candidates.
struct Prediction {
  double error = 0, density = 0;
};
/// Over the steps of one phase; zeros when it has none.
Prediction predict_phase(const ErrorTable& table, const Schedule& schedule, int phase);
/// Over all steps.
Prediction predict(const ErrorTable& table, const Schedule& schedule);

}  // namespace fpsa::schedule
