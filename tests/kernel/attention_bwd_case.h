// Random backward problems: an attention case, a mask of random tiles, the forward's results and a gradient.
#pragma once

#include <algorithm>
#include <vector>

#include "fpsa/pattern/mask.h"
#include "tests/kernel/attention_case.h"

namespace fpsa::kernel::testing_support {

/// Sorted random borders from 0 to n.
inline std::vector<int32_t> random_borders(std::mt19937_64& random, int64_t n, int64_t pieces) {
  std::vector<int32_t> borders = {0, static_cast<int32_t>(n)};
  for (int64_t i = 1; i < pieces; ++i)
    borders.push_back(static_cast<int32_t>(random() % static_cast<uint64_t>(n + 1)));
  std::ranges::sort(borders);
  return borders;
}

/// Tiles of random length, visible with probability 1/2; so some queries see no key and some keys no query.
inline pattern::BlockMask random_mask(std::mt19937_64& random, int64_t rows, int64_t cols) {
  std::vector<uint8_t> visible(static_cast<size_t>(rows * cols));
  for (auto& x : visible)
    x = random() % 2;
  return pattern::from_matrix(visible, 1, rows, cols);
}

struct BwdCase {
  BwdCase(Dtype dtype, uint64_t seed, int64_t queries, int64_t keys, int64_t dim, bool dense = false)
      : attention(dtype, seed, queries, keys, dim, seed % 5 == 0 ? 3.0 : 1.0) {
    auto& random = attention.random;
    const int64_t rows = dense ? 1 : 1 + static_cast<int64_t>(random() % 5);
    const int64_t cols = dense ? 1 : 1 + static_cast<int64_t>(random() % 5);
    query_begin = random_borders(random, queries, rows);
    key_begin = random_borders(random, keys, cols);
    mask = dense ? pattern::from_matrix(std::vector<uint8_t>{1}, 1, 1, 1) : random_mask(random, rows, cols);
    std::normal_distribution<float> normal;
    out_dtype = seed % 3 == 0 ? Dtype::kBf16 : Dtype::kF32;
    d_out_dtype = seed % 2 == 0 ? Dtype::kF32 : Dtype::kBf16;
    for (int64_t i = 0; i < queries * dim; ++i) {
      d_out.push_back(normal(random));
      if (d_out_dtype == Dtype::kBf16) d_out.back() = numeric::f32_from_bf16(numeric::bf16_from_f32(d_out.back()));
      d_out_bf16.push_back(numeric::bf16_from_f32(d_out.back()));
    }
    run_forward(attention_fwd_at(dtype, Isa::kReference).kernel);
  }

  /// Fills out, lse and row_max from an entry.
  void run_forward(const AttentionFwd& kernel) {
    const AttentionHead& head = attention.head;
    out.assign(static_cast<size_t>(head.queries * head.dim), 0.0f);
    coded_out = out;
    lse.assign(static_cast<size_t>(head.queries), 0.0f);
    row_max = lse;
    Guarded packed(kernel.packed_bytes(head.keys, head.dim)), scratch(kernel.scratch_bytes(head.keys, head.dim));
    kernel.pack(head, 0, head.keys, packed.data());
    const bool f32 = out_dtype == Dtype::kF32;
    std::vector<uint16_t> coded_bf16(f32 ? 0 : out.size());
    out_bf16.assign(coded_bf16.size(), 0);
    const Visibility visibility(mask, 0, query_begin, key_begin);
    for (const auto& block : visibility.blocks())
      kernel.run(head, packed.data(), block,
                 {f32 ? static_cast<void*>(coded_out.data()) : coded_bf16.data(), head.dim, out_dtype, head.q.index,
                  lse.data(), row_max.data(), f32 ? static_cast<void*>(out.data()) : out_bf16.data(), head.dim},
                 scratch.data());
    for (size_t i = 0; i < out_bf16.size(); ++i) {
      coded_out[i] = numeric::f32_from_bf16(coded_bf16[i]);
      out[i] = numeric::f32_from_bf16(out_bf16[i]);
    }
  }

