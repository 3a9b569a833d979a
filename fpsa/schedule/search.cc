#include "fpsa/schedule/search.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>

#include "fpsa/base/check.h"

namespace fpsa::schedule {
namespace {

// Means closer than this are equal: sums of a few thousand terms up to about 1 are rounded by less.
constexpr double kTie = 1e-9;

// A candidate over some steps, layers and heads; sums, not means.
struct Option {
  size_t candidate = 0;
  double error = 0, density = 0;
};

void check(const ErrorTable& table) {
  validate(table.list);
  FPSA_CHECK(table.steps >= kPhases, "steps: expected at least ", kPhases, " for as many phases, received ",
             table.steps);
  FPSA_CHECK(table.layers >= 1 && table.heads >= 1, "layers, heads: expected at least 1, received ", table.layers, ", ",
             table.heads);
  const auto cells = table.candidates() * static_cast<size_t>(table.steps * table.layers * table.heads);
  FPSA_CHECK(table.density.size() == table.candidates() && table.error.size() == cells, "error table: expected ",
             table.candidates(), " densities and ", cells, " errors, received ", table.density.size(), " and ",
             table.error.size());
  const auto legal = [](double x) { return std::isfinite(x) && x >= 0; };
  FPSA_CHECK(std::ranges::all_of(table.density, legal) && std::ranges::all_of(table.error, legal),
             "error table: expected finite values of at least 0, received another");
}

// The options that no other one beats in both sums, by rising density and so by falling error.
std::vector<Option> front_of(std::vector<Option> options) {
  std::ranges::stable_sort(options, [](const Option& a, const Option& b) {
    return a.density != b.density ? a.density < b.density : a.error < b.error;
  });
  std::vector<Option> front;
  for (const Option& option : options)
    if (front.empty() || option.error < front.back().error) front.push_back(option);
  return front;
}

// Errors summed over layers and heads, and over the steps before one: [candidate][step], so that a phase is a
// difference.
class PhaseErrors {
 public:
  explicit PhaseErrors(const ErrorTable& table) : table_(table), rows_(table.steps + 1) {
    before_.assign(table.candidates() * static_cast<size_t>(rows_), 0);
    const int64_t cells = table.layers * table.heads;
    for (size_t c = 0; c < table.candidates(); ++c)
      for (int64_t step = 0; step < table.steps; ++step) {
        const auto begin = table.error.begin() + (static_cast<int64_t>(c) * table.steps + step) * cells;
        at(c, step + 1) = std::accumulate(begin, begin + cells, at(c, step));
      }
  }

  std::vector<Option> front(int64_t first, int64_t end) const {
    std::vector<Option> options;
    const auto weight = static_cast<double>((end - first) * table_.layers * table_.heads);
    for (size_t c = 0; c < table_.candidates(); ++c)
      options.push_back({c, at(c, end) - at(c, first), table_.density[c] * weight});
    return front_of(std::move(options));
  }

 private:
  double& at(size_t c, int64_t step) { return before_[c * static_cast<size_t>(rows_) + static_cast<size_t>(step)]; }
  double at(size_t c, int64_t step) const {
    return before_[c * static_cast<size_t>(rows_) + static_cast<size_t>(step)];
  }

