// A choice written down as phases and overrides, and read back as means.
#include <algorithm>
#include <map>
#include <tuple>

#include "fpsa/base/check.h"
#include "fpsa/schedule/search.h"

namespace fpsa::schedule {
namespace {

using Indices = std::vector<int64_t>;

// The candidates of one phase as a matrix (layer, head).
class Assignment {
 public:
  Assignment(const ErrorTable& table, const Choice& choice, int64_t phase) : layers(table.layers), heads(table.heads) {
    const auto begin = choice.candidate.begin() + phase * layers * heads;
    cells_.assign(begin, begin + layers * heads);
  }
  size_t at(int64_t layer, int64_t head) const { return cells_[static_cast<size_t>(layer * heads + head)]; }
  bool operator==(const Assignment&) const = default;

  /// The candidate of most cells; of equally common ones the first.
  size_t most_common() const {
    std::map<size_t, int64_t> count;
    for (const size_t candidate : cells_)
      ++count[candidate];
    return std::ranges::max_element(count, {}, [](const auto& entry) { return entry.second; })->first;
  }

  int64_t layers, heads;

 private:
  std::vector<size_t> cells_;
};

// Rectangles (layers x heads) that cover the cells of one candidate.
using Rectangles = std::vector<std::pair<Indices, Indices>>;

// Rows with the same columns are one rectangle. `has(row, column)` says which cells.
template <class Has>
Rectangles equal_rows(int64_t rows, int64_t columns, Has has) {
  std::map<Indices, Indices> rows_by_columns;
  for (int64_t row = 0; row < rows; ++row) {
    Indices seen;
    for (int64_t column = 0; column < columns; ++column)
      if (has(row, column)) seen.push_back(column);
    if (!seen.empty()) rows_by_columns[seen].push_back(row);
  }
  Rectangles result;
  for (const auto& [seen, members] : rows_by_columns)
    result.emplace_back(members, seen);
  return result;
}

Rectangles rectangles_of(const Assignment& phase, size_t candidate) {
  auto by_layer = equal_rows(phase.layers, phase.heads,
                             [&](int64_t layer, int64_t head) { return phase.at(layer, head) == candidate; });
  auto by_head = equal_rows(phase.heads, phase.layers,
                            [&](int64_t head, int64_t layer) { return phase.at(layer, head) == candidate; });
  if (by_layer.size() <= by_head.size()) return by_layer;
  for (auto& [layers, heads] : by_head)
    std::swap(layers, heads);
  return by_head;
}

// As a selector: nothing when it is all of them.
std::vector<IndexRange> selector(const Indices& indices, int64_t count) {
  std::vector<IndexRange> ranges;
  if (static_cast<int64_t>(indices.size()) == count) return ranges;
  for (const int64_t index : indices) {
    if (!ranges.empty() && ranges.back().last + 1 == index)
      ranges.back().last = index;
    else
      ranges.push_back({index, index});
  }
  return ranges;
}

}  // namespace

Schedule to_schedule(const ErrorTable& table, const Choice& choice, double shift) {
  Schedule schedule;
  schedule.tile = table.list.tile;
  schedule.shift = shift;
  std::vector<Assignment> phases;
  for (int64_t i = 0; i < kPhases; ++i) {
    const int64_t end = i + 1 < kPhases ? choice.borders[static_cast<size_t>(i)] : table.steps;
    const double until = static_cast<double>(end) / static_cast<double>(table.steps);
    const Assignment phase(table, choice, i);
    if (!phases.empty() && phases.back() == phase) {
      schedule.phases.back().until = until;
      continue;
    }
    const auto& base = table.list.candidates[phase.most_common()];
    schedule.phases.push_back({until, base.granularity, base.window, base.quant});
    phases.push_back(phase);
  }
  // Overrides of one candidate that differ in the phase alone are one. No two of them share a cell, so that their
  // order is of no account.
  std::map<std::tuple<size_t, Indices, Indices>, Indices> phases_by_cells;
  for (size_t i = 0; i < phases.size(); ++i)
    for (size_t candidate = 0; candidate < table.candidates(); ++candidate)
      if (candidate != phases[i].most_common())
        for (auto& [layers, heads] : rectangles_of(phases[i], candidate))
          phases_by_cells[{candidate, layers, heads}].push_back(static_cast<int64_t>(i));
  for (const auto& [cells, members] : phases_by_cells) {
    const auto& [candidate, layers, heads] = cells;
    const auto& wanted = table.list.candidates[candidate];
    Override change;
    change.layers = selector(layers, table.layers);
    change.heads = selector(heads, table.heads);
    change.phases = selector(members, static_cast<int64_t>(phases.size()));
    change.granularity = wanted.granularity;
    change.window = wanted.window;
    change.quant = wanted.quant;
    schedule.overrides.push_back(std::move(change));
  }
  validate(schedule);
  return schedule;
}

size_t candidate_at(const ErrorTable& table, const Schedule& schedule, int phase, int64_t layer, int64_t head) {
  const auto& candidates = table.list.candidates;
  const Setting setting = setting_in_phase(schedule, phase, layer, head);
  const auto found = std::ranges::find(candidates, Candidate{setting.granularity, setting.window, setting.quant});
  FPSA_CHECK(found != candidates.end() && setting.pattern == "sta" && schedule.tile == table.list.tile,
             "schedule: phase ", phase + 1, ", layer ", layer, ", head ", head,
             ": expected one of the table's candidates, received another setting");
  return static_cast<size_t>(found - candidates.begin());
}

Prediction predict_phase(const ErrorTable& table, const Schedule& schedule, int phase) {
  Prediction sum;
  int64_t steps = 0;
  for (int64_t step = 0; step < table.steps; ++step)
    steps += phase_at(schedule, step, table.steps) == phase;
  if (steps == 0) return sum;
  for (int64_t layer = 0; layer < table.layers; ++layer)
    for (int64_t head = 0; head < table.heads; ++head) {
      const size_t candidate = candidate_at(table, schedule, phase, layer, head);
      sum.density += table.density[candidate] * static_cast<double>(steps);
      for (int64_t step = 0; step < table.steps; ++step)
        if (phase_at(schedule, step, table.steps) == phase) sum.error += table.at(candidate, step, layer, head);
    }
  const auto total = static_cast<double>(steps * table.layers * table.heads);
  return {sum.error / total, sum.density / total};
}

Prediction predict(const ErrorTable& table, const Schedule& schedule) {
  std::vector<int64_t> steps(schedule.phases.size());
  for (int64_t step = 0; step < table.steps; ++step)
    ++steps[static_cast<size_t>(phase_at(schedule, step, table.steps))];
  Prediction mean;
  for (size_t phase = 0; phase < steps.size(); ++phase) {
    const auto part = predict_phase(table, schedule, static_cast<int>(phase));
    const double share = static_cast<double>(steps[phase]) / static_cast<double>(table.steps);
    mean.error += share * part.error;
    mean.density += share * part.density;
  }
  return mean;
}

}  // namespace fpsa::schedule
