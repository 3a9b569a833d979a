// How quantize_sm90a cuts its work: threads of a block, shared memory, blocks of the grid.
#pragma once

#include <algorithm>
#include <cstdint>

#include "fpsa/kernel/cuda/tiling/quantize_plan.h"

namespace fpsa::kernel::cuda {

inline constexpr int kQuantizeStages = 2;      // quads in shared memory: one in work, one on its way
inline constexpr int kSpanColumns = 256;       // that a warp takes at a time, 8 a thread
inline constexpr int kMostQuantizeWarps = 10;  // of a block that compute
inline constexpr int kOtherQuantizeWarps = 2;  // that bring rows and make them ready
inline constexpr int kMostQuantizeThreads = 32 * (kMostQuantizeWarps + kOtherQuantizeWarps);
inline constexpr int64_t kMostQuantizeWidth = 10880;  // heads x dim: so that two stages and the weights fit

/// Warps that compute: as few as make the spans of a row as short as ten would; a row of 5120 is 20 spans, two for each
/// of ten warps, and one of 1536 is six, one for each of six.
FPSA_BOTH int quantize_warps(int width) {
  const int spans = (width + kSpanColumns - 1) / kSpanColumns;
  const int rounds = (spans + kMostQuantizeWarps - 1) / kMostQuantizeWarps;
  return (spans + rounds - 1) / rounds;
}

/// Where things lie in shared memory, in bytes. Of each stage: rows, turns, what a quad is, its factors.
struct QuantizeMap {
  uint32_t weights = 0, rows = 0, turns = 0, quads = 0, factors = 0, barriers = 0, bytes = 0;
  uint32_t row_bytes = 0, row_pitch = 0, turn_bytes = 0, stage_bytes = 0;
};
inline constexpr uint32_t kQuadWords = 16;           // of Quad in the kernel
inline constexpr uint32_t kFactorBytes = 8 * kQuad;  // of a head: what divides by each row's scale
inline constexpr uint32_t kQuantizeBarriers = 3;     // of a stage

FPSA_BOTH QuantizeMap quantize_map(int heads, int dim, bool norm, bool turn) {
  const auto width = static_cast<uint32_t>(heads * dim);
  QuantizeMap map;
  map.row_bytes = 2 * width;
  map.row_pitch = map.row_bytes + 64;  // rows of whole 128 bytes would begin at the same banks, and are summed together
  map.turn_bytes = turn ? 4 * static_cast<uint32_t>(dim) : 0;
  map.turns = kQuad * map.row_pitch;
  map.quads = map.turns + kQuad * map.turn_bytes;
  map.factors = map.quads + 4 * kQuadWords;
  map.stage_bytes = (map.factors + kFactorBytes * static_cast<uint32_t>(heads) + 127) / 128 * 128;
  map.weights = kQuantizeStages * map.stage_bytes;
  map.barriers = map.weights + (norm ? 4 * width : 0);
  map.bytes = map.barriers + 8 * kQuantizeBarriers * kQuantizeStages;
  return map;
}

/// How V is shared out among blocks of 128 threads. Magnitudes: a thread has 8 channels and every row_chunks-th row.
/// Codes: a block has 128 channels and every segment_chunks-th segment.
struct ValueTiling {
  int column_chunks, row_chunks, column_blocks, segment_chunks;
  bool operator==(const ValueTiling&) const = default;
};
inline constexpr int kValueThreads = 128;
/// As many blocks as a device of so many multiprocessors runs at a time, 16 and 8 on each, so that a thread begins and
/// ends once; fewer where a thread would have fewer than 32 rows, or a block less than a segment.
inline ValueTiling value_tiling(int64_t width, int64_t slots, int64_t batch, int64_t multiprocessors) {
  const int64_t columns = (width + 8 * kValueThreads - 1) / (8 * kValueThreads), blocks = (width + 127) / 128;
  const auto share = [&](int64_t resident, int64_t each, int64_t most) {
    const int64_t wanted = multiprocessors * resident / (each * batch);
    return static_cast<int>(std::clamp<int64_t>(wanted, 1, std::max<int64_t>(most, 1)));
  };
  return {static_cast<int>(columns), share(16, columns, slots / 32), static_cast<int>(blocks),
          share(8, blocks, slots / kSegment)};
}

}  // namespace fpsa::kernel::cuda
