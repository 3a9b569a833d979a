#include "fpsa/pattern/order.h"

#include <algorithm>

namespace fpsa::pattern {
namespace {

struct Box {
  Grid begin, end;
};

// Box number (i, j, k) of extent `step` inside `outer`, cut at its end.
Box sub_box(const Box& outer, const Grid& step, int64_t i, int64_t j, int64_t k) {
  const Grid begin = {outer.begin.t + i * step.t, outer.begin.y + j * step.y, outer.begin.x + k * step.x};
  return {begin,
          {std::min(begin.t + step.t, outer.end.t), std::min(begin.y + step.y, outer.end.y),
           std::min(begin.x + step.x, outer.end.x)}};
}

// Calls visit(box) for each box of extent `step` that tiles `outer`, in raster order.
template <class Visit>
void for_each_box(const Box& outer, const Grid& step, Visit visit) {
  const Grid extent = {outer.end.t - outer.begin.t, outer.end.y - outer.begin.y, outer.end.x - outer.begin.x};
  const Grid count = tiles_per_axis(extent, step);
  for (int64_t i = 0; i < count.t; ++i) {
    for (int64_t j = 0; j < count.y; ++j) {
      for (int64_t k = 0; k < count.x; ++k)
        visit(sub_box(outer, step, i, j, k));
    }
  }
}

Grid min_per_axis(const Grid& a, const Grid& b) {
  return {std::min(a.t, b.t), std::min(a.y, b.y), std::min(a.x, b.x)};
}

}  // namespace

TileOrder::TileOrder(const Grid& grid, const Grid& tile, const Grid& granularity)
    : grid_(grid), tile_(tile), granularity_(granularity), tile_grid_(tiles_per_axis(grid, tile)) {
  check_granularity(granularity, tile);
  const int64_t tokens = checked_volume(grid, "grid");
  to_raster_.reserve(static_cast<size_t>(tokens));
  tile_begin_.reserve(static_cast<size_t>(tile_grid_.volume()) + 1);
  const Grid sub_tile = min_per_axis(granularity, tile);
  for_each_box({{0, 0, 0}, grid}, tile, [&](const Box& whole) {
    tile_begin_.push_back(static_cast<int32_t>(to_raster_.size()));
    for_each_box(whole, sub_tile, [&](const Box& box) {
      for (int64_t t = box.begin.t; t < box.end.t; ++t) {
        for (int64_t y = box.begin.y; y < box.end.y; ++y) {
          const int64_t row = (t * grid.y + y) * grid.x;
          for (int64_t x = box.begin.x; x < box.end.x; ++x)
            to_raster_.push_back(static_cast<int32_t>(row + x));
        }
      }
    });
  });
  tile_begin_.push_back(static_cast<int32_t>(to_raster_.size()));
  from_raster_.resize(static_cast<size_t>(tokens));
  for (size_t p = 0; p < to_raster_.size(); ++p)
    from_raster_[static_cast<size_t>(to_raster_[p])] = static_cast<int32_t>(p);
}

TokenGroups token_groups(const TileOrder& order) {
  const Grid& grid = order.grid();
  const Grid g = min_per_axis(order.granularity(), grid);  // a group larger than the grid is the grid
  const Grid group_grid = tiles_per_axis(grid, g);
  std::vector<int32_t> number(static_cast<size_t>(group_grid.volume()), -1);  // raster of groups -> first seen
  TokenGroups groups;
  groups.of_token.resize(static_cast<size_t>(order.tokens()));
  for (int64_t tile = 0; tile < order.tile_count(); ++tile) {
    int32_t previous = -1;
    for (int32_t p = order.tile_begin(tile); p < order.tile_begin(tile + 1); ++p) {
      const int64_t raster = order.to_raster()[static_cast<size_t>(p)];
      const int64_t t = raster / (grid.y * grid.x), y = raster / grid.x % grid.y, x = raster % grid.x;
      int32_t& group = number[static_cast<size_t>(((t / g.t) * group_grid.y + y / g.y) * group_grid.x + x / g.x)];
      if (group < 0) group = static_cast<int32_t>(groups.count++);
      groups.of_token[static_cast<size_t>(p)] = group;
      if (group != previous) {
        groups.run_begin.push_back(p);
        groups.run_group.push_back(group);
        previous = group;
      }
    }
  }
  groups.run_begin.push_back(static_cast<int32_t>(order.tokens()));
  return groups;
}

}  // namespace fpsa::pattern
