#include "fpsa/pattern/mask.h"

#include <algorithm>

#include "fpsa/base/check.h"

namespace fpsa::pattern {
namespace {

struct Range {
  int64_t begin, end;
};

// Visible tiles on one axis of n, per query tile.
std::vector<Range> axis_windows(int64_t n, int64_t w, const char* axis) {
  FPSA_CHECK(w >= 1, "window ", axis, " = ", w, ": expected at least 1 tile; a value of ", n, " or more means all");
  std::vector<Range> windows(static_cast<size_t>(n), Range{0, n});
  if (w >= n) return windows;
  for (int64_t q = 0; q < n; ++q) {
    const int64_t start = std::clamp<int64_t>(q - w / 2, 0, n - w);
    windows[static_cast<size_t>(q)] = {start, start + w};
  }
  return windows;
}

void check_entries(int64_t rows, int64_t per_row, int64_t heads = 1) {
  int64_t entries = 0;
  const bool overflow =
      __builtin_mul_overflow(rows, per_row, &entries) || __builtin_mul_overflow(entries, heads, &entries);
  FPSA_CHECK(!overflow && entries <= kMaxMaskEntries, "mask of ", rows, " x ", per_row, " tiles and ", heads,
             " head(s): more than ", kMaxMaskEntries, " visible tile pairs; use a larger tile");
}

void check_fits(const BlockMask& mask, const TileOrder& order) {
  FPSA_CHECK(mask.rows == order.tile_count() && mask.cols == order.tile_count(), "mask of ", mask.rows, " x ",
             mask.cols, " tiles: the grid ", to_string(order.grid()), " has ", order.tile_count(), " tiles of ",
             to_string(order.tile()), "; build the mask for this grid and tile");
}

int64_t round_up(int64_t a, int64_t b) {
  return (a + b - 1) / b * b;
}

// Tokens of the visible tiles when runs of neighbouring tiles are rounded up to whole blocks.
int64_t padded_keys(std::span<const int32_t> visible, const TileOrder& order, const BlockShape& block) {
  int64_t keys = 0;
  for (size_t i = 0; i < visible.size();) {
    size_t j = i + 1;
    while (block.straddle && j < visible.size() && visible[j] == visible[j - 1] + 1)
      ++j;
    keys += round_up(order.tile_begin(visible[j - 1] + 1) - order.tile_begin(visible[i]), block.key);
    i = j;
  }
  return keys;
}

}  // namespace

void check_mask(const BlockMask& mask) {
  FPSA_CHECK(mask.rows >= 0 && mask.cols >= 0, "mask: expected rows and cols of at least 0, received ", mask.rows,
             " and ", mask.cols);
  FPSA_CHECK(!mask.row_begin.empty(), "mask row_begin: expected at least one entry, received none");
  const int64_t stored = static_cast<int64_t>(mask.row_begin.size()) - 1;
  FPSA_CHECK(stored == mask.heads() * mask.rows,
             "mask row_begin: expected heads*rows + 1 = ", mask.heads() * mask.rows + 1, " entries, received ",
             stored + 1);
  FPSA_CHECK(mask.row_begin.front() == 0 && mask.row_begin.back() == static_cast<int64_t>(mask.col.size()),
             "mask row_begin: expected to run from 0 to the number of columns ", mask.col.size(), ", received ",
             mask.row_begin.front(), " to ", mask.row_begin.back());
  for (int64_t i = 0; i < stored; ++i) {
    const int32_t begin = mask.row_begin[static_cast<size_t>(i)], end = mask.row_begin[static_cast<size_t>(i) + 1];
    FPSA_CHECK(begin <= end, "mask head ", i / mask.rows, " row ", i % mask.rows, ": row_begin falls from ", begin,
               " to ", end);
    // A row_begin that overshoots in the middle must fall again later; do not read past the columns meanwhile.
    FPSA_CHECK(end <= static_cast<int64_t>(mask.col.size()), "mask head ", i / mask.rows, " row ", i % mask.rows,
               ": row_begin ", end, " is past the number of columns ", mask.col.size());
    for (int32_t k = begin; k < end; ++k) {
      const int32_t c = mask.col[static_cast<size_t>(k)];
      FPSA_CHECK(c >= 0 && c < mask.cols, "mask head ", i / mask.rows, " row ", i % mask.rows, ": key tile ", c,
                 " is outside [0, ", mask.cols, ")");
      FPSA_CHECK(k == begin || mask.col[static_cast<size_t>(k) - 1] < c, "mask head ", i / mask.rows, " row ",
                 i % mask.rows, ": key tile ", c, " follows ", mask.col[static_cast<size_t>(k) - 1],
                 "; expected strictly ascending tiles");
    }
  }
}

BlockMask dense(const Grid& grid, const Grid& tile) {
  return sliding_tile(grid, tile, kFullWindow);
}

BlockMask sliding_tile(const Grid& grid, const Grid& tile, const Grid& window) {
  const Grid n = tiles_per_axis(grid, tile);
  const std::vector<Range> wt = axis_windows(n.t, window.t, "t");
  const std::vector<Range> wy = axis_windows(n.y, window.y, "y");
  const std::vector<Range> wx = axis_windows(n.x, window.x, "x");
  BlockMask mask;
  mask.rows = mask.cols = n.volume();
  const int64_t per_row = std::min(window.t, n.t) * std::min(window.y, n.y) * std::min(window.x, n.x);
  check_entries(mask.rows, per_row);
  mask.row_begin.reserve(static_cast<size_t>(mask.rows) + 1);
  mask.col.reserve(static_cast<size_t>(mask.rows * per_row));
  mask.row_begin.push_back(0);
  for (const Range& t : wt) {
    for (const Range& y : wy) {
      for (const Range& x : wx) {
        for (int64_t i = t.begin; i < t.end; ++i) {
          for (int64_t j = y.begin; j < y.end; ++j) {
            for (int64_t k = x.begin; k < x.end; ++k) {
              mask.col.push_back(static_cast<int32_t>((i * n.y + j) * n.x + k));
            }
          }
        }
        mask.row_begin.push_back(static_cast<int32_t>(mask.col.size()));
      }
    }
  }
  return mask;
}

BlockMask per_head(const std::vector<BlockMask>& masks) {
  FPSA_CHECK(!masks.empty(), "per_head: expected at least one mask, received none");
  BlockMask stacked;
  stacked.rows = masks.front().rows;
  stacked.cols = masks.front().cols;
  stacked.shared = false;
  stacked.row_begin.push_back(0);
  int64_t entries = 0;
  for (const BlockMask& mask : masks)
    entries += static_cast<int64_t>(mask.col.size());
  check_entries(entries, 1);
  for (size_t h = 0; h < masks.size(); ++h) {
    const BlockMask& mask = masks[h];
    FPSA_CHECK(mask.heads() == 1, "per_head: mask ", h, " holds ", mask.heads(), " heads; expected one per entry");
    FPSA_CHECK(mask.rows == stacked.rows && mask.cols == stacked.cols, "per_head: mask ", h, " has ", mask.rows, " x ",
               mask.cols, " tiles; expected ", stacked.rows, " x ", stacked.cols, " as the first");
    const int32_t base = stacked.row_begin.back();
    for (size_t r = 1; r < mask.row_begin.size(); ++r)
      stacked.row_begin.push_back(base + mask.row_begin[r]);
    stacked.col.insert(stacked.col.end(), mask.col.begin(), mask.col.end());
  }
  return stacked;
}

BlockMask from_matrix(std::span<const uint8_t> visible, int64_t heads, int64_t rows, int64_t cols) {
  FPSA_CHECK(heads >= 1 && rows >= 0 && cols >= 0,
             "mask matrix: expected heads >= 1, rows >= 0 and cols >= 0, received ", heads, ", ", rows, ", ", cols);
  check_entries(rows, cols, heads);
  FPSA_CHECK(static_cast<int64_t>(visible.size()) == heads * rows * cols, "mask matrix: expected ", heads, " x ", rows,
             " x ", cols, " = ", heads * rows * cols, " entries, received ", visible.size());
  BlockMask mask;
  mask.rows = rows;
  mask.cols = cols;
  mask.shared = heads == 1;
  mask.row_begin.push_back(0);
  for (int64_t i = 0; i < heads * rows; ++i) {
    for (int64_t c = 0; c < cols; ++c) {
      if (visible[static_cast<size_t>(i * cols + c)] != 0) mask.col.push_back(static_cast<int32_t>(c));
    }
    mask.row_begin.push_back(static_cast<int32_t>(mask.col.size()));
  }
  return mask;
}

BlockMask from_csr(int64_t heads, int64_t rows, int64_t cols, std::vector<int32_t> row_begin,
                   std::vector<int32_t> col) {
  FPSA_CHECK(heads >= 1 && rows >= 0 && cols >= 0, "mask csr: expected heads >= 1, rows >= 0 and cols >= 0, received ",
             heads, ", ", rows, ", ", cols);
  check_entries(rows, 1, heads);
  FPSA_CHECK(static_cast<int64_t>(row_begin.size()) == heads * rows + 1,
             "mask row_begin: expected heads*rows + 1 = ", heads * rows + 1, " entries, received ", row_begin.size());
  BlockMask mask{rows, cols, heads == 1, std::move(row_begin), std::move(col)};
  check_mask(mask);
  return mask;
}

BlockMask transposed(const BlockMask& mask, int64_t head) {
  BlockMask result;
  result.rows = mask.cols;
  result.cols = mask.rows;
  result.row_begin.assign(static_cast<size_t>(mask.cols) + 1, 0);
  for (int64_t row = 0; row < mask.rows; ++row)
    for (const int32_t col : mask.visible(head, row))
      ++result.row_begin[static_cast<size_t>(col) + 1];
  for (size_t col = 0; col < static_cast<size_t>(mask.cols); ++col)
    result.row_begin[col + 1] += result.row_begin[col];
  result.col.resize(static_cast<size_t>(result.row_begin.back()));
  std::vector<int32_t> at(result.row_begin.begin(), result.row_begin.end() - 1);
  for (int64_t row = 0; row < mask.rows; ++row)
    for (const int32_t col : mask.visible(head, row))
      result.col[static_cast<size_t>(at[static_cast<size_t>(col)]++)] = static_cast<int32_t>(row);
  return result;
}

int64_t visible_pairs(const BlockMask& mask, const TileOrder& order, int64_t head) {
  check_fits(mask, order);
  int64_t pairs = 0;
  for (int64_t r = 0; r < mask.rows; ++r) {
    int64_t keys = 0;
    for (const int32_t c : mask.visible(head, r))
      keys += order.tile_tokens(c);
    pairs += keys * order.tile_tokens(r);
  }
  return pairs;
}

double density(const BlockMask& mask, const TileOrder& order) {
  const double all = static_cast<double>(order.tokens()) * static_cast<double>(order.tokens());
  double sum = 0.0;
  for (int64_t h = 0; h < mask.heads(); ++h)
    sum += static_cast<double>(visible_pairs(mask, order, h)) / all;
  return sum / static_cast<double>(mask.heads());
}

int64_t attention_flops(const BlockMask& mask, const TileOrder& order, int64_t heads, int64_t head_dim) {
  FPSA_CHECK(heads >= 1 && head_dim >= 1, "attention_flops: expected heads and head_dim of at least 1, received ",
             heads, " and ", head_dim);
  FPSA_CHECK(mask.shared || mask.heads() == heads, "attention_flops: the mask has ", mask.heads(), " heads; expected ",
             heads);
  int64_t pairs = 0;
  bool overflow = false;
  if (mask.shared) {
    overflow = __builtin_mul_overflow(visible_pairs(mask, order), heads, &pairs);
  } else {
    for (int64_t h = 0; h < heads; ++h) {
      overflow = overflow || __builtin_add_overflow(pairs, visible_pairs(mask, order, h), &pairs);
    }
  }
  int64_t flops = 0;
  overflow = overflow || __builtin_mul_overflow(pairs, head_dim, &flops) || __builtin_mul_overflow(flops, 4, &flops);
  FPSA_CHECK(!overflow, "attention_flops: more than 2^63 - 1 operations");
  return flops;
}

double waste(const BlockMask& mask, const TileOrder& order, const BlockShape& block) {
  FPSA_CHECK(block.query >= 1 && block.key >= 1, "waste: expected a block of at least 1 x 1, received ", block.query,
             " x ", block.key);
  double visible = 0.0, executed = 0.0;
  for (int64_t h = 0; h < mask.heads(); ++h) {
    visible += static_cast<double>(visible_pairs(mask, order, h));
    for (int64_t r = 0; r < mask.rows;) {
      const std::span<const int32_t> keys = mask.visible(h, r);
      int64_t next = r + 1;
      while (block.straddle && next < mask.rows && std::ranges::equal(keys, mask.visible(h, next)))
        ++next;
      const int64_t rows = round_up(order.tile_begin(next) - order.tile_begin(r), block.query);
      executed += static_cast<double>(rows) * static_cast<double>(padded_keys(keys, order, block));
      r = next;
    }
  }
  return visible == 0.0 ? 0.0 : executed / visible - 1.0;
}

}  // namespace fpsa::pattern
