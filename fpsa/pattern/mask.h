// Which key tiles each query tile sees, and what that costs.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "fpsa/pattern/grid.h"
#include "fpsa/pattern/order.h"

namespace fpsa::pattern {

/// A boolean matrix query tiles x key tiles in CSR form, one per head or one shared by all heads.
///   Layout    row r of stored mask h lists its key tiles in col[row_begin[h*rows + r] .. row_begin[h*rows + r + 1])
///   Requires  columns strictly ascending in a row; row_begin has heads()*rows + 1 entries, from 0 to col.size()
///   Edges     a row may be empty: its output is 0 and its log-sum-exp -inf
struct BlockMask {
  int64_t rows = 0, cols = 0;  // query tiles, key tiles
  bool shared = true;          // one mask for every head
  std::vector<int32_t> row_begin, col;

  /// Number of stored masks: 1 when shared.
  int64_t heads() const { return shared || rows == 0 ? 1 : (static_cast<int64_t>(row_begin.size()) - 1) / rows; }
  /// Key tiles that query tile `row` of `head` sees; a shared mask answers for any head.
  std::span<const int32_t> visible(int64_t head, int64_t row) const {
    const size_t i = static_cast<size_t>((shared ? 0 : head) * rows + row);
    return {col.data() + row_begin[i], col.data() + row_begin[i + 1]};
  }
  bool operator==(const BlockMask&) const = default;
};

/// Most entries a mask may have: 512 MB of columns. Beyond it the tile is too small for the grid.
inline constexpr int64_t kMaxMaskEntries = int64_t{1} << 27;

/// Checks the layout named at BlockMask.
///   Errors    the first violation, with head, row and column
void check_mask(const BlockMask& mask);

/// Every query tile sees every key tile.
BlockMask dense(const Grid& grid, const Grid& tile);

/// Sliding tiles. Per axis of n tiles a query tile q sees [start, start + w), start = clamp(q - floor(w/2), 0, n - w);
/// w >= n means all. So the count is the same at borders, and an even w keeps exactly w tiles.
///   Units     window in tiles
///   Errors    a window extent below 1
BlockMask sliding_tile(const Grid& grid, const Grid& tile, const Grid& window);

/// One mask per head, stacked from shared or one-head masks of equal shape, in order.
BlockMask per_head(const std::vector<BlockMask>& masks);

/// A mask given by the user as a boolean matrix [heads, rows, cols], non-zero = visible; heads = 1 is shared.
///   Errors    a size other than heads*rows*cols, or a negative extent
BlockMask from_matrix(std::span<const uint8_t> visible, int64_t heads, int64_t rows, int64_t cols);

/// A mask given by the user in CSR form; row_begin as at BlockMask, heads = 1 is shared.
///   Errors    as check_mask
BlockMask from_csr(int64_t heads, int64_t rows, int64_t cols, std::vector<int32_t> row_begin, std::vector<int32_t> col);

/// One head's mask with its sides exchanged: row j lists, ascending, the query tiles that see key tile j.
BlockMask transposed(const BlockMask& mask, int64_t head);

/// Visible (query, key) token pairs of one head.
///   Errors    a mask whose rows and cols are not the order's tile count
int64_t visible_pairs(const BlockMask& mask, const TileOrder& order, int64_t head = 0);

/// Visible pairs / L^2, averaged over the mask's heads.
double density(const BlockMask& mask, const TileOrder& order);

/// Floating-point operations of attention forward under the mask: 4 * visible pairs * head_dim, summed over
/// `heads` heads (two products, a multiply and an add each; the softmax is not counted).
///   Errors    a per-head mask with another number of heads; a result above 2^63 - 1
int64_t attention_flops(const BlockMask& mask, const TileOrder& order, int64_t heads, int64_t head_dim);

/// How a kernel cuts work into blocks of query rows x key columns.
struct BlockShape {
  int64_t query = 1, key = 1;  // rows and columns; a partial block costs a whole one
  bool straddle = true;        // a block may run over the border between neighbouring tiles of equal treatment
};

/// Executed multiply-adds / visible multiply-adds - 1, averaged over the mask's heads by their work. With
/// `straddle`, consecutive query tiles with the same visible tiles form one run of rows and consecutive visible
/// key tiles one run of columns, and only the ends of runs are partial; without it every tile is its own run.
/// An empty mask wastes 0.
double waste(const BlockMask& mask, const TileOrder& order, const BlockShape& block);

}  // namespace fpsa::pattern
