// The pre-pass over a vector type V, for prepass_<isa>.cc. Internal linkage; for ISA files only.
//
// A chunk of neighbouring values lives in two vectors, the even ones and the odd ones: a BF16 pair splits with a shift
// and a mask, a rotation needs no shuffle, and two vectors of codes merge with a shift. Both steps go through blocks
// of rows, so that weights and scales are split once per block, cosines and sines once per row for all heads.
//
// V has kLanes; F (floats) and I (32-bit integers); Pair {F even, odd}; load(p, n) of a chunk of n <= 2 kLanes values,
// zeros after them; and the operations used below.
#pragma once

#include <cstdint>

#include "fpsa/kernel/prepass.h"

#define FPSA_INLINED __attribute__((always_inline))
#define FPSA_INLINE inline FPSA_INLINED

namespace fpsa::kernel {
namespace {

constexpr int kBlockRows = 4;  // 12 kB of BF16 at 1536 channels: stays in L1 beside weights and turns

FPSA_INLINE float float_of(uint32_t bits) {
  float x;
  __builtin_memcpy(&x, &bits, sizeof x);
  return x;
}
FPSA_INLINE uint32_t bits_of(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  return bits;
}
FPSA_INLINE bool is_finite(float x) {
  return (bits_of(x) & 0x7fffffffu) < 0x7f800000u;
}

/// The scale of a group with this absmax, whose largest code is `top`.
FPSA_INLINE float scale_of(float absmax, float top) {
  if (absmax == 0.0f) return 1.0f;
  const float scale = absmax / top;
  return scale < 0x1p-126f ? 0x1p-126f : scale;
}

/// E4M3: code = the nearest, ties to even. `quotient` is x / scale, at most 448 (1 + 2^-23).
struct E4m3Code {
  static float scale(float absmax) noexcept { return scale_of(absmax, 448.0f); }
  // Code in the low byte of every lane, nothing above it. Adding 2^20 times the power of two below the quotient, or
  // below 2^-6 if that is larger, leaves three mantissa bits in the last places: 8 to 15 of a normal number, 0 to 7 of
  // a subnormal one, 16 after a carry. They are a number that the exponent times 8 is added to.
  template <class V>
  static FPSA_INLINE typename V::I encode(typename V::F quotient) {
    const auto bits = V::bits(quotient);
    const auto exponent = V::max(V::bit_and(bits, V::set1_i(0x7f800000)), V::set1_i(121 << 23));
    const auto magic = V::add_i(exponent, V::set1_i(20 << 23));
    const auto mantissa = V::sub_i(V::bits(V::add(V::abs(quotient), V::floats(magic))), magic);
    const auto biased = V::template shift_right<20>(V::sub_i(exponent, V::set1_i(121 << 23)));
    return V::or_masked(V::add_i(mantissa, biased), V::template shift_right<24>(bits), V::set1_i(0x80));
  }
  // The same where the scale is not finite: quotients are 0 or NaN.
  template <class V>
  static FPSA_INLINE typename V::I encode_or_nan(typename V::F quotient) {
    return V::select_nan(quotient, V::set1_i(0x7f), encode<V>(quotient));
  }
};

/// INT8: code = the nearest, ties to even. `quotient` is x / scale, at most 127 (1 + 2^-23) in magnitude.
struct Int8Code {
  static float scale(float absmax) noexcept { return scale_of(absmax, 127.0f); }
  // The low byte in two's complement. That of a NaN is 0.
  template <class V>
  static FPSA_INLINE typename V::I encode(typename V::F quotient) {
    return V::bit_and(V::nearest(quotient), V::set1_i(0xff));
  }
  template <class V>
  static FPSA_INLINE typename V::I encode_or_nan(typename V::F quotient) {
    return encode<V>(quotient);
  }
};

/// Nearest even at the 16th bit for BF16. A NaN may come out as a number.
template <class V, class Element>
FPSA_INLINE typename V::F rounded(typename V::F x) {
  if constexpr (sizeof(Element) == 4) return x;
  const auto bits = V::bits(x);
  const auto odd = V::bit_and(V::template shift_right<16>(bits), V::set1_i(1));
  const auto carried = V::add_i(V::add_i(bits, V::set1_i(0x7fff)), odd);
  return V::floats(V::bit_and(carried, V::set1_i(static_cast<int32_t>(0xffff0000u))));
}
template <class V, class Element>
FPSA_INLINE typename V::F rounded_or_nan(typename V::F x) {
  return V::floats(V::select_nan(x, V::set1_i(0x7fc00000), V::bits(rounded<V, Element>(x))));
}

FPSA_INLINE int64_t raster_of(const PrepassInput& in, int64_t position) {
  return in.x.index ? in.x.index[position] : position;
}
template <class Element>
FPSA_INLINE const Element* row_of(const PrepassInput& in, int64_t position) {
  return static_cast<const Element*>(in.x.data) + raster_of(in, position) * in.x.stride;
}

/// Calls body(d, n) for the chunks [d, d + n) of [0, width); all but the last are whole, with a constant n.
template <class V, class Body>
FPSA_INLINE void for_chunks(int64_t width, const Body& body) {
  constexpr int kChunk = 2 * V::kLanes;
  int64_t d = 0;
  for (; d + kChunk <= width; d += kChunk)
    body(d, kChunk);
  if (d < width) body(d, static_cast<int>(width - d));
}

/// Cosines and sines of one row, split.
template <class V>
struct Turns {
  alignas(64) float even[128], odd[128];

