// One row at a time, 16 channels per vector: sum of squares, then scale, gamma and SiLU; a row fits the L1 cache, so
// memory is read and written once.
//
// Loops over single floats were left to the compiler at first; with 16 channels their prologues took 60% of a
// training step.
#include "fpsa/models/wan/vae_norm_rows.h"

#include <cstddef>

#include "fpsa/models/wan/row_vectors.h"

namespace fpsa::models::wan {
namespace {

using rows::F32x16, rows::I32x16, rows::Bf16, rows::kLanes, rows::sum;

// A row's last vector may be partial: the missing channels read as 0 and are not written.
template <class T>
FPSA_INLINE F32x16 load(const T* p, int64_t count) {
  if (count >= kLanes) [[likely]]
    return rows::load(p);
  T part[kLanes] = {};
  __builtin_memcpy(part, p, static_cast<std::size_t>(count) * sizeof(T));
  return rows::load(part);
}
template <class T>
FPSA_INLINE void store(T* p, F32x16 v, int64_t count) {
  if (count >= kLanes) [[likely]]
    return rows::store(p, v);
  T part[kLanes];
  rows::store(part, v);
  __builtin_memcpy(p, part, static_cast<std::size_t>(count) * sizeof(T));
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
      rows::store(scratch + c, du);
    }
    float mean = sum(dot) / static_cast<float>(channels);
    for (int64_t c = 0; c < channels; c += kLanes) {
      int64_t left = channels - c;
      store(dx + c, r * (rows::load(scratch + c) - load(x + c, left) * (r * mean)), left);
    }
  }
}

FPSA_CLONES void forward_f32(const float* x, const float* gamma, float* y, int64_t rows, int64_t channels, bool silu) {
  silu ? rows_forward<true>(x, gamma, y, rows, channels) : rows_forward<false>(x, gamma, y, rows, channels);
}
FPSA_CLONES void forward_bf16(const Bf16* x, const float* gamma, Bf16* y, int64_t rows, int64_t channels, bool silu) {
  silu ? rows_forward<true>(x, gamma, y, rows, channels) : rows_forward<false>(x, gamma, y, rows, channels);
}
FPSA_CLONES void backward_f32(const float* x, const float* gamma, const float* dy, float* dx, float* dgamma,
                              float* scratch, int64_t rows, int64_t channels, bool silu) {
  silu ? rows_backward<true>(x, gamma, dy, dx, dgamma, scratch, rows, channels)
       : rows_backward<false>(x, gamma, dy, dx, dgamma, scratch, rows, channels);
}
FPSA_CLONES void backward_bf16(const Bf16* x, const float* gamma, const Bf16* dy, Bf16* dx, float* dgamma,
                               float* scratch, int64_t rows, int64_t channels, bool silu) {
  silu ? rows_backward<true>(x, gamma, dy, dx, dgamma, scratch, rows, channels)
       : rows_backward<false>(x, gamma, dy, dx, dgamma, scratch, rows, channels);
}

}  // namespace

void norm_act_rows(const float* x, const float* gamma, float* y, int64_t rows, int64_t channels, bool silu) noexcept {
  forward_f32(x, gamma, y, rows, channels, silu);
}
void norm_act_rows(const Bf16* x, const float* gamma, Bf16* y, int64_t rows, int64_t channels, bool silu) noexcept {
  forward_bf16(x, gamma, y, rows, channels, silu);
}
void norm_act_rows_backward(const float* x, const float* gamma, const float* dy, float* dx, float* dgamma,
                            float* scratch, int64_t rows, int64_t channels, bool silu) noexcept {
  backward_f32(x, gamma, dy, dx, dgamma, scratch, rows, channels, silu);
}
void norm_act_rows_backward(const Bf16* x, const float* gamma, const Bf16* dy, Bf16* dx, float* dgamma, float* scratch,
                            int64_t rows, int64_t channels, bool silu) noexcept {
  backward_bf16(x, gamma, dy, dx, dgamma, scratch, rows, channels, silu);
}

}  // namespace fpsa::models::wan
