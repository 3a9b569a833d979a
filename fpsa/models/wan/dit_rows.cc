// Each row is read from memory once and then found in the L1 or L2 cache by the second pass.
#include "fpsa/models/wan/dit_rows.h"

#include "fpsa/models/wan/row_vectors.h"

namespace fpsa::models::wan::rows {
namespace {

constexpr F32x16 kForward = {-1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1};

// Turns the pairs of v by the angles whose (cos, sin) pairs t holds; direction kForward, or -kForward to turn back.
FPSA_INLINE F32x16 turn(F32x16 v, F32x16 t, F32x16 direction) {
  F32x16 cosines = __builtin_shufflevector(t, t, 0, 0, 2, 2, 4, 4, 6, 6, 8, 8, 10, 10, 12, 12, 14, 14);
  F32x16 sines = __builtin_shufflevector(t, t, 1, 1, 3, 3, 5, 5, 7, 7, 9, 9, 11, 11, 13, 13, 15, 15);
  F32x16 swapped = __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
  return v * cosines + swapped * (sines * direction);
}

// y = x * r * w with r = (mean(x^2) + eps)^-1/2, so dx = r * (dy * w) - x * r^3 * mean(dy * w * x).
template <class T>
FPSA_INLINE void norm_heads_backward_body(const NormHeads& p, const T* x, const T* grad, T* dx, float* dweight,
                                          int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const T* in = x + row * p.width;
    const T* g = grad + row * p.width;
    T* to = dx + row * p.width;
    const float* turns = p.turns == nullptr ? nullptr : p.turns + (row % p.length) * p.head_dim;
    F32x16 squares = {}, products = {};
    for (int64_t head = 0; head < p.width; head += p.head_dim)
      for (int64_t d = 0; d < p.head_dim; d += kLanes) {
        F32x16 v = load(in + head + d), dy = load(g + head + d);
        if (turns != nullptr) dy = turn(dy, load(turns + d), -kForward);
        squares += v * v;
        products += dy * load(p.weight + head + d) * v;
      }
    const float count = static_cast<float>(p.width);
    const float inverse = 1.0F / __builtin_sqrtf(sum(squares) / count + p.eps);
    const float pull = inverse * inverse * inverse * sum(products) / count;
    for (int64_t head = 0; head < p.width; head += p.head_dim)
      for (int64_t d = 0; d < p.head_dim; d += kLanes) {
        F32x16 v = load(in + head + d), dy = load(g + head + d);
        if (turns != nullptr) dy = turn(dy, load(turns + d), -kForward);
        store(dweight + head + d, load(dweight + head + d) + dy * v * inverse);
        store(to + head + d, dy * load(p.weight + head + d) * inverse - v * pull);
      }
  }
}

struct Moments {
  float mean, inverse;  // inverse standard deviation
};

FPSA_INLINE Moments moments(const float* in, int64_t width, float eps) {
  F32x16 total = {}, squares = {};
  for (int64_t i = 0; i < width; i += kLanes)
    total += load(in + i);
  const float mean = sum(total) / static_cast<float>(width);
  for (int64_t i = 0; i < width; i += kLanes) {
    F32x16 v = load(in + i) - mean;
    squares += v * v;
  }
  return {mean, 1.0F / __builtin_sqrtf(sum(squares) / static_cast<float>(width) + eps)};
}

template <class T>
FPSA_INLINE void modulate_body(const Modulate& p, const float* x, T* out, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const float* in = x + row * p.width;
    T* to = out + row * p.width;
    const Moments m = moments(in, p.width, p.eps);
    for (int64_t i = 0; i < p.width; i += kLanes)
      store(to + i, (load(in + i) - m.mean) * m.inverse * load(p.scale + i) + load(p.shift + i));
  }
}

// With z the normalised row and e = dy * scale: dx = inverse * (e - mean(e) - z * mean(e * z)).
template <class T>
FPSA_INLINE void modulate_backward_body(const Modulate& p, const float* x, const T* grad, float* dx, float* dscale,
                                        float* dshift, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const float* in = x + row * p.width;
    const T* g = grad + row * p.width;
    float* to = dx + row * p.width;
    const Moments m = moments(in, p.width, p.eps);
    F32x16 total = {}, products = {};
    for (int64_t i = 0; i < p.width; i += kLanes) {
      F32x16 z = (load(in + i) - m.mean) * m.inverse, dy = load(g + i);
      F32x16 e = dy * load(p.scale + i);
      total += e;
      products += e * z;
      store(dscale + i, load(dscale + i) + dy * z);
      store(dshift + i, load(dshift + i) + dy);
    }
    const float mean_e = sum(total) / static_cast<float>(p.width);
    const float mean_ez = sum(products) / static_cast<float>(p.width);
    for (int64_t i = 0; i < p.width; i += kLanes) {
      F32x16 z = (load(in + i) - m.mean) * m.inverse;
      store(to + i, (load(g + i) * load(p.scale + i) - mean_e - z * mean_ez) * m.inverse);
    }
  }
}

template <class T>
FPSA_INLINE void add_gated_body(const float* x, const T* y, const float* gate, float* out, int64_t width, int64_t begin,
                                int64_t end) {
  for (int64_t row = begin; row < end; ++row)
    for (int64_t i = 0; i < width; i += kLanes) {
      const int64_t at = row * width + i;
      store(out + at, load(x + at) + load(y + at) * load(gate + i));
    }
}

template <class T>
FPSA_INLINE void add_gated_backward_body(const float* grad, const T* y, const float* gate, T* dy, float* dgate,
                                         int64_t width, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row)
    for (int64_t i = 0; i < width; i += kLanes) {
      const int64_t at = row * width + i;
      F32x16 g = load(grad + at);
      store(dgate + i, load(dgate + i) + g * load(y + at));
      store(dy + at, g * load(gate + i));
    }
}

}  // namespace

#define FPSA_ENTRIES(T)                                                                                               \
  FPSA_CLONES void norm_heads_backward(const NormHeads& p, const T* x, const T* grad, T* dx, float* dweight,          \
                                       int64_t begin, int64_t end) noexcept {                                         \
    norm_heads_backward_body(p, x, grad, dx, dweight, begin, end);                                                    \
  }                                                                                                                   \
  FPSA_CLONES void modulate(const Modulate& p, const float* x, T* out, int64_t begin, int64_t end) noexcept {         \
    modulate_body(p, x, out, begin, end);                                                                             \
  }                                                                                                                   \
  FPSA_CLONES void modulate_backward(const Modulate& p, const float* x, const T* grad, float* dx, float* dscale,      \
                                     float* dshift, int64_t begin, int64_t end) noexcept {                            \
    modulate_backward_body(p, x, grad, dx, dscale, dshift, begin, end);                                               \
  }                                                                                                                   \
  FPSA_CLONES void add_gated(const float* x, const T* y, const float* gate, float* out, int64_t width, int64_t begin, \
                             int64_t end) noexcept {                                                                  \
    add_gated_body(x, y, gate, out, width, begin, end);                                                               \
  }                                                                                                                   \
  FPSA_CLONES void add_gated_backward(const float* grad, const T* y, const float* gate, T* dy, float* dgate,          \
                                      int64_t width, int64_t begin, int64_t end) noexcept {                           \
    add_gated_backward_body(grad, y, gate, dy, dgate, width, begin, end);                                             \
  }

FPSA_ENTRIES(float)
FPSA_ENTRIES(Bf16)

}  // namespace fpsa::models::wan::rows
