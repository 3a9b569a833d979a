// One value at a time; a row is normed and rotated again for each of its values. Compiled without contraction.
#include "fpsa/kernel/reference/prepass.h"

#include <bit>
#include <cassert>
#include <cmath>

#include "fpsa/numeric/bf16.h"
#include "fpsa/numeric/int8.h"
#include "fpsa/numeric/scales.h"

namespace fpsa::kernel::reference {
namespace {

constexpr int kSums = 32;

struct E4m3 {
  static float scale(float absmax) noexcept { return numeric::scale_from_absmax(absmax); }
  static uint8_t code(float x, float scale) { return numeric::quantize_e4m3(x, scale); }
};

struct Int8 {
  static float scale(float absmax) noexcept { return numeric::int8_scale_from_absmax(absmax); }
  static uint8_t code(float x, float scale) { return static_cast<uint8_t>(numeric::quantize_int8(x, scale)); }
};

int64_t raster(const PrepassInput& in, int64_t position) {
  return in.x.index ? in.x.index[position] : position;
}

float element(const PrepassInput& in, int64_t position, int64_t i) {
  const int64_t at = raster(in, position) * in.x.stride + i;
  return in.dtype == Dtype::kF32 ? static_cast<const float*>(in.x.data)[at]
                                 : numeric::f32_from_bf16(static_cast<const uint16_t*>(in.x.data)[at]);
}

float inverse_rms_of(const PrepassInput& in, int64_t position) {
  if (!in.weight) return 1.0f;
  const int64_t width = in.heads * in.dim;
  float s[kSums] = {};
  for (int64_t i = 0; i < width; ++i)
    s[i % kSums] += element(in, position, i) * element(in, position, i);
  for (int j = 0; j < kSums / 2; ++j)
    s[j] = s[2 * j] + s[2 * j + 1];
  for (int count = 8; count >= 4; count /= 2)
    for (int j = 0; j < count; ++j)
      s[j] += s[j + count];
  const float sum = (s[0] + s[1]) + (s[2] + s[3]);
  return 1.0f / std::sqrt(sum / static_cast<float>(width) + in.eps);
}

// Value d of head h after norm, rotation and rounding.
float prepared(const PrepassInput& in, int64_t position, float inverse_rms, int64_t h, int64_t d) {
  auto normed = [&](int64_t at) {
    const int64_t i = h * in.dim + at;
    return element(in, position, i) * inverse_rms * (in.weight ? in.weight[i] : 1.0f);
  };
  float y = normed(d);
  if (in.turns) {
    const float* turn = in.turns + raster(in, position) * in.dim + d / 2 * 2;
    const float partner = normed(d ^ 1) * turn[1];
    y = d % 2 == 0 ? y * turn[0] - partner : y * turn[0] + partner;
  }
  return in.dtype == Dtype::kF32 ? y : numeric::f32_from_bf16(numeric::bf16_from_f32(y));
}

// The same less the mean.
float centred(const PrepassInput& in, int64_t position, float inverse_rms, int64_t h, int64_t d) {
  const float y = prepared(in, position, inverse_rms, h, d);
  return in.mean ? y - in.mean[h * in.dim + d] : y;
}

// Magnitudes are compared by their bits, as numeric::absmax does, so that NaN and infinity are kept.
void raise(float& top, float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x) & 0x7fffffffu;
  if (bits > std::bit_cast<uint32_t>(top)) top = std::bit_cast<float>(bits);
}

void prepare(const PrepassInput& in, int64_t begin, int64_t end, void* prepared_rows) noexcept {
  const int64_t width = in.heads * in.dim;
  for (int64_t i = begin; i < end; ++i) {
    const float inverse_rms = inverse_rms_of(in, i);
    for (int64_t h = 0; h < in.heads; ++h)
      for (int64_t d = 0; d < in.dim; ++d) {
        const int64_t at = i * width + h * in.dim + d;
        const float y = prepared(in, i, inverse_rms, h, d);
        if (in.dtype == Dtype::kF32)
          static_cast<float*>(prepared_rows)[at] = y;
        else
          static_cast<uint16_t*>(prepared_rows)[at] = numeric::bf16_from_f32(y);  // exact: y is rounded already
      }
  }
}

void absmax(const PrepassInput& in, int64_t begin, int64_t end, float* inverse_rms, float* absmax) noexcept {
  assert(in.dim % 8 == 0 && in.dim >= 8 && in.dim <= 256 && begin < end && end <= in.rows);
  for (int64_t i = begin; i < end; ++i)
    inverse_rms[i] = inverse_rms_of(in, i);
  for (int64_t h = 0; h < in.heads; ++h) {
    absmax[h] = 0.0f;
    for (int64_t i = begin; i < end; ++i)
      for (int64_t d = 0; d < in.dim; ++d)
        raise(absmax[h], centred(in, i, inverse_rms[i], h, d));
  }
}

template <class Code>
void codes(const PrepassInput& in, int64_t begin, int64_t end, const float* inverse_rms, const float* scale,
           uint8_t* codes, float* token_scale) noexcept {
  for (int64_t h = 0; h < in.heads; ++h)
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = h * in.rows + i;
      for (int64_t d = 0; d < in.dim; ++d)
        codes[row * in.dim + d] = Code::code(centred(in, i, inverse_rms[i], h, d), scale[h]);
      if (token_scale) token_scale[row] = scale[h];
    }
}

void channel_absmax(const PrepassInput& in, int64_t begin, int64_t end, float* channel_absmax) noexcept {
  for (int64_t i = begin; i < end; ++i)
    for (int64_t c = 0; c < in.heads * in.dim; ++c)
      raise(channel_absmax[c], element(in, i, c));
}

template <class Code>
void channel_codes(const PrepassInput& in, int64_t begin, int64_t end, const float* channel_scale,
                   uint8_t* codes) noexcept {
  for (int64_t h = 0; h < in.heads; ++h)
    for (int64_t i = begin; i < end; ++i)
      for (int64_t d = 0; d < in.dim; ++d) {
        const int64_t c = h * in.dim + d;
        codes[(h * in.rows + i) * in.dim + d] = Code::code(element(in, i, c), channel_scale[c]);
      }
}

template <class Code>
Prepass prepass() {
  return {prepare, absmax, Code::scale, codes<Code>, channel_absmax, channel_codes<Code>};
}

}  // namespace

Prepass prepass_e4m3() {
  return prepass<E4m3>();
}
Prepass prepass_int8() {
  return prepass<Int8>();
}

}  // namespace fpsa::kernel::reference
