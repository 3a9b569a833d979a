// The choices that fix an attention kernel for sm_90a at compile time, what they cost, and which instantiation serves.
#pragma once

#include <cstdint>

#include "fpsa/kernel/cuda/tiling/fragments.h"

namespace fpsa::kernel::cuda {

/// One instantiation of attention_fwd_e4m3_sm90a or attention_fwd_bf16_sm90a.
struct AttentionTiling {
  int dim = 128;               // 64 or 128
  int element_bytes = 1;       // of Q, K and V: 1 E4M3, 2 BF16, which leaves out what is said of scales and folds
  int keys = 128;              // of a block: a multiple of 64
  int stages = 4;              // blocks of keys and values in shared memory, a power of two
  int fold_every = 1;          // blocks that the tensor cores add up before the sum goes to F32 registers
  bool column_scales = false;  // K's scale changes inside a segment
  bool exact = false;          // the output with unrounded P
  int polynomial = 1;          // of 16 exponentials, those on FMA units instead of the special function unit
  int cluster = 1;             // blocks of threads that share what they copy of keys and values

  bool operator==(const AttentionTiling&) const = default;
};

inline constexpr int kConsumers = 2;                     // warpgroups
inline constexpr int kGroupRows = 64;                    // query rows of each: A of one product
inline constexpr int kThreads = 128 * (1 + kConsumers);  // and the producer's warpgroup
inline constexpr int kRegistersAtStart = 168;            // 65536 / kThreads, a multiple of 8
inline constexpr int kProducerRegisters = 24, kConsumerRegisters = 240;
static_assert(128 * (kProducerRegisters + kConsumers * kConsumerRegisters) <= 65536, "they share one register file");
inline constexpr uint32_t kMaxSharedBytes = 227 * 1024;

/// Where things lie in shared memory, in bytes.
struct SharedMap {
  uint32_t queries = 0, keys = 0, values = 0, staging = 0, scales = 0, barriers = 0, bytes = 0;
  uint32_t query_bytes = 0, key_bytes = 0, value_bytes = 0, scale_bytes = 0;  // of one group or stage
  uint32_t staging_pitch = 0, staging_bytes = 0;                              // of one group
};

FPSA_BOTH SharedMap shared_map(const AttentionTiling& tiling) {
  const auto dim = static_cast<uint32_t>(tiling.dim), keys = static_cast<uint32_t>(tiling.keys);
  const auto stages = static_cast<uint32_t>(tiling.stages);
  SharedMap map;
  const auto row_bytes = dim * static_cast<uint32_t>(tiling.element_bytes);
  map.query_bytes = kGroupRows * row_bytes;
  map.key_bytes = map.value_bytes = keys * row_bytes;
  map.scale_bytes = tiling.element_bytes == 1 ? keys * 4 : 0;
  map.staging_pitch = dim * 2 + 16;  // 16 more than a power of two: rows begin in different banks
  map.staging_bytes = kGroupRows * map.staging_pitch;
  // What copies fill begins at multiples of 1024, where every swizzle's pattern begins.
  map.keys = map.queries + kConsumers * map.query_bytes;
  map.values = map.keys + stages * map.key_bytes;
  map.staging = map.values + stages * map.value_bytes;
  map.scales = (map.staging + kConsumers * map.staging_bytes + 127) / 128 * 128;
  map.barriers = map.scales + stages * map.scale_bytes;
  map.bytes = map.barriers + 8 * (4 * stages + 2 * kConsumers);
  return map;
}

/// The instantiation for a problem. Column scales are for granularities that leave a segment with more than one scale;
/// the exact output, a launch of its own, has codes of what rounding P left as well, for which blocks of 64 keys leave
/// registers. choose_coded_cluster() has the `cluster`.
FPSA_BOTH AttentionTiling choose_tiling(int dim, bool column_scales, bool exact, int cluster = 1) {
  AttentionTiling tiling;
  tiling.cluster = cluster;
  tiling.dim = dim;
  tiling.keys = exact ? 64 : 128;
  tiling.stages = exact ? 8 : 4;
  tiling.column_scales = column_scales;
  tiling.exact = exact;
  return tiling;
}

/// The instantiation of attention_fwd_bf16_sm90a. A block of 128 keys and values of D = 128 is 64 KiB: two stages fit.
/// The tensor cores need as long for it as the special function units at D = 64 and twice as long at 128.
FPSA_BOTH AttentionTiling choose_bf16_tiling(int dim, int cluster = 1) {
  AttentionTiling tiling;
  tiling.dim = dim;
  tiling.element_bytes = 2;
  tiling.stages = dim == 128 ? 2 : 4;
  tiling.polynomial = dim == 128 ? 0 : 1;
  tiling.cluster = cluster;
  return tiling;
}

/// The blocks of a cluster that pay for a work list of so many items, `paired` of them with a partner. A pair takes
/// half of its keys and values from L2, which binds the kernel; an item without a partner costs a block of a cluster
/// what it costs any other, but blocks of pairs wait for each other. docs/gpu/model.md puts the gain of a pair at a
/// quarter of its time and the wait at a few hundredths, so a list of few pairs is left to single blocks.
FPSA_BOTH int choose_cluster(int64_t items, int64_t paired) {
  return paired > 0 && 4 * paired >= items ? 2 : 1;
}
/// The same for attention_fwd_e4m3_sm90a, which L2 binds at D = 128 without column scales; at D = 64 a block has half
/// the bytes and as many exponentials, the other instantiations have more arithmetic.
FPSA_BOTH int choose_coded_cluster(int dim, bool column_scales, bool exact, int64_t items, int64_t paired) {
  return dim == 64 || column_scales || exact ? 1 : choose_cluster(items, paired);
}

}  // namespace fpsa::kernel::cuda
