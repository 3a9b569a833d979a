// One row at a time, 16 channels per vector: sum of squares, then scale, gamma and SiLU; a row fits the L1 cache, so
// memory is read and written once. The vectors are the compiler's own (vector_size), which it lowers to one AVX-512,
// two AVX2 or four SSE registers: target_clones makes one version of each entry for each. Only internal functions and
// builtins are inlined into the clones: no wide instruction reaches a shared symbol.
//
// Loops over single floats were left to the compiler at first; with 16 channels their prologues took 60% of a
// training step.
#include "fpsa/models/wan/vae_norm_rows.h"

#include <cstddef>

// By feature, not arch=<name>: the latter is chosen only on that very CPU model.
#define FPSA_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#define FPSA_INLINE static inline __attribute__((always_inline))

namespace fpsa::models::wan {
namespace {

constexpr int64_t kLanes = 16;
typedef float F32x16 __attribute__((vector_size(64)));
typedef float F32x8 __attribute__((vector_size(32)));
typedef float F32x4 __attribute__((vector_size(16)));
typedef int32_t I32x16 __attribute__((vector_size(64)));
typedef uint32_t U32x16 __attribute__((vector_size(64)));
typedef uint16_t U16x16 __attribute__((vector_size(32)));

FPSA_INLINE F32x16 widen(const float* p) {
  F32x16 v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
FPSA_INLINE F32x16 widen(const bfloat16_bits* p) {
  U16x16 v;
  __builtin_memcpy(&v, p, sizeof v);
  return (F32x16)(__builtin_convertvector(v, U32x16) << 16);
}
FPSA_INLINE void narrow(float* p, F32x16 v) {
  __builtin_memcpy(p, &v, sizeof v);
}
FPSA_INLINE void narrow(bfloat16_bits* p, F32x16 v) {  // round to nearest even; NaN stays NaN
  U32x16 bits = (U32x16)v;
  U32x16 rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  U32x16 is_number = (U32x16)(v == v);
  U16x16 out = __builtin_convertvector((rounded & is_number) | (0x7fc0u & ~is_number), U16x16);
  __builtin_memcpy(p, &out, sizeof out);
}

// A row's last vector may be partial: the missing channels read as 0 and are not written.
template <class T>
FPSA_INLINE F32x16 load(const T* p, int64_t count) {
  if (count >= kLanes) [[likely]]
    return widen(p);
  T part[kLanes] = {};
  __builtin_memcpy(part, p, static_cast<std::size_t>(count) * sizeof(T));
  return widen(part);
}
template <class T>
FPSA_INLINE void store(T* p, F32x16 v, int64_t count) {
  if (count >= kLanes) [[likely]]
    return narrow(p, v);
  T part[kLanes];
  narrow(part, v);
  __builtin_memcpy(p, part, static_cast<std::size_t>(count) * sizeof(T));
}

FPSA_INLINE float sum(F32x16 v) {
  F32x8 a = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
            __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
  F32x4 b = __builtin_shufflevector(a, a, 0, 1, 2, 3) + __builtin_shufflevector(a, a, 4, 5, 6, 7);
  return (b[0] + b[1]) + (b[2] + b[3]);
}

// 1 / (1 + exp(-u)); exp within 2 ulp by Cody-Waite reduction and a degree-6 polynomial, its argument clamped to
// +-87 where the sigmoid is 0 or 1 in F32.
FPSA_INLINE F32x16 sigmoid(F32x16 u) {
  F32x16 x = -u;
  x = x < -87.0f ? F32x16{} - 87.0f : x;
  x = x > 87.0f ? F32x16{} + 87.0f : x;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  F32x16 shifted = x * 1.44269504f + kRound;
  I32x16 power = (I32x16)shifted - __builtin_bit_cast(int32_t, kRound);
  F32x16 n = shifted - kRound;
  F32x16 r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  F32x16 p = r * (1.0f / 720.0f) + 1.0f / 120.0f;
  p = p * r + 1.0f / 24.0f;
  p = p * r + 1.0f / 6.0f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  return 1.0f / (1.0f + p * (F32x16)((power + 127) << 23));
}

template <class T>
FPSA_INLINE float inverse_norm(const T* x, int64_t channels) {
  F32x16 squares = {};
  for (int64_t c = 0; c < channels; c += kLanes) {
    F32x16 v = load(x + c, channels - c);
    squares += v * v;
  }
  float norm = __builtin_sqrtf(sum(squares));
  return __builtin_sqrtf(static_cast<float>(channels)) / (norm > 1e-12f ? norm : 1e-12f);
}

template <bool kSilu, class T>
FPSA_INLINE void rows_forward(const T* __restrict x, const float* __restrict gamma, T* __restrict y, int64_t rows,
                              int64_t channels) {
  for (int64_t i = 0; i < rows; ++i, x += channels, y += channels) {
    float r = inverse_norm(x, channels);
    for (int64_t c = 0; c < channels; c += kLanes) {
      int64_t left = channels - c;
      F32x16 u = load(x + c, left) * r * load(gamma + c, left);
      store(y + c, kSilu ? u * sigmoid(u) : u, left);
    }
  }
}

// With n = x r, u = n gamma, y = act(u): dn = act'(u) dy gamma, dx = r (dn - n mean(dn n)). dn waits in
// scratch, because the mean needs the whole row.
template <bool kSilu, class T>
FPSA_INLINE void rows_backward(const T* __restrict x, const float* __restrict gamma, const T* __restrict dy,
                               T* __restrict dx, float* __restrict dgamma, float* __restrict scratch, int64_t rows,
                               int64_t channels) {
  for (int64_t i = 0; i < rows; ++i, x += channels, dy += channels, dx += channels) {
    float r = inverse_norm(x, channels);
    F32x16 dot = {};
    for (int64_t c = 0; c < channels; c += kLanes) {
      int64_t left = channels - c;
      F32x16 n = load(x + c, left) * r, g = load(gamma + c, left), du = load(dy + c, left);
      if constexpr (kSilu) {
        F32x16 u = n * g, s = sigmoid(u);
        du *= s * (1.0f + u * (1.0f - s));
      }
      store(dgamma + c, load(dgamma + c, left) + du * n, left);
      du *= g;
      dot += du * n;
      narrow(scratch + c, du);
    }
    float mean = sum(dot) / static_cast<float>(channels);
    for (int64_t c = 0; c < channels; c += kLanes) {
      int64_t left = channels - c;
      store(dx + c, r * (widen(scratch + c) - load(x + c, left) * (r * mean)), left);
    }
  }
}

FPSA_CLONES void forward_f32(const float* x, const float* gamma, float* y, int64_t rows, int64_t channels, bool silu) {
  silu ? rows_forward<true>(x, gamma, y, rows, channels) : rows_forward<false>(x, gamma, y, rows, channels);
}
FPSA_CLONES void forward_bf16(const bfloat16_bits* x, const float* gamma, bfloat16_bits* y, int64_t rows,
                              int64_t channels, bool silu) {
  silu ? rows_forward<true>(x, gamma, y, rows, channels) : rows_forward<false>(x, gamma, y, rows, channels);
}
FPSA_CLONES void backward_f32(const float* x, const float* gamma, const float* dy, float* dx, float* dgamma,
                              float* scratch, int64_t rows, int64_t channels, bool silu) {
  silu ? rows_backward<true>(x, gamma, dy, dx, dgamma, scratch, rows, channels)
       : rows_backward<false>(x, gamma, dy, dx, dgamma, scratch, rows, channels);
}
FPSA_CLONES void backward_bf16(const bfloat16_bits* x, const float* gamma, const bfloat16_bits* dy, bfloat16_bits* dx,
                               float* dgamma, float* scratch, int64_t rows, int64_t channels, bool silu) {
  silu ? rows_backward<true>(x, gamma, dy, dx, dgamma, scratch, rows, channels)
       : rows_backward<false>(x, gamma, dy, dx, dgamma, scratch, rows, channels);
}

}  // namespace

void norm_act_rows(const float* x, const float* gamma, float* y, int64_t rows, int64_t channels, bool silu) noexcept {
  forward_f32(x, gamma, y, rows, channels, silu);
}
void norm_act_rows(const bfloat16_bits* x, const float* gamma, bfloat16_bits* y, int64_t rows, int64_t channels,
                   bool silu) noexcept {
  forward_bf16(x, gamma, y, rows, channels, silu);
}
void norm_act_rows_backward(const float* x, const float* gamma, const float* dy, float* dx, float* dgamma,
                            float* scratch, int64_t rows, int64_t channels, bool silu) noexcept {
  backward_f32(x, gamma, dy, dx, dgamma, scratch, rows, channels, silu);
}
void norm_act_rows_backward(const bfloat16_bits* x, const float* gamma, const bfloat16_bits* dy, bfloat16_bits* dx,
                            float* dgamma, float* scratch, int64_t rows, int64_t channels, bool silu) noexcept {
  backward_bf16(x, gamma, dy, dx, dgamma, scratch, rows, channels, silu);
}

}  // namespace fpsa::models::wan
