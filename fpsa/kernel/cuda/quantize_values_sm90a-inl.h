// quantize_sm90a for V: the largest magnitude of every channel over the sequence, then codes, transposed.
//
// Both kernels read V as rows of 16-byte pieces, 8 channels each. For codes a warp takes 32 channels of a segment of 32
// keys: a lane has 8 channels of the four keys that value_place() puts side by side, so its codes of a channel are a
// word of the result, the 8 lanes of the same channels write its 32 bytes, and nothing is exchanged between threads.
#pragma once

#include "fpsa/kernel/cuda/quantize_parts-inl.h"
#include "fpsa/kernel/cuda/quantize_sm90a.h"
#include "fpsa/kernel/cuda/tiling/quantize_tiling.h"

namespace fpsa::kernel::cuda::inline FPSA_TARGET {

inline constexpr int kPiece = 8;          // channels that a thread has
inline constexpr int kRowsAtOnce = 8;     // loads under way of a thread that looks for magnitudes
inline constexpr int kWarpChannels = 32;  // of the codes

/// Block index: (batch, row chunk, column chunk).
template <int kDim>
FPSA_DEVICE void value_magnitudes_sm90a(const QuantizeValuesParams& p) {
  const int index = ptx::block_index(), width = p.heads * kDim;
  const int channel = (index % p.tiling.column_chunks * kValueThreads + ptx::thread_index()) * kPiece;
  if (channel >= width) return;
  const int chunk = index / p.tiling.column_chunks % p.tiling.row_chunks;
  const int batch = index / p.tiling.column_chunks / p.tiling.row_chunks;
  const uint16_t* from = p.x.data + batch * p.x.batch_stride + channel / kDim * p.x.head_stride + channel % kDim;
  uint32_t largest[kPiece / 2] = {};
  for (int64_t first = chunk; first < p.tokens; first += int64_t{kRowsAtOnce} * p.tiling.row_chunks) {
    ptx::Words4 pieces[kRowsAtOnce];
    FPSA_UNROLL
    for (int i = 0; i < kRowsAtOnce; ++i) {
      // Beyond the end the last row again: it changes nothing.
      const int64_t row = first + int64_t{i} * p.tiling.row_chunks;
      pieces[i] = ptx::load_once(from + (row < p.tokens ? row : p.tokens - 1) * p.x.row_stride);
    }
    FPSA_UNROLL
    for (int i = 0; i < kRowsAtOnce; ++i) {
      FPSA_UNROLL
      for (int word = 0; word < kPiece / 2; ++word)
        largest[word] = ptx::max_u16x2(largest[word], magnitudes_of(pieces[i].at[word]));
    }
  }
  uint32_t* to = p.magnitudes + int64_t{batch} * width + channel;
  FPSA_UNROLL
  for (int word = 0; word < kPiece / 2; ++word) {
    ptx::raise_global(to + 2 * word, largest[word] << 16);
    ptx::raise_global(to + 2 * word + 1, largest[word] & 0xffff0000u);
  }
}

/// kPiece channels of four keys. kFull: all four exist, and all divisors are plain.
template <bool kFull>
FPSA_DEVICE void value_codes_of_keys(const uint16_t* from, int64_t row_stride, const int32_t (&row)[4],
                                     const Divisor (&by)[kPiece], uint8_t* to) {
  ptx::Words4 pieces[4];
  FPSA_UNROLL
  for (int key = 0; key < 4; ++key)
    pieces[key] = kFull || row[key] >= 0 ? ptx::load_once(from + row[key] * row_stride) : ptx::Words4{};
  FPSA_UNROLL
  for (int i = 0; i < kPiece; ++i) {
    float x[4];
    FPSA_UNROLL
    for (int key = 0; key < 4; ++key) {
      const uint32_t word = pieces[key].at[i / 2];
      x[key] = i % 2 == 0 ? low_bf16(word) : high_bf16(word);
    }
    uint32_t codes = codes_of<kFull>(x, by[i]);
    FPSA_UNROLL
    for (int key = 0; key < 4; ++key)
      if (!kFull && row[key] < 0) codes &= ~(0xffu << 8 * key);  // 0 / NaN is not 0
    ptx::store_once(to + i * kSegment, codes);
  }
}

/// Block index: (batch, segment chunk, 128 channels, of which each warp has 32).
template <int kDim>
FPSA_DEVICE void value_codes_sm90a(const QuantizeValuesParams& p) {
  const int index = ptx::block_index(), width = p.heads * kDim, segments = p.slots / kSegment;
  const int column_blocks = p.tiling.column_blocks, lane = ptx::thread_index() % 32;
  const int channel = index % column_blocks * 128 + ptx::thread_index() / 32 * kWarpChannels + lane % 4 * kPiece;
  if (channel >= width) return;
  const int chunk = index / column_blocks % p.tiling.segment_chunks;
  const int batch = index / column_blocks / p.tiling.segment_chunks, head = channel / kDim;

  const uint32_t* magnitudes = p.magnitudes + int64_t{batch} * width + channel;
  Divisor by[kPiece];
  bool plain = true;
  FPSA_UNROLL
  for (int i = 0; i < kPiece; ++i) {
    const float scale = scale_of(magnitudes[i]);
    by[i] = divisor_of(scale);
    plain &= by[i].plain();
    if (chunk == 0 && lane / 4 == 0) p.scale[int64_t{batch} * width + channel + i] = scale;
  }

  // Bytes 4 t to 4 t + 3 of half g: see value_place().
  const int t = lane / 4 % 4, g = lane / 16, first_key = 16 * g + 2 * t;
  static_assert(value_place(0) == 0 && value_place(1) == 1 && value_place(8) == 2 && value_place(9) == 3 &&
                value_place(2) == 4 && value_place(16) == 16);
  const uint16_t* from = p.x.data + batch * p.x.batch_stride + head * p.x.head_stride + channel % kDim;
  uint8_t* to = p.codes + (int64_t{batch} * p.heads + head) * p.slots * kDim + channel % kDim * kSegment;
  to += 16 * g + 4 * t;
  for (int segment = chunk; segment < segments; segment += p.tiling.segment_chunks) {
    const int32_t* rows = p.row_of_slot + segment * kSegment + first_key;
    const int32_t row[4] = {rows[0], rows[1], rows[8], rows[9]};
    uint8_t* const segment_to = to + int64_t{segment} * kSegment * kDim;
    if (plain && (row[0] | row[1] | row[2] | row[3]) >= 0)
      value_codes_of_keys<true>(from, p.x.row_stride, row, by, segment_to);
    else
      value_codes_of_keys<false>(from, p.x.row_stride, row, by, segment_to);
  }
}

}  // namespace fpsa::kernel::cuda::inline FPSA_TARGET
