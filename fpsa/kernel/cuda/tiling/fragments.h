// Which element a thread of a warpgroup holds where, and the order of values that follows from it.
#pragma once

#include "fpsa/kernel/cuda/ptx/platform.h"

namespace fpsa::kernel::cuda {

/// Keys and query rows come in segments of 32: the depth of one E4M3 product.
inline constexpr int kSegment = 32;

/// Register d[4 j + 2 h + e] of an accumulator is row fragment_row(thread, h), column 8 j + fragment_column(thread) +
/// e.
FPSA_BOTH int fragment_row(int thread, int half) {
  return thread / 32 % 4 * 16 + thread % 32 / 4 + 8 * half;
}
FPSA_BOTH int fragment_column(int thread) {
  return thread % 4 * 2;
}

/// Where the values of a segment's key `key` lie along K of the second product.
/// A thread has the scores of keys 8 j + 2 t + e (t = thread % 4; j, e as above) and must give, as A, the bytes 4 t to
/// 4 t + 3 of each half of the 32. So byte 4 t + 2 (j % 2) + e of half j / 2 is that key, P needs no exchange between
/// threads, and the values are stored in this order instead.
FPSA_BOTH int value_place(int key) {
  const int j = key / 8, t = key % 8 / 2, e = key % 2;
  return j / 2 * 16 + 4 * t + 2 * (j % 2) + e;
}

}  // namespace fpsa::kernel::cuda
