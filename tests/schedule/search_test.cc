#include "fpsa/schedule/search.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <random>

#include "fpsa/base/check.h"
#include "tests/error_of.h"

namespace fpsa::schedule {
namespace {

constexpr double kExact = 1e-9;  // the search's own idea of equal means

// Candidates of densities 1, 1/2, 1/4 ... and one more as dense as the first, of another granularity.
ErrorTable empty_table(size_t candidates, int64_t steps, int64_t layers, int64_t heads) {
  ErrorTable table;
  table.list.tile = {2, 2, 2};
  for (size_t c = 0; c < candidates; ++c) {
    const bool twin = c + 1 == candidates;
    table.list.candidates.push_back(
        {twin ? Grid{1, 1, 1} : Grid{2, 2, 2}, {1, 1, twin ? 64 : int64_t{64} >> c}, Quant::kE4m3});
    table.density.push_back(twin ? 1.0 : std::ldexp(1.0, -static_cast<int>(c)));
  }
  table.steps = steps;
  table.layers = layers;
  table.heads = heads;
  table.error.assign(candidates * static_cast<size_t>(steps * layers * heads), 0);
  return table;
}

void set(ErrorTable& table, size_t candidate, int64_t step, int64_t layer, int64_t head, double error) {
  table.error[static_cast<size_t>(
      ((static_cast<int64_t>(candidate) * table.steps + step) * table.layers + layer) * table.heads + head)] = error;
}

// Any order of the candidates' errors is possible, as it is in measurements: a wider window may be worse.
ErrorTable random_table(std::mt19937& random, size_t candidates, int64_t steps, int64_t layers, int64_t heads) {
  auto table = empty_table(candidates, steps, layers, heads);
  std::uniform_real_distribution<double> uniform(0, 1);
  for (double& error : table.error)
    error = uniform(random);
  return table;
}

// Means of candidates given to (step, layer, head) by a function.
Prediction means(const ErrorTable& table, const std::function<size_t(int64_t, int64_t, int64_t)>& candidate) {
  Prediction sum;
  for (int64_t step = 0; step < table.steps; ++step)
    for (int64_t layer = 0; layer < table.layers; ++layer)
      for (int64_t head = 0; head < table.heads; ++head) {
        const size_t c = candidate(step, layer, head);
        sum.error += table.at(c, step, layer, head);
        sum.density += table.density[c];
      }
  const auto total = static_cast<double>(table.steps * table.layers * table.heads);
  return {sum.error / total, sum.density / total};
}

Prediction means(const ErrorTable& table, const Choice& choice) {
  return means(table, [&](int64_t step, int64_t layer, int64_t head) {
    const int64_t phase = (step >= choice.borders[0]) + (step >= choice.borders[1]);
    return choice.candidate[static_cast<size_t>((phase * table.layers + layer) * table.heads + head)];
  });
}

double limited(const Prediction& p, Limit limit) {
  return limit == Limit::kDensity ? p.density : p.error;
}
double minimised(const Prediction& p, Limit limit) {
  return limit == Limit::kDensity ? p.error : p.density;
}

// The least that any three phases reach under the budget; infinity when none keeps it.
double best_phases(const ErrorTable& table, const Budget& budget) {
  double best = std::numeric_limits<double>::infinity();
  const size_t n = table.candidates();
  for (int64_t first = 1; first < table.steps; ++first)
    for (int64_t second = first + 1; second < table.steps; ++second)
      for (size_t code = 0; code < n * n * n; ++code) {
        const size_t chosen[] = {code % n, code / n % n, code / n / n};
        const auto p =
            means(table, [&](int64_t step, int64_t, int64_t) { return chosen[(step >= first) + (step >= second)]; });
        if (limited(p, budget.limit) <= budget.value + kExact) best = std::min(best, minimised(p, budget.limit));
      }
  return best;
}

TEST(Search, PhasesAreOptimalAndKeepTheBudget) {
  std::mt19937 random(1);
  for (int round = 0; round < 20; ++round) {
    const auto table = random_table(random, 4, 6, 2, 2);
    for (const auto limit : {Limit::kDensity, Limit::kError})
      for (const double value : {0.25, 0.4, 0.7, 1.0}) {
        const Budget budget{limit, value};
        const double best = best_phases(table, budget);
        if (!std::isfinite(best)) {
          EXPECT_THROW(choose(table, budget, Detail::kPhases), Error);
          continue;
        }
        const auto choice = choose(table, budget, Detail::kPhases);
        const auto p = means(table, choice);
        EXPECT_NEAR(p.error, choice.error, kExact);
        EXPECT_NEAR(p.density, choice.density, kExact);
        EXPECT_LE(limited(p, limit), value + kExact);
        EXPECT_NEAR(minimised(p, limit), best, kExact);
      }
  }
}

TEST(Search, LayersAndHeadsAreNeverWorseThanPhasesAndKeepTheBudget) {
  std::mt19937 random(2);
  for (int round = 0; round < 20; ++round) {
    const auto table = random_table(random, 5, 7, 3, 4);
    for (const auto limit : {Limit::kDensity, Limit::kError})
      for (const double value : {0.3, 0.5, 0.8})
        for (const auto detail : {Detail::kLayers, Detail::kHeads}) {
          const Budget budget{limit, value};
          const double phases = best_phases(table, budget);
          Choice choice;
          try {
            choice = choose(table, budget, detail);
          } catch (const Error&) {
            EXPECT_FALSE(std::isfinite(phases)) << "the phases keep the budget";
            continue;
          }
          const auto p = means(table, choice);
          EXPECT_NEAR(p.error, choice.error, kExact);
          EXPECT_NEAR(p.density, choice.density, kExact);
          EXPECT_LE(limited(p, limit), value + kExact);
          EXPECT_LE(minimised(p, limit), phases + kExact);
        }
  }
}

TEST(Search, HeadsAreWithinOneChangeOfTheBestBetweenTheSameBorders) {
  std::mt19937 random(3);
  for (int round = 0; round < 20; ++round) {
    const auto table = random_table(random, 3, 5, 1, 2);
    const Budget budget{Limit::kDensity, 0.6};
    const auto choice = choose(table, budget, Detail::kHeads);
    double best = 1, largest = 0;
    constexpr int kCells = 6;  // three phases of two heads
    for (int code = 0; code < 729; ++code) {
      size_t digits[kCells];
      for (int i = 0, rest = code; i < kCells; ++i, rest /= 3)
        digits[i] = static_cast<size_t>(rest % 3);
      const auto p = means(table, [&](int64_t step, int64_t, int64_t head) {
        return digits[2 * ((step >= choice.borders[0]) + (step >= choice.borders[1])) + head];
      });
      if (p.density <= budget.value + kExact) best = std::min(best, p.error);
    }
    // No change of one head in one phase gains more than its worst candidate costs.
    const int64_t bounds[] = {0, choice.borders[0], choice.borders[1], table.steps};
    for (int phase = 0; phase < 3; ++phase)
      for (int64_t head = 0; head < 2; ++head)
        for (size_t c = 0; c < 3; ++c) {
          double cost = 0;
          for (int64_t step = bounds[phase]; step < bounds[phase + 1]; ++step)
            cost += table.at(c, step, 0, head);
          largest = std::max(largest, cost / static_cast<double>(table.steps * 2));
        }
    EXPECT_GE(choice.error, best - kExact);
    EXPECT_LE(choice.error, best + largest + kExact);
  }
}

TEST(Search, MoreBudgetIsNeverWorse) {
  std::mt19937 random(4);
  const auto table = random_table(random, 5, 8, 2, 2);
  for (const auto limit : {Limit::kDensity, Limit::kError}) {
    double previous = std::numeric_limits<double>::infinity();
    for (double value = 0.5; value <= 1.0; value += 0.05) {
      const auto choice = choose(table, {limit, value}, Detail::kPhases);
      const Prediction p{choice.error, choice.density};
      EXPECT_LE(minimised(p, limit), previous + kExact) << value;
      previous = minimised(p, limit);
    }
  }
}

TEST(Search, FindsTheBordersOfAnEvidentTable) {
  // The first two steps stand the sparsest candidate, the next five nothing but the densest, the rest the middle one.
  auto table = empty_table(4, 10, 1, 1);
  for (int64_t step = 0; step < 10; ++step)
    for (size_t c = 1; c < 3; ++c)
      set(table, c, step, 0, 0, step < 2 ? 0.0 : step < 7 ? 0.5 : c == 2 ? 0.5 : 0.0);
  for (int64_t step = 0; step < 10; ++step)
    set(table, 3, step, 0, 0, 0.1);
  const auto choice = choose(table, {Limit::kError, 0.0}, Detail::kPhases);
  EXPECT_EQ(choice.borders, (std::array<int64_t, 2>{2, 7}));
  EXPECT_EQ(choice.candidate, (std::vector<size_t>{2, 0, 1}));
  EXPECT_NEAR(choice.density, (2 * 0.25 + 5 * 1.0 + 3 * 0.5) / 10, kExact);
  const auto schedule = to_schedule(table, choice, 3.0);
  ASSERT_EQ(schedule.phases.size(), 3u);
  EXPECT_EQ(schedule.phases[0].until, 0.2);
  EXPECT_EQ(schedule.phases[1].until, 0.7);
  EXPECT_EQ(schedule.shift, 3.0);
  EXPECT_TRUE(schedule.overrides.empty());
}

TEST(Search, EqualPhasesBecomeOneAndTiesGoToTheFirstCandidate) {
  auto table = empty_table(4, 4, 2, 2);  // nothing spoils anything
  const auto choice = choose(table, {Limit::kDensity, 1.0}, Detail::kHeads);
  EXPECT_EQ(choice.density, 0.25);  // the smaller other mean
  EXPECT_EQ(choice.borders, (std::array<int64_t, 2>{1, 2}));
  const auto schedule = to_schedule(table, choice, 5.0);
  ASSERT_EQ(schedule.phases.size(), 1u);
  EXPECT_EQ(schedule.phases[0].until, 1.0);
  EXPECT_EQ(schedule.phases[0].window, table.list.candidates[2].window);
  // Of equal density and error: the one listed first.
  table.list.candidates.erase(table.list.candidates.begin() + 1, table.list.candidates.begin() + 3);
  table.density = {1.0, 1.0};
  table.error.resize(2 * 16);
  EXPECT_EQ(choose(table, {Limit::kDensity, 1.0}, Detail::kPhases).candidate[0], 0u);
}

TEST(ToSchedule, SaysWhatWasChosen) {
  std::mt19937 random(5);
  for (int round = 0; round < 30; ++round) {
    const auto table = random_table(random, 4, 6, 3, 3);
    for (const auto detail : {Detail::kPhases, Detail::kLayers, Detail::kHeads}) {
      const auto choice = choose(table, {Limit::kDensity, 0.5}, detail);
      const auto schedule = to_schedule(table, choice, 5.0);
      EXPECT_EQ(parse_toml(to_toml(schedule), "text"), schedule);
      check_for_model(schedule, table.layers, table.heads);
      const auto p = predict(table, schedule);
      EXPECT_NEAR(p.error, choice.error, kExact);
      EXPECT_NEAR(p.density, choice.density, kExact);
      const auto chosen = [&](int64_t step, int64_t layer, int64_t head) {
        return candidate_at(table, schedule, phase_at(schedule, step, table.steps), layer, head);
      };
      EXPECT_NEAR(means(table, chosen).error, choice.error, kExact);
      EXPECT_TRUE(detail != Detail::kPhases || schedule.overrides.empty());
      for (const auto& change : schedule.overrides)
        EXPECT_TRUE(detail == Detail::kHeads || change.heads.empty());
    }
  }
}

TEST(ToSchedule, GroupsLayersHeadsAndPhases) {
  const auto table = empty_table(3, 3, 4, 3);
  // Layers 1 and 2 differ in heads 0 and 2, in two phases; in the third only head 1 does, in every layer.
  Choice choice{{1, 2}, std::vector<size_t>(3 * 4 * 3, 0), 0, 0};
  const auto at = [&](int64_t phase, int64_t layer, int64_t head) -> size_t& {
    return choice.candidate[static_cast<size_t>((phase * 4 + layer) * 3 + head)];
  };
  for (const int64_t phase : {0, 2})
    for (const int64_t layer : {1, 2})
      for (const int64_t head : {0, 2})
        at(phase, layer, head) = 1;
  for (int64_t layer = 0; layer < 4; ++layer)
    at(1, layer, 1) = 2;
  const auto schedule = to_schedule(table, choice, 5.0);
  ASSERT_EQ(schedule.phases.size(), 3u);
  ASSERT_EQ(schedule.overrides.size(), 2u);
  EXPECT_EQ(schedule.overrides[0].layers, (std::vector<IndexRange>{{1, 2}}));
  EXPECT_EQ(schedule.overrides[0].heads, (std::vector<IndexRange>{{0, 0}, {2, 2}}));
  EXPECT_EQ(schedule.overrides[0].phases, (std::vector<IndexRange>{{0, 0}, {2, 2}}));
  EXPECT_TRUE(schedule.overrides[1].layers.empty());
  EXPECT_EQ(schedule.overrides[1].heads, (std::vector<IndexRange>{{1, 1}}));
  EXPECT_EQ(schedule.overrides[1].phases, (std::vector<IndexRange>{{1, 1}}));
}

TEST(Predict, RefusesASettingThatWasNotMeasured) {
  const auto table = empty_table(3, 3, 1, 1);
  Schedule schedule;
  schedule.tile = table.list.tile;
  schedule.phases = {{1.0, {4, 4, 4}, pattern::kFullWindow, Quant::kE4m3}};
  EXPECT_NE(error_of([&] { predict(table, schedule); }).find("phase 1, layer 0, head 0: expected one of the table's"),
            std::string::npos);
}

TEST(Search, BudgetsThatCannotBeMetSayWhatCan) {
  auto table = empty_table(4, 4, 1, 2);
  const auto density = error_of([&] { choose(table, {Limit::kDensity, 0.2}, Detail::kHeads); });
  EXPECT_NE(density.find("budget: expected a mean density of at least 0.25"), std::string::npos) << density;
  EXPECT_NE(density.find("window (1,1,16)"), std::string::npos) << density;
  EXPECT_NE(density.find("received 0.2"), std::string::npos) << density;
  // Candidate 0 is right for head 0, candidate 1 for head 1: three phases cannot follow, heads can.
  for (size_t c = 0; c < 4; ++c)
    for (int64_t step = 0; step < 4; ++step)
      for (int64_t head = 0; head < 2; ++head)
        set(table, c, step, 0, head, c == static_cast<size_t>(head) ? 0.1 : 0.9);
  const auto error = error_of([&] { choose(table, {Limit::kError, 0.2}, Detail::kPhases); });
  EXPECT_NE(error.find("budget: expected a mean error of at least 0.5"), std::string::npos) << error;
  EXPECT_NEAR(choose(table, {Limit::kError, 0.2}, Detail::kHeads).error, 0.1, kExact);
  EXPECT_NE(error_of([&] {
              choose(table, {Limit::kError, 0.05}, Detail::kHeads);
            }).find("at least 0.1"),
            std::string::npos);
}

TEST(Search, BrokenTablesAreRefused) {
  const auto refused = [](ErrorTable table) {
    return error_of([&] { choose(table, {Limit::kDensity, 1.0}, Detail::kPhases); });
  };
  EXPECT_NE(refused(empty_table(3, 2, 1, 1)).find("steps: expected at least 3"), std::string::npos);
  auto table = empty_table(3, 3, 1, 1);
  table.error.pop_back();
  EXPECT_NE(refused(table).find("3 densities and 9 errors"), std::string::npos);
  table = empty_table(3, 3, 1, 1);
  table.error[4] = std::nan("");
  EXPECT_NE(refused(table).find("finite"), std::string::npos);
  table.error[4] = -1;
  EXPECT_NE(refused(table).find("at least 0"), std::string::npos);
  table = empty_table(3, 3, 1, 1);
  table.list.candidates[1] = table.list.candidates[0];
  EXPECT_NE(refused(table).find("candidate 2: repeats candidate 1"), std::string::npos);
}

}  // namespace
}  // namespace fpsa::schedule
