// One row at a time: sum of squares, then scale, gamma and SiLU; a row fits the L1 cache, so memory is read and
// written once. target_clones compiles each entry for AVX-512, AVX2 and the baseline; only this file's own
// internal functions and builtins are inlined into the clones: no wide instruction reaches a shared symbol.
#include "fpsa/models/wan/vae_norm_rows.h"

#define FPSA_CLONES __attribute__((target_clones("arch=skylake-avx512", "arch=haswell", "default")))
#define FPSA_INLINE static inline __attribute__((always_inline))

namespace fpsa::models::wan {

FPSA_INLINE float load(const float* p) { return *p; }
FPSA_INLINE float load(const bfloat16_bits* p) {
  return __builtin_bit_cast(float, static_cast<uint32_t>(*p) << 16);
}
FPSA_INLINE void store(float* p, float v) { *p = v; }
FPSA_INLINE void store(bfloat16_bits* p, float v) {  // round to nearest even; NaN stays NaN
  uint32_t bits = __builtin_bit_cast(uint32_t, v);
  uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  *p = static_cast<bfloat16_bits>(v == v ? rounded : 0x7fc0u);
}

// exp(x) within 2 ulp for |x| <= 87, saturating outside: Cody-Waite reduction by ln 2, degree-6 polynomial.
FPSA_INLINE float exp_clamped(float x) {
  x = x < -87.0f ? -87.0f : x;
  x = x > 87.0f ? 87.0f : x;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  float shifted = x * 1.44269504f + kRound;
  int32_t power = __builtin_bit_cast(int32_t, shifted) - __builtin_bit_cast(int32_t, kRound);
  float n = shifted - kRound;
  float r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  float p = 1.0f / 720.0f;
  p = p * r + 1.0f / 120.0f;
  p = p * r + 1.0f / 24.0f;
  p = p * r + 1.0f / 6.0f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  return p * __builtin_bit_cast(float, (power + 127) << 23);
}

FPSA_INLINE float sigmoid(float u) { return 1.0f / (1.0f + exp_clamped(-u)); }

template <class T>
FPSA_INLINE float inverse_norm(const T* x, int64_t channels) {
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (int64_t c = 0; c < channels; ++c) {
    float v = load(x + c);
    sum += v * v;
  }
  float norm = __builtin_sqrtf(sum);
  return __builtin_sqrtf(static_cast<float>(channels)) / (norm > 1e-12f ? norm : 1e-12f);
}

template <class T>
FPSA_INLINE void rows_forward(const T* x, const float* gamma, T* y, int64_t rows, int64_t channels, bool silu) {
  for (int64_t i = 0; i < rows; ++i, x += channels, y += channels) {
    float r = inverse_norm(x, channels);
    if (silu) {
#pragma omp simd
      for (int64_t c = 0; c < channels; ++c) {
        float u = load(x + c) * r * gamma[c];
        store(y + c, u * sigmoid(u));
      }
    } else {
#pragma omp simd
      for (int64_t c = 0; c < channels; ++c) store(y + c, load(x + c) * r * gamma[c]);
    }
  }
}

// With n = x r, u = n gamma, y = act(u): dn = act'(u) dy gamma, dx = r (dn - n mean(dn n)).
template <class T>
FPSA_INLINE void rows_backward(const T* x, const float* gamma, const T* dy, T* dx, float* dgamma, int64_t rows,
                               int64_t channels, bool silu) {
  for (int64_t i = 0; i < rows; ++i, x += channels, dy += channels, dx += channels) {
    float r = inverse_norm(x, channels);
    float dot = 0.0f;
#pragma omp simd reduction(+ : dot)
    for (int64_t c = 0; c < channels; ++c) {
      float n = load(x + c) * r, u = n * gamma[c], du = load(dy + c);
      if (silu) {
        float s = sigmoid(u);
        du *= s * (1.0f + u * (1.0f - s));
      }
      dgamma[c] += du * n;
      dot += du * gamma[c] * n;
    }
    float mean = dot / static_cast<float>(channels);
#pragma omp simd
    for (int64_t c = 0; c < channels; ++c) {
      float n = load(x + c) * r, u = n * gamma[c], du = load(dy + c);
      if (silu) {
        float s = sigmoid(u);
        du *= s * (1.0f + u * (1.0f - s));
      }
      store(dx + c, r * (du * gamma[c] - n * mean));
    }
  }
}

// target_clones does not apply to overloaded names through one declaration in every compiler: distinct names.
FPSA_CLONES static void forward_f32(const float* x, const float* gamma, float* y, int64_t rows, int64_t channels,
                                    bool silu) {
  rows_forward(x, gamma, y, rows, channels, silu);
}
FPSA_CLONES static void forward_bf16(const bfloat16_bits* x, const float* gamma, bfloat16_bits* y, int64_t rows,
                                     int64_t channels, bool silu) {
  rows_forward(x, gamma, y, rows, channels, silu);
}
FPSA_CLONES static void backward_f32(const float* x, const float* gamma, const float* dy, float* dx, float* dgamma,
                                     int64_t rows, int64_t channels, bool silu) {
  rows_backward(x, gamma, dy, dx, dgamma, rows, channels, silu);
}
FPSA_CLONES static void backward_bf16(const bfloat16_bits* x, const float* gamma, const bfloat16_bits* dy,
                                      bfloat16_bits* dx, float* dgamma, int64_t rows, int64_t channels, bool silu) {
  rows_backward(x, gamma, dy, dx, dgamma, rows, channels, silu);
}

void norm_act_rows(const float* x, const float* gamma, float* y, int64_t rows, int64_t channels, bool silu) noexcept {
  forward_f32(x, gamma, y, rows, channels, silu);
}
void norm_act_rows(const bfloat16_bits* x, const float* gamma, bfloat16_bits* y, int64_t rows, int64_t channels,
                   bool silu) noexcept {
  forward_bf16(x, gamma, y, rows, channels, silu);
}
void norm_act_rows_backward(const float* x, const float* gamma, const float* dy, float* dx, float* dgamma,
                            int64_t rows, int64_t channels, bool silu) noexcept {
  backward_f32(x, gamma, dy, dx, dgamma, rows, channels, silu);
}
void norm_act_rows_backward(const bfloat16_bits* x, const float* gamma, const bfloat16_bits* dy, bfloat16_bits* dx,
                            float* dgamma, int64_t rows, int64_t channels, bool silu) noexcept {
  backward_bf16(x, gamma, dy, dx, dgamma, rows, channels, silu);
}

}  // namespace fpsa::models::wan
