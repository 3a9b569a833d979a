// Grids and tiles that the property tests run over: degenerate, prime, real and random ones.
#pragma once

#include <random>
#include <vector>

#include "fpsa/pattern/grid.h"

namespace fpsa::pattern::cases {

struct Case {
  Grid grid, tile;
};

inline constexpr unsigned kSeed = 20251121;

/// Fixed cases, then `random_count` random ones of at most `max_extent` per axis.
inline std::vector<Case> all(int random_count, int64_t max_extent) {
  std::vector<Case> cases = {
      {{1, 1, 1}, {1, 1, 1}}, {{1, 1, 1}, {6, 8, 8}},   {{1, 1, 7}, {1, 1, 3}},    {{2, 3, 5}, {6, 8, 8}},
      {{7, 1, 1}, {2, 1, 1}}, {{7, 11, 13}, {3, 4, 4}}, {{9, 16, 16}, {3, 4, 4}},  {{5, 8, 9}, {2, 4, 8}},
      {{6, 8, 8}, {6, 8, 8}}, {{7, 9, 9}, {6, 8, 8}},   {{13, 17, 19}, {6, 8, 8}}, {{4, 4, 4}, {1, 1, 1}},
  };
  std::mt19937 random(kSeed);
  std::uniform_int_distribution<int64_t> extent(1, max_extent), tile(1, 8);
  for (int i = 0; i < random_count; ++i) {
    cases.push_back({{extent(random), extent(random), extent(random)}, {tile(random), tile(random), tile(random)}});
  }
  return cases;
}

/// The grids of 81-frame videos at 720p and 480p.
inline std::vector<Case> real() {
  return {{{21, 45, 80}, {6, 8, 8}}, {{21, 30, 52}, {6, 8, 8}}};
}

inline std::string label(const Case& c) {
  return "grid " + to_string(c.grid) + " tile " + to_string(c.tile) + " seed " + std::to_string(kSeed);
}

/// A random granularity that is legal for the tile.
template <class Random>
Grid granularity(const Grid& tile, Random& random) {
  const auto axis = [&](int64_t t) {
    if (random() % 2 == 0) return t * static_cast<int64_t>(1 + random() % 3);
    std::vector<int64_t> divisors;
    for (int64_t d = 1; d <= t; ++d) {
      if (t % d == 0) divisors.push_back(d);
    }
    return divisors[random() % divisors.size()];
  };
  return {axis(tile.t), axis(tile.y), axis(tile.x)};
}

}  // namespace fpsa::pattern::cases
