// E4M3 and INT8 quantisation with AVX2: absmax, then codes, 8 elements at a time, which every head dim is a multiple
// of. Magnitudes are compared as integers (their order is that of the floats, NaN on top); E4M3 codes are integer
// arithmetic on the F32 bits of x / scale, as in numeric/e4m3.h.
#include "fpsa/kernel/cpu/quantize_avx2.h"

#include <immintrin.h>

#include <cstdint>

namespace fpsa::kernel::cpu {
namespace {

constexpr int kLanes = 8;
constexpr int kMaxVectors = 256 / kLanes;

inline __m256 load(const float* x) {
  return _mm256_loadu_ps(x);
}
inline __m256 load(const uint16_t* x) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(x));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}

// Without a mean zeros are subtracted, which changes no number.
template <class Element>
__m256 centred(const Element* x, const float* mean) {
  return _mm256_sub_ps(load(x), load(mean));
}

inline __m256i magnitude(__m256 x) {
  return _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(0x7fffffff));
}

inline __m256i raise(__m256i top, __m256 x) {
  return _mm256_max_epi32(top, magnitude(x));
}

inline uint32_t reduce(__m256i top) {
  __m128i r = _mm_max_epi32(_mm256_castsi256_si128(top), _mm256_extracti128_si256(top, 1));
  r = _mm_max_epi32(r, _mm_shuffle_epi32(r, 0x4e));
  return static_cast<uint32_t>(_mm_cvtsi128_si32(_mm_max_epi32(r, _mm_shuffle_epi32(r, 0xb1))));
}

template <class Code>
float scale_of(uint32_t absmax_bits) {
  if (absmax_bits == 0) return 1.0f;
  float absmax;
  __builtin_memcpy(&absmax, &absmax_bits, sizeof absmax);
  const float scale = absmax / Code::kMax;
  return scale < 0x1p-126f ? 0x1p-126f : scale;
}

struct Int8 {
  static constexpr float kMax = 127.0f;

  static void store(__m256 quotient, uint8_t* codes) {
    // NaN, where the scale is infinite or NaN, becomes 0.
    const __m256 number = _mm256_and_ps(quotient, _mm256_cmp_ps(quotient, quotient, _CMP_ORD_Q));
    const __m256i code = _mm256_cvtps_epi32(number);
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(code), _mm256_extracti128_si256(code, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(codes), _mm_packs_epi16(words, words));
  }
};

struct E4m3 {
  static constexpr float kMax = 448.0f;

  static void store(__m256 quotient, uint8_t* codes) {
    const __m256i bits = _mm256_castps_si256(quotient), abs = magnitude(quotient);
    // Below 2^-6: adding 2^14, whose last place is 2^-9, rounds to a multiple of 2^-9.
    const __m256 magic = _mm256_set1_ps(0x1p14f);
    const __m256i small = _mm256_sub_epi32(_mm256_castps_si256(_mm256_add_ps(_mm256_castsi256_ps(abs), magic)),
                                           _mm256_castps_si256(magic));
    // Above: nearest even at 3 mantissa bits, exponent rebiased from 127 to 7.
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(abs, 20), _mm256_set1_epi32(1));
    const __m256i carried = _mm256_add_epi32(_mm256_add_epi32(abs, _mm256_set1_epi32(0x7ffff)), odd);
    const __m256i large = _mm256_min_epi32(
        _mm256_sub_epi32(_mm256_srli_epi32(carried, 20), _mm256_set1_epi32(120 << 3)), _mm256_set1_epi32(0x7e));
    __m256i code = _mm256_blendv_epi8(large, small, _mm256_cmpgt_epi32(_mm256_set1_epi32(0x3c800000), abs));
    code = _mm256_or_si256(code, _mm256_and_si256(_mm256_srli_epi32(bits, 24), _mm256_set1_epi32(0x80)));
    const __m256i nan = _mm256_cmpgt_epi32(abs, _mm256_set1_epi32(0x7f800000));
    code = _mm256_blendv_epi8(code, _mm256_set1_epi32(0x7f), nan);
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(code), _mm256_extracti128_si256(code, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(codes), _mm_packus_epi16(words, words));
  }
};

