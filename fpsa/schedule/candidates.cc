#include "fpsa/schedule/candidates.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>

#include "fpsa/base/check.h"
#include "fpsa/pattern/mask.h"
#include "fpsa/schedule/violation.h"

namespace fpsa::schedule {
namespace {

constexpr int64_t kLeastTiles = 3;
constexpr double kDensities[] = {0.5, 0.25, 0.125};

int64_t largest_fitting(int64_t extent, std::initializer_list<int64_t> sizes) {
  for (const int64_t size : sizes)
    if ((extent + size - 1) / size >= kLeastTiles) return size;
  return *(sizes.end() - 1);
}

// How a window's share of the tiles compares with a wanted one: first the factor between them, then how uneven the
// shares of its axes are.
struct Fit {
  double distance, unevenness;
};

Fit fit_of(const Grid& window, const Grid& tiles, double density) {
  const double shares[] = {static_cast<double>(window.t) / static_cast<double>(tiles.t),
                           static_cast<double>(window.y) / static_cast<double>(tiles.y),
                           static_cast<double>(window.x) / static_cast<double>(tiles.x)};
  const auto [least, most] = std::minmax_element(std::begin(shares), std::end(shares));
  return {std::abs(std::log(shares[0] * shares[1] * shares[2] / density)), *most - *least};
}

// Shares are quotients of small integers: what differs by less than this is equal and was only rounded apart.
bool better(const Fit& a, const Fit& b) {
  constexpr double kRounding = 1e-9;
  if (std::abs(a.distance - b.distance) > kRounding) return a.distance < b.distance;
  return a.unevenness < b.unevenness - kRounding;
}

// A window of one tile cuts an axis into islands that no number of layers connects. From two on, neighbours overlap.
int64_t least_connected(int64_t tiles) {
  return std::min<int64_t>(2, tiles);
}

Grid closest_window(const Grid& tiles, double density, int64_t least_t) {
  Grid best{tiles.t, tiles.y, tiles.x};
  Fit best_fit = fit_of(best, tiles, density);
  for (int64_t t = least_t; t <= tiles.t; ++t)
    for (int64_t y = least_connected(tiles.y); y <= tiles.y; ++y)
      for (int64_t x = least_connected(tiles.x); x <= tiles.x; ++x)
        if (const Fit fit = fit_of({t, y, x}, tiles, density); better(fit, best_fit)) {
          best = {t, y, x};
          best_fit = fit;
        }
  return best == tiles ? pattern::kFullWindow : best;
}

// Every choice of axes to see whole, with one tile of the others; but neither all tiles nor a single one.
std::vector<Grid> axial_windows(const Grid& tiles) {
  std::vector<Grid> windows;
  for (unsigned whole = 1; whole < 7; ++whole) {
    const Grid window{whole & 1u ? tiles.t : 1, whole & 2u ? tiles.y : 1, whole & 4u ? tiles.x : 1};
    if (window != tiles && window.volume() > 1) windows.push_back(window);
  }
  return windows;
}

std::string triple(const Grid& g) {
  const auto axis = [](int64_t n) { return n == pattern::kAllTiles ? std::string("all") : join(n); };
  return join('(', axis(g.t), ',', axis(g.y), ',', axis(g.x), ')');
}

template <class T>
void add_once(std::vector<T>& list, const T& item) {
  if (std::ranges::find(list, item) == list.end()) list.push_back(item);
}

}  // namespace

Grid default_tile(const Grid& grid) {
  return {largest_fitting(grid.t, {6, 3, 2}), largest_fitting(grid.y, {8, 4, 2}), largest_fitting(grid.x, {8, 4, 2})};
}

CandidateList default_candidates(const Grid& grid, const Grid& tile, Quant quant, Detail detail) {
  const Grid tiles = pattern::tiles_per_axis(grid, tile);
  std::vector<Grid> windows = {pattern::kFullWindow};
  for (const double density : kDensities) {
    add_once(windows, closest_window(tiles, density, least_connected(tiles.t)));
    add_once(windows, closest_window(tiles, density, tiles.t));
  }
  std::vector<Grid> granularities = {tile};
  if (quant != Quant::kNone) {
    granularities.insert(granularities.begin(), Grid{1, 1, 1});
    // A group beyond the grid is the whole grid, which one tile may be already.
    if (tiles.volume() > 1) granularities.push_back({2 * tile.t, 2 * tile.y, 2 * tile.x});
  }
  CandidateList list{tile, {}};
  for (const Grid& window : windows)
    for (const Grid& granularity : granularities)
      add_once(list.candidates, Candidate{granularity, window, quant});
  if (detail == Detail::kHeads)
    for (const Grid& window : axial_windows(tiles))
      add_once(list.candidates, Candidate{tile, window, quant});
  return list;
}

double density_of(const Candidate& candidate, const Grid& grid, const Grid& tile) {
  return pattern::density(pattern::sliding_tile(grid, tile, candidate.window), pattern::TileOrder(grid, tile));
}

std::string to_string(const Candidate& candidate) {
  const bool all = candidate.window == pattern::kFullWindow;
  return join("granularity ", triple(candidate.granularity), ", window ", all ? "all" : triple(candidate.window), ", ",
              name(candidate.quant));
}

void validate(const CandidateList& list) {
  if (const auto found = find_violation(list)) throw Error(join("candidates: ", found->key, ": ", found->message));
}

void check_for_grid(const CandidateList& list, const Grid& grid) {
  validate(list);
  for (const Candidate& candidate : list.candidates) {
    Schedule alone;
    alone.tile = list.tile;
    alone.phases = {{1.0, candidate.granularity, candidate.window, candidate.quant}};
    check_for_grid(alone, grid);
  }
}

}  // namespace fpsa::schedule