  AttentionBwdHead head() const {
    AttentionBwdHead result;
    result.forward = attention.head;
    result.out = {out_dtype == Dtype::kF32 ? static_cast<const void*>(out.data()) : out_bf16.data(), attention.head.dim,
                  attention.head.q.index};
    result.out_dtype = out_dtype;
    const bool f32 = d_out_dtype == Dtype::kF32;
    result.d_out = {f32 ? static_cast<const void*>(d_out.data()) : d_out_bf16.data(), attention.head.dim,
                    attention.head.q.index};
    result.d_out_dtype = d_out_dtype;
    result.lse = lse.data();
    result.row_max = row_max.data();
    return result;
  }
  Visibility transposed() const { return Visibility::transposed(mask, 0, query_begin, key_begin); }
  bool visible(int64_t query, int64_t key) const {
    auto tile = [](const std::vector<int32_t>& begin, int64_t at) {
      return std::ranges::upper_bound(begin, at) - begin.begin() - 1;
    };
    return std::ranges::binary_search(mask.visible(0, tile(query_begin, query)),
                                      static_cast<int32_t>(tile(key_begin, key)));
  }

  AttentionCase attention;
  pattern::BlockMask mask;
  std::vector<int32_t> query_begin, key_begin;
  Dtype out_dtype, d_out_dtype;
  std::vector<float> d_out, out, coded_out, lse, row_max;  // rows in memory order
  std::vector<uint16_t> out_bf16, d_out_bf16;
};

struct Gradients {
  std::vector<float> q, k, v;  // rows in memory order
};

/// Runs all blocks of a case through an entry, in shares of equal numbers of blocks, inside guard bands.
inline Gradients run_entry(const AttentionBwd& kernel, const BwdCase& test, bool& clean, int32_t shares = 1,
                           Dtype dtype = Dtype::kF32) {
  const AttentionBwdHead head = test.head();
  const int64_t queries = head.forward.queries, keys = head.forward.keys, dim = head.forward.dim;
  const int64_t element = dtype == Dtype::kF32 ? 4 : 2, sum_bytes = (kernel.sum_bytes(queries, dim) + 63) / 64 * 64;
  Guarded packed(kernel.packed_bytes(queries, dim)), scratch(kernel.scratch_bytes(dim)), sums(sum_bytes * shares);
  Guarded d_q(queries * dim * element), d_k(keys * dim * element), d_v(keys * dim * element);
  std::memset(sums.data(), 0, static_cast<size_t>(sum_bytes * shares));
  const AttentionGrads grads{d_q.data(), d_k.data(),           d_v.data(),          dim, dim, dim,
                             dtype,      head.forward.q.index, head.forward.k.index};
  const int64_t half = queries / 2 / 64 * 64;
  kernel.pack(head, half, queries, packed.data());
  kernel.pack(head, 0, half, packed.data());
  const Visibility transposed = test.transposed();
  const auto blocks = transposed.blocks();
  for (size_t i = 0; i < blocks.size(); ++i) {
    const int64_t share = static_cast<int64_t>(i) * shares / static_cast<int64_t>(blocks.size());
    kernel.run(head, packed.data(), blocks[i], grads, static_cast<uint8_t*>(sums.data()) + share * sum_bytes,
               scratch.data());
  }
  kernel.finish(head, {sums.data(), sum_bytes, shares}, queries / 3, queries, grads);
  kernel.finish(head, {sums.data(), sum_bytes, shares}, 0, queries / 3, grads);
  clean = packed.intact() && scratch.intact() && sums.intact() && d_q.intact() && d_k.intact() && d_v.intact();
  auto values = [&](Guarded& memory, int64_t count) {
    std::vector<float> result;
    for (int64_t i = 0; i < count; ++i)
      result.push_back(dtype == Dtype::kF32 ? static_cast<float*>(memory.data())[i]
                                            : numeric::f32_from_bf16(static_cast<uint16_t*>(memory.data())[i]));
    return result;
  };
  return {values(d_q, queries * dim), values(d_k, keys * dim), values(d_v, keys * dim)};
}

}  // namespace fpsa::kernel::testing_support
