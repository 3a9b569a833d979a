// pack_bf16_sm90a: rows of BF16 from where a model has them to slots, for attention_fwd_bf16_sm90a.
//
// A block of threads moves one segment of one head, each thread pieces of 16 bytes: all its loads first, then all its
// stores. Heads are innermost among the blocks, for the heads of a token lie side by side in the model's memory.
#pragma once

#include "fpsa/kernel/cuda/pack_bf16_sm90a.h"
#include "fpsa/kernel/cuda/ptx/thread.h"

namespace fpsa::kernel::cuda::inline FPSA_TARGET {

/// The kernel's body, for every thread of a grid of pack_blocks() blocks of kPackThreads threads.
template <int kDim>
FPSA_DEVICE void pack_bf16_sm90a(const PackBf16Params& p) {
  struct alignas(16) Piece {
    uint32_t words[4];
  };
  constexpr int kRowPieces = kDim / 8, kEach = kSegment * kRowPieces / kPackThreads;
  static_assert(kEach * kPackThreads == kSegment * kRowPieces, "every thread has the same number of pieces");
  const int block = ptx::block_index(), head = block % p.heads, segment = block / p.heads % p.segments;
  const int batch = block / p.heads / p.segments;
  const auto* from = static_cast<const uint16_t*>(p.from) + batch * p.batch_stride + head * p.head_stride;
  Piece pieces[kEach];
  FPSA_UNROLL
  for (int i = 0; i < kEach; ++i) {
    const int at = i * kPackThreads + ptx::thread_index();
    const int row = p.row_of_slot[segment * kSegment + at / kRowPieces];
    pieces[i] = row < 0 ? Piece{} : *reinterpret_cast<const Piece*>(from + row * p.row_stride + at % kRowPieces * 8);
  }
  auto* to =
      static_cast<Piece*>(p.to) + (int64_t{batch * p.heads + head} * p.segments + segment) * kSegment * kRowPieces;
  FPSA_UNROLL
  for (int i = 0; i < kEach; ++i)
    to[i * kPackThreads + ptx::thread_index()] = pieces[i];
}

}  // namespace fpsa::kernel::cuda::inline FPSA_TARGET
