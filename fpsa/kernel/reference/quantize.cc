// Two passes over the rows: absmax of each group or channel, then codes.
#include "fpsa/kernel/reference/quantize.h"

#include <bit>
#include <cassert>

#include "fpsa/numeric/bf16.h"
#include "fpsa/numeric/int8.h"
#include "fpsa/numeric/scales.h"

namespace fpsa::kernel::reference {
namespace {

struct E4m3 {
  static float scale(float absmax) { return numeric::scale_from_absmax(absmax); }
  static uint8_t code(float x, float scale) { return numeric::quantize_e4m3(x, scale); }
};
struct Int8 {
  static float scale(float absmax) { return numeric::int8_scale_from_absmax(absmax); }
  static uint8_t code(float x, float scale) { return static_cast<uint8_t>(numeric::quantize_int8(x, scale)); }
};

float element(const QuantizeInput& in, int64_t position, int64_t d) {
  const int64_t row = in.x.index ? in.x.index[position] : position;
  const int64_t at = row * in.x.stride + d;
  const float x = in.dtype == Dtype::kF32 ? static_cast<const float*>(in.x.data)[at]
                                          : numeric::f32_from_bf16(static_cast<const uint16_t*>(in.x.data)[at]);
  return in.mean ? x - in.mean[d] : x;
}

// Magnitudes are compared by their bits, as numeric::absmax does, so that NaN and infinity are kept.
void raise(float& top, float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x) & 0x7fffffffu;
  if (bits > std::bit_cast<uint32_t>(top)) top = std::bit_cast<float>(bits);
}

template <class Code>
void tokens(const QuantizeInput& in, const int32_t* group_of_row, int64_t groups, uint8_t* codes, float* group_scale,
            float* token_scale) noexcept {
  assert(in.dim % 8 == 0 && in.dim >= 8 && in.dim <= 256);
  for (int64_t g = 0; g < groups; ++g)
    group_scale[g] = 0.0f;
  for (int64_t i = 0; i < in.rows; ++i)
    for (int64_t d = 0; d < in.dim; ++d)
      raise(group_scale[group_of_row[i]], element(in, i, d));
  for (int64_t g = 0; g < groups; ++g)
    group_scale[g] = Code::scale(group_scale[g]);
  for (int64_t i = 0; i < in.rows; ++i) {
    const float scale = group_scale[group_of_row[i]];
    for (int64_t d = 0; d < in.dim; ++d)
      codes[i * in.dim + d] = Code::code(element(in, i, d), scale);
    if (token_scale) token_scale[i] = scale;
  }
}

template <class Code>
void channels(const QuantizeInput& in, uint8_t* codes, float* channel_scale) noexcept {
  assert(in.dim % 8 == 0 && in.dim >= 8 && in.dim <= 256);
  for (int64_t d = 0; d < in.dim; ++d)
    channel_scale[d] = 0.0f;
  for (int64_t i = 0; i < in.rows; ++i)
    for (int64_t d = 0; d < in.dim; ++d)
      raise(channel_scale[d], element(in, i, d));
  for (int64_t d = 0; d < in.dim; ++d)
    channel_scale[d] = Code::scale(channel_scale[d]);
  for (int64_t i = 0; i < in.rows; ++i)
    for (int64_t d = 0; d < in.dim; ++d)
      codes[i * in.dim + d] = Code::code(element(in, i, d), channel_scale[d]);
}

}  // namespace

Quantize quantize_e4m3() {
  return {tokens<E4m3>, channels<E4m3>};
}
Quantize quantize_int8() {
  return {tokens<Int8>, channels<Int8>};
}

}  // namespace fpsa::kernel::reference
