#include "fpsa/pattern/grid.h"

#include <algorithm>

#include "fpsa/base/check.h"

namespace fpsa::pattern {
namespace {

int64_t ceil_div(int64_t a, int64_t b) {
  return a / b + (a % b != 0);
}

void check_axis(int64_t g, int64_t t, const char* axis) {
  if (g >= 1 && (g % t == 0 || t % g == 0)) return;
  // The legal neighbours of g: multiples of t above t, divisors of t below it.
  int64_t below = 1, above = t;
  if (g > t) {
    below = g / t * t;
    above = below + t;
  } else {
    for (int64_t d = 1; d * d <= t; ++d) {
      if (t % d != 0) continue;
      for (const int64_t divisor : {d, t / d}) {
        if (divisor <= g) below = std::max(below, divisor);
        if (divisor >= g) above = std::min(above, divisor);
      }
    }
  }
  throw Error(
      join("granularity ", axis, " = ", g, ": expected a multiple or a divisor of the tile's ", axis, " = ", t,
           below == above ? join("; the nearest is ", below) : join("; the nearest are ", below, " and ", above)));
}

void check_tile(const Grid& tile) {
  const auto legal = [](int64_t extent) { return extent >= 1 && extent <= kMaxTokens; };
  FPSA_CHECK(legal(tile.t) && legal(tile.y) && legal(tile.x), "tile ", to_string(tile),
             ": expected every extent (t, y, x) in [1, ", kMaxTokens, "]");
}

}  // namespace

std::string to_string(const Grid& grid) {
  return join(grid.t, "x", grid.y, "x", grid.x);
}

int64_t checked_volume(const Grid& grid, const std::string& name) {
  FPSA_CHECK(grid.t >= 1 && grid.y >= 1 && grid.x >= 1, name, " ", to_string(grid),
             ": expected every extent (t, y, x) to be at least 1");
  int64_t volume = 0;
  const bool overflow = __builtin_mul_overflow(grid.t, grid.y, &volume) ||
                        __builtin_mul_overflow(volume, grid.x, &volume) || volume > kMaxTokens;
  FPSA_CHECK(!overflow, name, " ", to_string(grid), ": more than ", kMaxTokens,
             " tokens; lower the size or the number of frames");
  return volume;
}

Grid tiles_per_axis(const Grid& grid, const Grid& tile) {
  checked_volume(grid, "grid");
  check_tile(tile);
  return {ceil_div(grid.t, tile.t), ceil_div(grid.y, tile.y), ceil_div(grid.x, tile.x)};
}

void check_granularity(const Grid& granularity, const Grid& tile) {
  check_tile(tile);
  check_axis(granularity.t, tile.t, "t");
  check_axis(granularity.y, tile.y, "y");
  check_axis(granularity.x, tile.x, "x");
}

}  // namespace fpsa::pattern