  const ErrorTable& table_;
  int64_t rows_;
  std::vector<double> before_;
};

double limited(const Choice& choice, Limit limit) {
  return limit == Limit::kDensity ? choice.density : choice.error;
}

double minimised(const Choice& choice, Limit limit) {
  return limit == Limit::kDensity ? choice.error : choice.density;
}

bool keeps(const Choice& choice, const Budget& budget) {
  return limited(choice, budget.limit) <= budget.value + kTie;
}

bool better(const Choice& a, const Choice& b, Limit limit) {
  const double difference = minimised(a, limit) - minimised(b, limit);
  if (std::abs(difference) > kTie) return difference < 0;
  return limited(a, limit) < limited(b, limit) - kTie;
}

// Every layer and head alike: the best borders and candidates, or nothing when none keeps the budget.
std::optional<Choice> choose_phases(const ErrorTable& table, const Budget& budget) {
  const PhaseErrors errors(table);
  const auto cells = static_cast<size_t>(table.layers * table.heads);
  const double total = static_cast<double>(table.steps) * static_cast<double>(cells);
  std::vector<std::vector<Option>> last(static_cast<size_t>(table.steps));
  for (int64_t border = 2; border < table.steps; ++border)
    last[static_cast<size_t>(border)] = errors.front(border, table.steps);
  std::optional<Choice> best;
  std::array<size_t, kPhases> chosen = {};
  for (int64_t first = 1; first + 1 < table.steps; ++first) {
    const auto early = errors.front(0, first);
    for (int64_t second = first + 1; second < table.steps; ++second) {
      const auto middle = errors.front(first, second);
      for (const Option& a : early)
        for (const Option& b : middle)
          for (const Option& c : last[static_cast<size_t>(second)]) {
            Choice choice{{first, second},
                          {},
                          (a.error + b.error + c.error) / total,
                          (a.density + b.density + c.density) / total};
            if (!keeps(choice, budget) || (best && !better(choice, *best, budget.limit))) continue;
            best = std::move(choice);
            chosen = {a.candidate, b.candidate, c.candidate};
          }
    }
  }
  if (best)
    for (const size_t candidate : chosen)
      best->candidate.insert(best->candidate.end(), cells, candidate);
  return best;
}

// A piece of (phase, layer, head) that is given one candidate.
struct Cell {
  int64_t phase, layer, first_head, heads;
  std::vector<Option> hull;  // rising density; the error falls less and less per density
  size_t at = 0;             // the present one
};

// Of a front, the options that a growing budget takes in turn: its lower convex hull.
std::vector<Option> hull_of(const std::vector<Option>& front) {
  const auto slope = [](const Option& a, const Option& b) { return (a.error - b.error) / (b.density - a.density); };
  std::vector<Option> hull;
  for (const Option& option : front) {
    while (hull.size() >= 2 && slope(hull[hull.size() - 2], hull.back()) <= slope(hull.back(), option))
      hull.pop_back();
    hull.push_back(option);
  }
  return hull;
}

std::vector<Cell> make_cells(const ErrorTable& table, const Choice& phases, Detail detail) {
  const int64_t bounds[] = {0, phases.borders[0], phases.borders[1], table.steps};
  const int64_t heads = detail == Detail::kHeads ? 1 : table.heads;
  std::vector<Cell> cells;
  for (int64_t phase = 0; phase < kPhases; ++phase)
    for (int64_t layer = 0; layer < table.layers; ++layer)
      for (int64_t head = 0; head < table.heads; head += heads) {
        std::vector<Option> options;
        for (size_t c = 0; c < table.candidates(); ++c) {
          Option option{c, 0, table.density[c] * static_cast<double>((bounds[phase + 1] - bounds[phase]) * heads)};
          for (int64_t step = bounds[phase]; step < bounds[phase + 1]; ++step)
            for (int64_t h = head; h < head + heads; ++h)
              option.error += table.at(c, step, layer, h);
          options.push_back(option);
        }
        cells.push_back({phase, layer, head, heads, hull_of(front_of(std::move(options)))});
      }
  return cells;
}

// A cell's step from one option of its hull to the next.
struct Change {
  size_t cell;
  double error, density;  // what it takes away and what it adds
  double gain() const { return error / density; }
};

// The sparsest option everywhere, then the best changes first. Under a limit of density a cell stops at the first
// change that does not fit, the others go on; under a limit of error all stop when it is met.
Choice choose_cells(const ErrorTable& table, std::vector<Cell> cells, const Choice& phases, const Budget& budget) {
  const double total = static_cast<double>(table.steps * table.layers * table.heads);
  std::vector<Change> changes;
  Choice choice{phases.borders, std::vector<size_t>(static_cast<size_t>(kPhases * table.layers * table.heads)), 0, 0};
  for (size_t i = 0; i < cells.size(); ++i) {
    const auto& hull = cells[i].hull;
    choice.error += hull[0].error / total;
    choice.density += hull[0].density / total;
    for (size_t j = 1; j < hull.size(); ++j)
      changes.push_back(
          {i, (hull[j - 1].error - hull[j].error) / total, (hull[j].density - hull[j - 1].density) / total});
  }
  // Within a cell the gain falls from change to change, and equal ones stay in order.
  std::ranges::stable_sort(changes, [](const Change& a, const Change& b) { return a.gain() > b.gain(); });
  std::vector<bool> stopped(cells.size());
  for (const Change& change : changes) {
    if (budget.limit == Limit::kError && keeps(choice, budget)) break;
    if (stopped[change.cell]) continue;
    if (budget.limit == Limit::kDensity && choice.density + change.density > budget.value + kTie) {
      stopped[change.cell] = true;
      continue;
    }
    choice.error -= change.error;
    choice.density += change.density;
    ++cells[change.cell].at;
  }
  for (const Cell& cell : cells) {
    const auto begin = choice.candidate.begin() + (cell.phase * table.layers + cell.layer) * table.heads;
    std::fill_n(begin + cell.first_head, cell.heads, cell.hull[cell.at].candidate);
  }
  return choice;
}

}  // namespace

Choice choose(const ErrorTable& table, const Budget& budget, Detail detail) {
  check(table);
  const auto sparsest = static_cast<size_t>(std::ranges::min_element(table.density) - table.density.begin());
  FPSA_CHECK(budget.limit != Limit::kDensity || budget.value >= table.density[sparsest] - kTie,
             "budget: expected a mean density of at least ", table.density[sparsest],
             ", that of the sparsest candidate (", to_string(table.list.candidates[sparsest]), "), received ",
             budget.value, "; raise it or add a sparser candidate");
  const auto phases = choose_phases(table, budget);
  // Where no three phases keep the budget, those of the least error still show where the borders belong.
  const auto base =
      phases ? *phases : *choose_phases(table, {Limit::kDensity, 1 + *std::ranges::max_element(table.density)});
  double least = base.error;
  if (detail != Detail::kPhases) {
    const auto fine = choose_cells(table, make_cells(table, base, detail), base, budget);
    if (keeps(fine, budget)) return phases && !better(fine, *phases, budget.limit) ? *phases : fine;
    least = fine.error;
  }
  FPSA_CHECK(phases, "budget: expected a mean error of at least ", least,
             ", the least that the candidates reach, received ", budget.value,
             "; raise it or add a denser or more precise candidate");
  return *phases;
}

}  // namespace fpsa::schedule
