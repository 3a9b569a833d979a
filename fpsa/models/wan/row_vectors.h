// What the row loops of the DiT and of the VAE share: 16 values at a time, F32 in registers, F32 or BF16 in memory.
//
// The vectors are the compiler's own (vector_size), which it lowers to one AVX-512, two AVX2 or four SSE registers:
// FPSA_CLONES before an entry makes one version of it for each. Only internal functions and builtins are inlined into
// the clones, so no wide instruction reaches a shared symbol. Included by sources of row loops only.
#pragma once

#include <cstdint>

#include "fpsa/models/wan/bf16_bits.h"

// By feature, not arch=<name>: the latter is chosen only on that very CPU model.
#define FPSA_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#define FPSA_INLINE static inline __attribute__((always_inline))

namespace fpsa::models::wan::rows {

constexpr int64_t kLanes = 16;
typedef float F32x16 __attribute__((vector_size(64)));
typedef float F32x8 __attribute__((vector_size(32)));
typedef float F32x4 __attribute__((vector_size(16)));
typedef int32_t I32x16 __attribute__((vector_size(64)));
typedef uint32_t U32x16 __attribute__((vector_size(64)));
typedef uint16_t U16x16 __attribute__((vector_size(32)));

FPSA_INLINE F32x16 load(const float* p) {
  F32x16 v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
FPSA_INLINE F32x16 load(const Bf16* p) {
  U16x16 v;
  __builtin_memcpy(&v, p, sizeof v);
  return (F32x16)(__builtin_convertvector(v, U32x16) << 16);
}
FPSA_INLINE void store(float* p, F32x16 v) {
  __builtin_memcpy(p, &v, sizeof v);
}
FPSA_INLINE void store(Bf16* p, F32x16 v) {  // round to nearest even; NaN stays NaN
  U32x16 bits = (U32x16)v;
  U32x16 rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  U32x16 is_number = (U32x16)(v == v);
  U16x16 out = __builtin_convertvector((rounded & is_number) | (0x7fc0u & ~is_number), U16x16);
  __builtin_memcpy(p, &out, sizeof out);
}

FPSA_INLINE float sum(F32x16 v) {
  F32x8 a = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
            __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
  F32x4 b = __builtin_shufflevector(a, a, 0, 1, 2, 3) + __builtin_shufflevector(a, a, 4, 5, 6, 7);
  return (b[0] + b[1]) + (b[2] + b[3]);
}

}  // namespace fpsa::models::wan::rows
