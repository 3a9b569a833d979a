// The choices that fix a backward kernel for sm_90a at compile time, and where things lie in its shared memory.
#pragma once

#include <cstdint>

#include "fpsa/kernel/cuda/tiling/attention_tiling.h"

namespace fpsa::kernel::cuda {

/// One instantiation of attention_bwd_bf16_sm90a. Its rows, 64 for each of two warpgroups, stay in shared memory while
/// blocks of columns go by: rows are keys and columns queries (dK, dV), or the other way round (dQ).
struct AttentionBwdTiling {
  int dim = 128;         // 64 or 128
  bool of_keys = false;  // rows are keys
  bool coded = false;    // E4M3 codes and scales, as the forward of quantised training had them
  int columns = 64;      // of a block: 64 or 128
  int stages = 4;        // blocks of columns in shared memory, a power of two

  bool operator==(const AttentionBwdTiling&) const = default;
};

/// What the backward knows of each query, as arrays of the 32 slots of a segment, one after the other:
///   shift   P = 2^(S2 - shift): log2(e) LSE, or row_max - 8 with codes; +inf for a row without a token or a key
///   delta   D, with codes times scale
///   scale   q_scale, with codes only
enum BwdStatistic : int { kBwdShift = 0, kBwdDelta = 1, kBwdScale = 2 };
FPSA_BOTH int bwd_statistics(bool coded) {
  return coded ? 3 : 2;
}
/// Bytes of one statistic of a segment.
inline constexpr uint32_t kStatisticBytes = kSegment * 4;

/// In bytes. BF16 elements lie as strips of 64 channels, 128 bytes a row, the swizzle's width.
struct BwdSharedMap {
  uint32_t rows = 0, row_first_bytes = 0, row_second_bytes = 0, row_bytes = 0;  // of one group: K and V, or Q and dO
  uint32_t first = 0, first_bytes = 0;            // of one stage: Q, or K; the other operand of the gradient of the rows
  uint32_t codes = 0, code_bytes = 0;             // their codes, with codes only
  uint32_t second = 0, second_bytes = 0;          // dO, or V
  uint32_t scalars = 0, scalar_bytes = 0;         // statistics of the queries, or with codes scales of the keys
  uint32_t scalar_arrays = 0;                     // how many of them, for each segment
  uint32_t barriers = 0, bytes = 0;
};

FPSA_BOTH BwdSharedMap bwd_shared_map(const AttentionBwdTiling& tiling) {
  const auto dim = static_cast<uint32_t>(tiling.dim), columns = static_cast<uint32_t>(tiling.columns);
  const auto stages = static_cast<uint32_t>(tiling.stages);
  BwdSharedMap map;
  map.row_first_bytes = kGroupRows * dim * (tiling.coded ? 1 : 2);
  map.row_second_bytes = kGroupRows * dim * 2;
  map.row_bytes = map.row_first_bytes + map.row_second_bytes;
  map.first_bytes = map.second_bytes = columns * dim * 2;
  map.code_bytes = tiling.coded ? columns * dim : 0;
  map.scalar_arrays = static_cast<uint32_t>(tiling.of_keys ? bwd_statistics(tiling.coded) : tiling.coded ? 1 : 0);
  map.scalar_bytes = columns / kSegment * map.scalar_arrays * kStatisticBytes;
  // What copies fill begins at multiples of 1024, where every swizzle's pattern begins.
  map.first = map.rows + kConsumers * map.row_bytes;
  map.second = map.first + stages * map.first_bytes;
  map.codes = map.second + stages * map.second_bytes;
  map.scalars = map.codes + stages * map.code_bytes;
  map.barriers = map.scalars + stages * map.scalar_bytes;
  map.bytes = map.barriers + 8 * (4 * stages + 2 * kConsumers);
  return map;
}

/// The instantiation for a problem: as many columns as accumulators leave registers for, as many stages as fit.
FPSA_BOTH AttentionBwdTiling choose_bwd_tiling(int dim, bool of_keys, bool coded) {
  AttentionBwdTiling tiling;
  tiling.dim = dim;
  tiling.of_keys = of_keys;
  tiling.coded = coded;
  tiling.columns = of_keys ? 64 : 128;
  tiling.stages = of_keys || dim == 64 ? 4 : 2;
  return tiling;
}

}  // namespace fpsa::kernel::cuda