constexpr float kNoMean[256] = {};

template <class Element>
const Element* row(const QuantizeInput& in, int64_t position) {
  const int64_t at = in.x.index ? in.x.index[position] : position;
  return static_cast<const Element*>(in.x.data) + at * in.x.stride;
}

template <class Element, class Code>
void tokens_of(const QuantizeInput& in, const int32_t* group_of_row, int64_t groups, uint8_t* codes, float* group_scale,
               float* token_scale) {
  const float* mean = in.mean ? in.mean : kNoMean;
  // group_scale holds the bits of the absmax until it is known.
  for (int64_t g = 0; g < groups; ++g)
    group_scale[g] = 0.0f;
  for (int64_t i = 0; i < in.rows; ++i) {
    const Element* x = row<Element>(in, i);
    uint32_t known;
    __builtin_memcpy(&known, &group_scale[group_of_row[i]], sizeof known);
    __m256i top = _mm256_set1_epi32(static_cast<int>(known));
    for (int64_t d = 0; d < in.dim; d += kLanes)
      top = raise(top, centred(x + d, mean + d));
    known = reduce(top);
    __builtin_memcpy(&group_scale[group_of_row[i]], &known, sizeof known);
  }
  for (int64_t g = 0; g < groups; ++g) {
    uint32_t bits;
    __builtin_memcpy(&bits, &group_scale[g], sizeof bits);
    group_scale[g] = scale_of<Code>(bits);
  }
  for (int64_t i = 0; i < in.rows; ++i) {
    const Element* x = row<Element>(in, i);
    const float scale = group_scale[group_of_row[i]];
    const __m256 wide = _mm256_set1_ps(scale);
    for (int64_t d = 0; d < in.dim; d += kLanes)
      Code::store(_mm256_div_ps(centred(x + d, mean + d), wide), codes + i * in.dim + d);
    if (token_scale) token_scale[i] = scale;
  }
}

template <class Element, class Code>
void channels_of(const QuantizeInput& in, uint8_t* codes, float* channel_scale) {
  const float* mean = in.mean ? in.mean : kNoMean;
  __m256i top[kMaxVectors];
  const int vectors = static_cast<int>(in.dim / kLanes);
  for (int c = 0; c < vectors; ++c)
    top[c] = _mm256_setzero_si256();
  for (int64_t i = 0; i < in.rows; ++i) {
    const Element* x = row<Element>(in, i);
    for (int c = 0; c < vectors; ++c)
      top[c] = raise(top[c], centred(x + c * kLanes, mean + c * kLanes));
  }
  for (int c = 0; c < vectors; ++c) {
    uint32_t bits[kLanes];
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(bits), top[c]);
    for (int lane = 0; lane < kLanes; ++lane)
      channel_scale[c * kLanes + lane] = scale_of<Code>(bits[lane]);
  }
  for (int64_t i = 0; i < in.rows; ++i) {
    const Element* x = row<Element>(in, i);
    for (int64_t d = 0; d < in.dim; d += kLanes)
      Code::store(_mm256_div_ps(centred(x + d, mean + d), load(channel_scale + d)), codes + i * in.dim + d);
  }
}

template <class Code>
void tokens(const QuantizeInput& in, const int32_t* group_of_row, int64_t groups, uint8_t* codes, float* group_scale,
            float* token_scale) noexcept {
  (in.dtype == Dtype::kF32 ? tokens_of<float, Code> : tokens_of<uint16_t, Code>)(in, group_of_row, groups, codes,
                                                                                 group_scale, token_scale);
}

template <class Code>
void channels(const QuantizeInput& in, uint8_t* codes, float* channel_scale) noexcept {
  (in.dtype == Dtype::kF32 ? channels_of<float, Code> : channels_of<uint16_t, Code>)(in, codes, channel_scale);
}

}  // namespace

Quantize quantize_e4m3_avx2() {
  return {tokens<E4m3>, channels<E4m3>};
}
Quantize quantize_int8_avx2() {
  return {tokens<Int8>, channels<Int8>};
}

}  // namespace fpsa::kernel::cpu
