// Contract of attention forward over one head, for every implementation in reference/ and cpu/.
//
// The caller packs keys and values of a head once, then runs blocks of query rows in any order and on any
// threads. Rows are named by their position in tile order; a view's index says where the row lies in memory, so
// that neither the tile order nor its inverse needs a pass of its own.
#pragma once

#include <cstdint>

namespace fpsa::kernel {

enum class Dtype : uint8_t { kF32, kBf16, kE4m3, kInt8 };

/// Query rows that one call may have at most; scratch is sized for it.
inline constexpr int32_t kMaxQueryRows = 96;

/// Row i begins at element (index ? index[i] : i) * stride of data; its D elements are contiguous.
struct RowsView {
  const void* data = nullptr;
  int64_t stride = 0;  // in elements
  const int32_t* index = nullptr;
};

/// The inputs of one (batch, head).
struct AttentionHead {
  int64_t queries = 0, keys = 0, dim = 0;
  RowsView q, k, v;                // of the entry's dtype; bf16 as uint16_t, e4m3 as uint8_t, int8 as int8_t
  const float* q_scale = nullptr;  // [queries] by position, e4m3 and int8 only
  const float* k_scale = nullptr;  // [keys] by position, e4m3 and int8 only
  const float* v_scale = nullptr;  // [D], e4m3 and int8 only
  float softmax_scale = 1.0f;
};

/// Where one (batch, head) goes. Rows are written at (index ? index[i] : i).
struct AttentionOut {
  void* out = nullptr;
  int64_t stride = 0;         // in elements
  Dtype dtype = Dtype::kF32;  // kF32 or kBf16
  const int32_t* index = nullptr;
  float* lse = nullptr;      // [queries] or null, contiguous, written at the same index
  float* row_max = nullptr;  // [queries] or null, likewise
  void* exact = nullptr;     // [queries,D] of `dtype`, or null: out as it would be with unrounded P; for the backward
  int64_t exact_stride = 0;  // in elements
};

struct KeyRange {
  int32_t begin, end;  // positions [begin, end), begin < end
};

/// Query rows [begin, end), at most kMaxQueryRows, that see the same keys: `ranges`, ascending and disjoint.
struct QueryBlock {
  int32_t begin = 0, end = 0;
  const KeyRange* ranges = nullptr;
  int32_t range_count = 0;
};

/// Attention forward: out = softmax(softmax_scale * q k^T over the visible keys) v, for one block of query rows.
///   Shapes    q [queries,D]; k,v [keys,D]; out, exact [queries,D]; lse, row_max [queries]; D a multiple of 8, 8 to 256
///   Layout    rows by position through RowsView; packed and scratch 64-byte aligned
///   Units     real = code x scale; lse natural log; row_max in log2 units, an integer held as F32
///   Requires  pack() for all keys before run(); no output overlaps an input
///   Edges     no visible key: out 0, lse and row_max -inf. A visible score that is NaN or +inf makes the row NaN.
///             Keys that are not visible take no part, whatever they hold, if they are finite
///   Numerics  S2 = dot * (log2(e) softmax_scale q_scale[i]) * k_scale[j], dot of unscaled elements in F32;
///             m = the running ceil(max S2); P = 2^(S2 - m). The row sum adds the unrounded P in F32. P enters the
///             second product as F32 (f32 entries), as BF16 or better (bf16 entries), or as the exact value of the
///             code E4M3(256 P) (e4m3 entries; undone by 1/256). m may run over any blocks of keys: codes differ by
///             that only below 2^-14 of the row's largest P. Accumulators F32 (reference: F64). `exact` has P as F32 or
///             BF16 in the place of its code; where P is not coded it equals out.
///             int8 entries: codes in [-127, 127]; dot is an exact int32; S2 = (F32(dot) * (F32(log2(e) softmax_scale)
///             * q_scale[i])) * k_scale[j], every product rounded to F32, so S2 and m have the same bits in every
///             entry. P enters as the u8 code nearest to 255 P, ties to even; the second product is an exact int32 sum
///             over each block of keys, or over several under one m, added to the F32 accumulators; out = accumulator *
///             v_scale[d] / (255 sum). A code made under an m that later rises by r is 2^r times finer than one made
///             under the last m, so entries whose blocks differ agree to less than one code of the last m per key.
///             They have no backward, and `exact` must be null.
///             Tolerances: kAttentionF32, kAttentionBf16, kAttentionE4m3*, kAttentionInt8*
///   Threads   run() writes the rows of its block and its scratch, nothing else; a row's bits depend neither on
///             the block it is in nor on how its visible keys are cut into ranges. pack() of disjoint ranges may run at
///             the same time
///   Errors    checked by ops; kernels are noexcept
struct AttentionFwd {
  /// Bytes of the packed keys and values of one head.
  int64_t (*packed_bytes)(int64_t keys, int64_t dim) noexcept;
  /// Packs keys [begin, end); begin is a multiple of 64, end too unless it is the number of keys.
  void (*pack)(const AttentionHead& head, int64_t begin, int64_t end, void* packed) noexcept;
  /// Bytes of scratch for one run() at a time.
  int64_t (*scratch_bytes)(int64_t keys, int64_t dim) noexcept;
  void (*run)(const AttentionHead& head, const void* packed, const QueryBlock& block, const AttentionOut& out,
              void* scratch) noexcept;
};

}  // namespace fpsa::kernel
