// Pair by pair of key and query: the score, the probability, and what they give to the three gradients. Everything is
// F64 except the score, whose F32 roundings are those of the forward, and the code of P.
#include "fpsa/kernel/reference/attention_bwd.h"

#include <cassert>
#include <cmath>
#include <limits>
#include <numbers>

#include "fpsa/kernel/reference/elements.h"

namespace fpsa::kernel::reference {
namespace {

double load(const RowsView& rows, Dtype dtype, int64_t position, int64_t d) {
  return dtype == Dtype::kF32 ? row_of<F32>(rows, position)[d] : Bf16::value(row_of<Bf16>(rows, position)[d]);
}

// One head's inputs as real numbers.
template <class Element>
struct Reals {
  const AttentionBwdHead& head;
  const AttentionHead& forward = head.forward;

  double q(int64_t i, int64_t d) const {
    return static_cast<double>(Element::value(row_of<Element>(forward.q, i)[d])) *
           (forward.q_scale ? forward.q_scale[i] : 1.0);
  }
  double k(int64_t j, int64_t d) const {
    return static_cast<double>(Element::value(row_of<Element>(forward.k, j)[d])) *
           (forward.k_scale ? forward.k_scale[j] : 1.0);
  }
  double v(int64_t j, int64_t d) const {
    return static_cast<double>(Element::value(row_of<Element>(forward.v, j)[d])) *
           (forward.v_scale ? forward.v_scale[d] : 1.0);
  }
  double d_out(int64_t i, int64_t d) const { return load(head.d_out, head.d_out_dtype, i, d); }
};

struct Probability {
  double plain, coded;  // P in dS, and P in dV
};

template <class Element>
Probability probability(const Reals<Element>& real, int64_t i, int64_t j) {
  const int64_t row = memory_row(real.head.out.index, i);
  const double lse = real.head.lse[row];
  const float s = score<Element>(real.forward, i, j);
  if constexpr (sizeof(typename Element::Type) > 1) {
    const double p = std::exp2(s - lse * std::numbers::log2e);
    return {p, p};
  } else {
    const float m = real.head.row_max[row], p = std::exp2(s - m);
    const double sum = std::exp(lse - m * std::numbers::ln2);
    return {p / sum, numeric::f32_from_e4m3(numeric::e4m3_from_f32(p * 256.0f)) / 256.0 / sum};
  }
}

// What the pair (i, j) gives; d_k and d_v are the sums of key j.
template <class Element>
void add_pair(const Reals<Element>& real, double delta, int64_t i, int64_t j, double* d_q, double* d_k, double* d_v) {
  const auto p = probability(real, i, j);
  const int64_t dim = real.forward.dim;
  double d_p = 0;
  for (int64_t d = 0; d < dim; ++d)
    d_p += real.d_out(i, d) * real.v(j, d);
  const double d_s = p.plain * (d_p - delta);
  for (int64_t d = 0; d < dim; ++d) {
    d_q[d] += d_s * real.k(j, d);
    d_k[d] += d_s * real.q(i, d);
    d_v[d] += p.coded * real.d_out(i, d);
  }
}

int64_t packed_bytes(int64_t queries, int64_t) noexcept {
  return queries * static_cast<int64_t>(sizeof(double));
}

// Packed is d_out . out of every query.
void pack(const AttentionBwdHead& head, int64_t begin, int64_t end, void* packed) noexcept {
  for (int64_t i = begin; i < end; ++i) {
    double delta = 0;
    for (int64_t d = 0; d < head.forward.dim; ++d)
      delta += load(head.d_out, head.d_out_dtype, i, d) * load(head.out, head.out_dtype, i, d);
    static_cast<double*>(packed)[i] = delta;
  }
}

int64_t sum_bytes(int64_t queries, int64_t dim) noexcept {
  return queries * dim * static_cast<int64_t>(sizeof(double));
}
int64_t scratch_bytes(int64_t) noexcept {
  return 0;
}

template <class Element>
void run(const AttentionBwdHead& head, const void* packed, const QueryBlock& block, const AttentionGrads& grads,
         void* sum, void*) noexcept {
  const Reals<Element> real{head};
  const int64_t dim = head.forward.dim;
  assert(dim % 8 == 0 && dim >= 8 && dim <= 256);
  for (int64_t key = block.begin; key < block.end; ++key) {
    double d_k[256] = {}, d_v[256] = {};
    for (int32_t r = 0; r < block.range_count; ++r)
      for (int64_t query = block.ranges[r].begin; query < block.ranges[r].end; ++query)
        add_pair(real, static_cast<const double*>(packed)[query], query, key, static_cast<double*>(sum) + query * dim,
                 d_k, d_v);
    const int64_t row = memory_row(grads.k_index, key);
    for (int64_t d = 0; d < dim; ++d) {
      store(grads.d_k, grads.dtype, row * grads.k_stride + d, d_k[d] * head.forward.softmax_scale);
      store(grads.d_v, grads.dtype, row * grads.v_stride + d, d_v[d]);
    }
  }
}

void finish(const AttentionBwdHead& head, const DqSums& sums, int64_t begin, int64_t end,
            const AttentionGrads& grads) noexcept {
  const int64_t dim = head.forward.dim;
  for (int64_t i = begin; i < end; ++i) {
    const int64_t row = memory_row(grads.q_index, i);
    for (int64_t d = 0; d < dim; ++d) {
      double total = 0;
      for (int32_t s = 0; s < sums.count; ++s)
        total += reinterpret_cast<const double*>(static_cast<const char*>(sums.data) + s * sums.stride)[i * dim + d];
      store(grads.d_q, grads.dtype, row * grads.q_stride + d, total * head.forward.softmax_scale);
    }
  }
}

}  // namespace

AttentionBwd attention_bwd_f32() {
  return {packed_bytes, pack, sum_bytes, scratch_bytes, run<F32>, finish};
}
AttentionBwd attention_bwd_bf16() {
  return {packed_bytes, pack, sum_bytes, scratch_bytes, run<Bf16>, finish};
}
AttentionBwd attention_bwd_e4m3() {
  return {packed_bytes, pack, sum_bytes, scratch_bytes, run<E4m3>, finish};
}

}  // namespace fpsa::kernel::reference
