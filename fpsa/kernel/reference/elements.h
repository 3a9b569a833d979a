// What the plain bodies of attention forward and backward share: elements as numbers, rows in memory, the score.
#pragma once

#include <cstdint>
#include <numbers>

#include "fpsa/kernel/attention.h"
#include "fpsa/numeric/bf16.h"
#include "fpsa/numeric/e4m3.h"

namespace fpsa::kernel::reference {

struct F32 {
  using Type = float;
  static float value(Type x) { return x; }
};
struct Bf16 {
  using Type = uint16_t;
  static float value(Type x) { return numeric::f32_from_bf16(x); }
};
struct E4m3 {
  using Type = uint8_t;
  static float value(Type x) { return numeric::f32_from_e4m3(x); }
};
struct Int8 {
  using Type = int8_t;
  static float value(Type x) { return x; }
};

inline int64_t memory_row(const int32_t* index, int64_t position) {
  return index ? index[position] : position;
}

template <class Element>
const typename Element::Type* row_of(const RowsView& rows, int64_t position) {
  return static_cast<const typename Element::Type*>(rows.data) + memory_row(rows.index, position) * rows.stride;
}

/// S2 of one pair, with the roundings of the contract.
template <class Element>
float score(const AttentionHead& head, int64_t query, int64_t key) {
  const auto *q = row_of<Element>(head.q, query), *k = row_of<Element>(head.k, key);
  double dot = 0;
  for (int64_t d = 0; d < head.dim; ++d)
    dot += static_cast<double>(Element::value(q[d])) * Element::value(k[d]);
  const float to_log2 = static_cast<float>(std::numbers::log2e * head.softmax_scale);
  const float row_factor = head.q_scale ? to_log2 * head.q_scale[query] : to_log2;
  const float scaled = static_cast<float>(dot) * row_factor;
  return head.k_scale ? scaled * head.k_scale[key] : scaled;
}

/// Writes element `at` of F32 or BF16.
inline void store(void* out, Dtype dtype, int64_t at, double value) {
  const float rounded = static_cast<float>(value);
  if (dtype == Dtype::kF32)
    static_cast<float*>(out)[at] = rounded;
  else
    static_cast<uint16_t*>(out)[at] = numeric::bf16_from_f32(rounded);
}

}  // namespace fpsa::kernel::reference