  FPSA_INLINE void fill(const float* turns, int64_t dim) {
    for_chunks<V>(dim, [&](int64_t d, int n) FPSA_INLINED {
      const auto turn = V::load(turns + d, n);
      V::store_whole(even + d / 2, turn.even);
      V::store_whole(odd + d / 2, turn.odd);
    });
  }
};

/// A number of rows as a type, for generic lambdas.
template <int n>
struct Rows {
  static constexpr int kCount = n;
};

/// Calls block(i, Rows<n>) for the blocks of rows [begin, end).
template <class Block>
FPSA_INLINE void for_blocks(int64_t begin, int64_t end, const Block& block) {
  int64_t i = begin;
  for (; i + kBlockRows <= end; i += kBlockRows)
    block(i, Rows<kBlockRows>());
  for (; i < end; ++i)
    block(i, Rows<1>());
}

/// inverse_rms[r] of row begin + r. All rows at once: their chains of additions hide each other's latency.
template <class V, class Element, int kRows>
void inverse_rms_of(const PrepassInput& in, int64_t begin, float* inverse_rms) {
  if (!in.weight) {
    for (int r = 0; r < kRows; ++r)
      inverse_rms[r] = 1.0f;
    return;
  }
  const int64_t width = in.heads * in.dim;
  constexpr int kParts = 16 / V::kLanes, kChunk = 2 * V::kLanes;  // 32 sums: kParts pairs of vectors
  const Element* rows[kRows];
  typename V::Pair sums[kRows][kParts];
  for (int r = 0; r < kRows; ++r) {
    rows[r] = row_of<Element>(in, begin + r);
    for (int part = 0; part < kParts; ++part)
      sums[r][part] = {V::set1(0.0f), V::set1(0.0f)};
  }
  auto add = [&](int r, int part, int64_t d, int n) FPSA_INLINED {
    const auto x = V::load(rows[r] + d, n);
    auto& sum = sums[r][part];
    sum.even = V::add(sum.even, V::mul(x.even, x.even));
    sum.odd = V::add(sum.odd, V::mul(x.odd, x.odd));
  };
  int64_t d = 0;
  for (; d + 32 <= width; d += 32)
    for (int part = 0; part < kParts; ++part)
      for (int r = 0; r < kRows; ++r)
        add(r, part, d + part * kChunk, kChunk);
  for (int part = 0; part < kParts && d < width; ++part, d += kChunk)
    for (int r = 0; r < kRows; ++r)
      add(r, part, d, static_cast<int>(width - d < kChunk ? width - d : kChunk));
  for (int r = 0; r < kRows; ++r) {
    const float mean = V::sum16(sums[r]) / static_cast<float>(width);
    inverse_rms[r] = 1.0f / V::sqrt(mean + in.eps);
  }
}

/// Rows begin, begin + 1, ... of the input, ready to be prepared.
template <class V, class Element, bool kTurn, int kRows>
struct RowBlock {
  const PrepassInput& in;
  const Element* rows[kRows];
  typename V::F inverse[kRows];
  Turns<V> turns[kTurn ? kRows : 1];

