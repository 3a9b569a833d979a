// Row by row: all scores of the row, their maximum, the probabilities, the weighted sum of values. Sums are F64,
// so that the difference from another entry is that entry's error.
#include "fpsa/kernel/reference/attention_fwd.h"

#include <cassert>
#include <cmath>
#include <limits>
#include <numbers>

#include "fpsa/kernel/reference/elements.h"

namespace fpsa::kernel::reference {
namespace {

// P as the entry's second product takes it.
float probability(F32, float p) {
  return p;
}
float probability(Bf16, float p) {
  return numeric::f32_from_bf16(numeric::bf16_from_f32(p));
}
float probability(E4m3, float p) {
  return numeric::f32_from_e4m3(numeric::e4m3_from_f32(p * 256.0f)) * (1.0f / 256.0f);
}
// The product with 255 is exact in F64, so it is rounded once.
double probability(Int8, float p) {
  return std::nearbyint(p * 255.0) / 255.0;
}

template <class Element>
void run_row(const AttentionHead& head, const QueryBlock& block, int64_t query, const AttentionOut& out,
             float* scores) {
  float top = -std::numeric_limits<float>::infinity();
  for (int32_t r = 0; r < block.range_count; ++r) {
    for (int64_t key = block.ranges[r].begin; key < block.ranges[r].end; ++key) {
      scores[key] = score<Element>(head, query, key);
      // A NaN must reach the row's maximum, which a plain comparison would lose.
      if (scores[key] > top || std::isnan(scores[key])) top = scores[key];
      if (std::isnan(top)) break;
    }
  }
  const float m = std::ceil(top);
  double sum = 0;
  double values[256] = {}, exact[256] = {};
  for (int32_t r = 0; r < block.range_count; ++r) {
    for (int64_t key = block.ranges[r].begin; key < block.ranges[r].end; ++key) {
      const float p = std::exp2(scores[key] - m);
      sum += p;
      const double weight = probability(Element(), p);
      const auto* v = row_of<Element>(head.v, key);
      for (int64_t d = 0; d < head.dim; ++d)
        values[d] += weight * Element::value(v[d]);
      // Where P is not coded, `exact` is out.
      const double unrounded = sizeof(typename Element::Type) == 1 ? p : weight;
      for (int64_t d = 0; out.exact && d < head.dim; ++d)
        exact[d] += unrounded * Element::value(v[d]);
    }
  }
  const int64_t row = memory_row(out.index, query);
  const bool empty = block.range_count == 0;
  for (int64_t d = 0; d < head.dim; ++d) {
    const double scale = head.v_scale ? head.v_scale[d] : 1.0;
    store(out.out, out.dtype, row * out.stride + d, empty ? 0.0 : values[d] / sum * scale);
    if (out.exact) store(out.exact, out.dtype, row * out.exact_stride + d, empty ? 0.0 : exact[d] / sum * scale);
  }
  if (out.lse) out.lse[row] = empty ? m : static_cast<float>((m + std::log2(sum)) * std::numbers::ln2);
  if (out.row_max) out.row_max[row] = m;
}

int64_t packed_bytes(int64_t, int64_t) noexcept {
  return 0;
}
void pack(const AttentionHead&, int64_t, int64_t, void*) noexcept {}
int64_t scratch_bytes(int64_t keys, int64_t) noexcept {
  return keys * static_cast<int64_t>(sizeof(float));
}

template <class Element>
void run(const AttentionHead& head, const void*, const QueryBlock& block, const AttentionOut& out,
         void* scratch) noexcept {
  assert(head.dim % 8 == 0 && head.dim >= 8 && head.dim <= 256);
  for (int64_t query = block.begin; query < block.end; ++query)
    run_row<Element>(head, block, query, out, static_cast<float*>(scratch));
}

}  // namespace

AttentionFwd attention_fwd_f32() {
  return {packed_bytes, pack, scratch_bytes, run<F32>};
}
AttentionFwd attention_fwd_bf16() {
  return {packed_bytes, pack, scratch_bytes, run<Bf16>};
}
AttentionFwd attention_fwd_e4m3() {
  return {packed_bytes, pack, scratch_bytes, run<E4m3>};
}
AttentionFwd attention_fwd_int8() {
  return {packed_bytes, pack, scratch_bytes, run<Int8>};
}

}  // namespace fpsa::kernel::reference