  FPSA_INLINE RowBlock(const PrepassInput& input, int64_t begin, const float* inverse_rms) : in(input) {
    for (int r = 0; r < kRows; ++r) {
      rows[r] = row_of<Element>(in, begin + r);
      inverse[r] = V::set1(inverse_rms[r]);
      if constexpr (kTurn) turns[r].fill(in.turns + raster_of(in, begin + r) * in.dim, in.dim);
    }
  }

  /// Calls body(r, d, n, pair) with the prepared chunks of head h, before they are rounded.
  template <class Body>
  FPSA_INLINE void for_head(int64_t h, const Body& body) const {
    for_chunks<V>(in.dim, [&](int64_t d, int n) FPSA_INLINED {
      const int64_t i = h * in.dim + d;
      const auto weight = in.weight ? V::load(in.weight + i, n) : typename V::Pair{V::set1(1.0f), V::set1(1.0f)};
      for (int r = 0; r < kRows; ++r) {
        const auto x = V::load(rows[r] + i, n);
        const auto even = V::mul(V::mul(x.even, inverse[r]), weight.even);
        const auto odd = V::mul(V::mul(x.odd, inverse[r]), weight.odd);
        if constexpr (kTurn) {
          const auto cos = V::load_whole(turns[r].even + d / 2), sin = V::load_whole(turns[r].odd + d / 2);
          body(r, d, n,
               typename V::Pair{V::sub(V::mul(even, cos), V::mul(odd, sin)),
                                V::add(V::mul(odd, cos), V::mul(even, sin))});
        } else {
          body(r, d, n, typename V::Pair{even, odd});
        }
      }
    });
  }
};

template <class V, class Element, bool kTurn>
void prepare_of(const PrepassInput& in, int64_t begin, int64_t end, void* prepared) {
  const int64_t width = in.heads * in.dim;
  for_blocks(begin, end, [&](int64_t i, auto rows) FPSA_INLINED {
    constexpr int kRows = decltype(rows)::kCount;
    float inverse_rms[kRows];
    inverse_rms_of<V, Element, kRows>(in, i, inverse_rms);
    const RowBlock<V, Element, kTurn, kRows> block(in, i, inverse_rms);
    auto* to = static_cast<Element*>(prepared) + i * width;
    for (int64_t h = 0; h < in.heads; ++h)
      block.for_head(h, [&](int r, int64_t d, int n, typename V::Pair x) FPSA_INLINED {
        V::store(to + r * width + h * in.dim + d,
                 {rounded_or_nan<V, Element>(x.even), rounded_or_nan<V, Element>(x.odd)}, n);
      });
  });
}

/// The chunk of the mean at i less which rows are coded.
template <class V>
FPSA_INLINE typename V::Pair mean_at(const PrepassInput& in, int64_t i, int n) {
  return V::load(in.mean + i, n);
}

template <class V, class Element, bool kTurn, bool kCentre>
void absmax_of(const PrepassInput& in, int64_t begin, int64_t end, float* inverse_rms, float* absmax) {
  for (int64_t h = 0; h < in.heads; ++h)
    absmax[h] = 0.0f;
  for_blocks(begin, end, [&](int64_t i, auto rows) FPSA_INLINED {
    constexpr int kRows = decltype(rows)::kCount;
    inverse_rms_of<V, Element, kRows>(in, i, inverse_rms + i);
    const RowBlock<V, Element, kTurn, kRows> block(in, i, inverse_rms + i);
    for (int64_t h = 0; h < in.heads; ++h) {
      auto top = V::set1_i(0);
      block.for_head(h, [&](int, int64_t d, int n, typename V::Pair x) FPSA_INLINED {
        if constexpr (kCentre) {
          const auto mean = mean_at<V>(in, h * in.dim + d, n);
          x = {V::sub(rounded_or_nan<V, Element>(x.even), mean.even),
               V::sub(rounded_or_nan<V, Element>(x.odd), mean.odd)};
        }
        top = V::max(top, V::max(V::bits(V::abs(x.even)), V::bits(V::abs(x.odd))));
      });
      const uint32_t bits = V::reduce_max(top);
      if (bits > bits_of(absmax[h])) absmax[h] = float_of(bits);
    }
  });
  // Rounding keeps order, so the largest rounded magnitude is the largest magnitude rounded. A NaN stays one.
  if constexpr (sizeof(Element) == 2 && !kCentre)
    for (int64_t h = 0; h < in.heads; ++h) {
      const uint32_t bits = bits_of(absmax[h]);
      absmax[h] = float_of(bits > 0x7f800000u ? 0x7fc00000u : (bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u);
    }
}

template <class V, class Code, class Element, bool kTurn, bool kCentre>
void codes_of(const PrepassInput& in, int64_t begin, int64_t end, const float* inverse_rms, const float* scale,
              uint8_t* codes, float* token_scale) {
  for_blocks(begin, end, [&](int64_t i, auto rows) FPSA_INLINED {
    const RowBlock<V, Element, kTurn, decltype(rows)::kCount> block(in, i, inverse_rms + i);
    for (int64_t h = 0; h < in.heads; ++h) {
      const auto wide = V::set1(scale[h]);
      uint8_t* to = codes + (h * in.rows + i) * in.dim;
      auto write = [&](auto encode) FPSA_INLINED {
        block.for_head(h, [&](int r, int64_t d, int n, typename V::Pair x) FPSA_INLINED {
          // A NaN that rounding made a number is no matter: it made the scale NaN.
          x = {rounded<V, Element>(x.even), rounded<V, Element>(x.odd)};
          if constexpr (kCentre) {
            const auto mean = mean_at<V>(in, h * in.dim + d, n);
            x = {V::sub(x.even, mean.even), V::sub(x.odd, mean.odd)};
          }
          V::store_codes(encode(V::div(x.even, wide)), encode(V::div(x.odd, wide)), to + r * in.dim + d, n);
        });
      };
      if (is_finite(scale[h]))
        write([](typename V::F x) FPSA_INLINED { return Code::template encode<V>(x); });
      else
        write([](typename V::F x) FPSA_INLINED { return Code::template encode_or_nan<V>(x); });
    }
  });
  if (token_scale)
    for (int64_t h = 0; h < in.heads; ++h)
      for (int64_t i = begin; i < end; ++i)
        token_scale[h * in.rows + i] = scale[h];
}

template <class V, class Element>
void channel_absmax_of(const PrepassInput& in, int64_t begin, int64_t end, float* absmax) {
  for_blocks(begin, end, [&](int64_t i, auto rows) FPSA_INLINED {
    constexpr int kRows = decltype(rows)::kCount;
    const Element* row[kRows];
    for (int r = 0; r < kRows; ++r)
      row[r] = row_of<Element>(in, i + r);
    for_chunks<V>(in.heads * in.dim, [&](int64_t c, int n) FPSA_INLINED {
      const auto known = V::load(absmax + c, n);
      auto even = V::bits(known.even), odd = V::bits(known.odd);
      for (int r = 0; r < kRows; ++r) {
        const auto x = V::load(row[r] + c, n);
        even = V::max(even, V::bits(V::abs(x.even)));
        odd = V::max(odd, V::bits(V::abs(x.odd)));
      }
      V::store(absmax + c, {V::floats(even), V::floats(odd)}, n);
    });
  });
}

template <class V, class Code, class Element>
void channel_codes_of(const PrepassInput& in, int64_t begin, int64_t end, const float* scale, uint8_t* codes) {
  for_blocks(begin, end, [&](int64_t i, auto rows) FPSA_INLINED {
    constexpr int kRows = decltype(rows)::kCount;
    const Element* row[kRows];
    for (int r = 0; r < kRows; ++r)
      row[r] = row_of<Element>(in, i + r);
    for (int64_t h = 0; h < in.heads; ++h) {
      uint8_t* to = codes + (h * in.rows + i) * in.dim;
      for_chunks<V>(in.dim, [&](int64_t d, int n) FPSA_INLINED {
        const int64_t c = h * in.dim + d;
        const auto wide = V::load(scale + c, n);
        auto write = [&](auto encode) FPSA_INLINED {
          for (int r = 0; r < kRows; ++r) {
            const auto x = V::load(row[r] + c, n);
            V::store_codes(encode(V::div(x.even, wide.even)), encode(V::div(x.odd, wide.odd)), to + r * in.dim + d, n);
          }
        };
        if (V::all_finite(wide))
          write([](typename V::F x) FPSA_INLINED { return Code::template encode<V>(x); });
        else
          write([](typename V::F x) FPSA_INLINED { return Code::template encode_or_nan<V>(x); });
      });
    }
  });
}

/// The entry of one ISA and code: every function chooses its element type and whether to rotate, once per call.
template <class V, class Code>
struct PrepassOf {
  template <class Element>
  static auto absmax_by(const PrepassInput& in) {
    if (in.mean) return in.turns ? absmax_of<V, Element, true, true> : absmax_of<V, Element, false, true>;
    return in.turns ? absmax_of<V, Element, true, false> : absmax_of<V, Element, false, false>;
  }
  template <class Element>
  static auto codes_by(const PrepassInput& in) {
    if (in.mean) return in.turns ? codes_of<V, Code, Element, true, true> : codes_of<V, Code, Element, false, true>;
    return in.turns ? codes_of<V, Code, Element, true, false> : codes_of<V, Code, Element, false, false>;
  }
  static void prepare(const PrepassInput& in, int64_t begin, int64_t end, void* prepared) noexcept {
    const auto of_f32 = in.turns ? prepare_of<V, float, true> : prepare_of<V, float, false>;
    const auto of_bf16 = in.turns ? prepare_of<V, uint16_t, true> : prepare_of<V, uint16_t, false>;
    (in.dtype == Dtype::kF32 ? of_f32 : of_bf16)(in, begin, end, prepared);
  }
  static void absmax(const PrepassInput& in, int64_t begin, int64_t end, float* inverse_rms, float* absmax) noexcept {
    (in.dtype == Dtype::kF32 ? absmax_by<float> : absmax_by<uint16_t>)(in)(in, begin, end, inverse_rms, absmax);
  }
  static void codes(const PrepassInput& in, int64_t begin, int64_t end, const float* inverse_rms, const float* scale,
                    uint8_t* codes, float* token_scale) noexcept {
    (in.dtype == Dtype::kF32 ? codes_by<float> : codes_by<uint16_t>)(in)(in, begin, end, inverse_rms, scale, codes,
                                                                         token_scale);
  }
  static void channel_absmax(const PrepassInput& in, int64_t begin, int64_t end, float* absmax) noexcept {
    (in.dtype == Dtype::kF32 ? channel_absmax_of<V, float> : channel_absmax_of<V, uint16_t>)(in, begin, end, absmax);
  }
  static void channel_codes(const PrepassInput& in, int64_t begin, int64_t end, const float* scale,
                            uint8_t* codes) noexcept {
    (in.dtype == Dtype::kF32 ? channel_codes_of<V, Code, float> : channel_codes_of<V, Code, uint16_t>)(in, begin, end,
                                                                                                       scale, codes);
  }
};

template <class V, class Code>
Prepass prepass() {
  using Of = PrepassOf<V, Code>;
  return {Of::prepare, Of::absmax, Code::scale, Of::codes, Of::channel_absmax, Of::channel_codes};
}

}  // namespace
}  // namespace fpsa::kernel
