// Random legal attention problems for the tests that walk the kernel table.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "fpsa/kernel/table.h"
#include "fpsa/kernel/visibility.h"
#include "fpsa/numeric/bf16.h"
#include "fpsa/numeric/e4m3.h"
#include "fpsa/numeric/int8.h"

namespace fpsa::kernel::testing_support {

/// 64-byte aligned bytes between two guard bands that check() reads back.
class Guarded {
 public:
  explicit Guarded(int64_t bytes) : bytes_(bytes) {
    memory_.reset(
        static_cast<uint8_t*>(std::aligned_alloc(64, static_cast<size_t>((bytes + 2 * kBand + 63) / 64 * 64))));
    std::memset(memory_.get(), kPoison, static_cast<size_t>(bytes + 2 * kBand));
  }
  void* data() { return memory_.get() + kBand; }
  /// True when both bands still hold the poison.
  bool intact() const {
    for (int64_t i = 0; i < kBand; ++i)
      if (memory_.get()[i] != kPoison || memory_.get()[kBand + bytes_ + i] != kPoison) return false;
    return true;
  }
  static constexpr uint8_t kPoison = 0xa5;

 private:
  struct Free {
    void operator()(uint8_t* p) const { std::free(p); }
  };
  static constexpr int64_t kBand = 256;
  int64_t bytes_;
  std::unique_ptr<uint8_t, Free> memory_;
};

/// A problem with its storage. Rows lie in memory in a shuffled order and with a gap between them.
struct AttentionCase {
  AttentionCase(Dtype dtype, uint64_t seed, int64_t queries, int64_t keys, int64_t dim, double spread = 1.0)
      : random(seed), dtype(dtype) {
    stride = dim + 8 * static_cast<int64_t>(random() % 3);
    fill(q, queries, spread);
    fill(k, keys, spread);
    fill(v, keys, 1.0);
    query_index = shuffled(queries);
    key_index = shuffled(keys);
    head.queries = queries;
    head.keys = keys;
    head.dim = dim;
    head.softmax_scale = 1.0f / std::sqrt(static_cast<float>(dim));
    head.q = {q.data(), stride, query_index.data()};
    head.k = {k.data(), stride, key_index.data()};
    head.v = {v.data(), stride, key_index.data()};
    if (scaled()) {
      scales(q_scale, queries, spread);
      scales(k_scale, keys, spread);
      scales(v_scale, dim, 1.0);
      head.q_scale = q_scale.data();
      head.k_scale = k_scale.data();
      head.v_scale = v_scale.data();
    }
  }
  AttentionCase(const AttentionCase&) = delete;
  AttentionCase& operator=(const AttentionCase&) = delete;

  /// Whether codes have scales.
  bool scaled() const { return dtype == Dtype::kE4m3 || dtype == Dtype::kInt8; }

  /// The real value of element (position, d).
  double value(const RowsView& rows, const float* row_scale, const float* column_scale, int64_t position,
               int64_t d) const {
    const int64_t at = rows.index[position] * rows.stride + d;
    const double raw = dtype == Dtype::kF32    ? static_cast<const float*>(rows.data)[at]
                       : dtype == Dtype::kBf16 ? numeric::f32_from_bf16(static_cast<const uint16_t*>(rows.data)[at])
                       : dtype == Dtype::kInt8 ? static_cast<const int8_t*>(rows.data)[at]
                                               : numeric::f32_from_e4m3(static_cast<const uint8_t*>(rows.data)[at]);
    return raw * (row_scale ? row_scale[position] : 1.0) * (column_scale ? column_scale[d] : 1.0);
  }

  /// Random ranges over the keys: ragged borders, gaps, possibly none at all.
  std::vector<KeyRange> random_ranges() {
    std::vector<KeyRange> ranges;
    int32_t at = static_cast<int32_t>(random() % 20);
    while (at < head.keys) {
      const int32_t end =
          static_cast<int32_t>(std::min<int64_t>(at + 1 + static_cast<int64_t>(random() % 90), head.keys));
      ranges.push_back({at, end});
      at = end + 1 + static_cast<int32_t>(random() % 40);
    }
    return ranges;
  }

  std::mt19937_64 random;
  Dtype dtype;
  AttentionHead head;
  int64_t stride;
  std::vector<uint8_t> q, k, v;
  std::vector<float> q_scale, k_scale, v_scale;
  std::vector<int32_t> query_index, key_index;

 private:
  // INT8 codes reach three sigma without clipping.
  double codes_per_sigma() const { return dtype == Dtype::kInt8 ? 40 : 100; }

  void fill(std::vector<uint8_t>& bytes, int64_t rows, double spread) {
    std::normal_distribution<float> normal(0.0f, static_cast<float>(spread));
    const int64_t count = rows * stride;
    const int64_t size = dtype == Dtype::kF32 ? 4 : dtype == Dtype::kBf16 ? 2 : 1;
    bytes.resize(static_cast<size_t>(count * size + 1));
    for (int64_t i = 0; i < count; ++i) {
      const float x = normal(random);
      const uint16_t bf16 = numeric::bf16_from_f32(x);
      const float wide = x * static_cast<float>(codes_per_sigma() / spread);
      const uint8_t code = dtype == Dtype::kInt8
                               ? static_cast<uint8_t>(numeric::quantize_int8(std::clamp(wide, -127.0f, 127.0f), 1.0f))
                               : numeric::e4m3_from_f32(wide);
      std::memcpy(bytes.data() + i * size,
                  dtype == Dtype::kF32    ? static_cast<const void*>(&x)
                  : dtype == Dtype::kBf16 ? static_cast<const void*>(&bf16)
                                          : &code,
                  static_cast<size_t>(size));
    }
  }
  void scales(std::vector<float>& into, int64_t count, double spread) {
    std::uniform_real_distribution<float> uniform(0.5f, 1.5f);
    into.resize(static_cast<size_t>(count));
    for (float& scale : into)
      scale = static_cast<float>(spread / codes_per_sigma()) * uniform(random);
  }
  std::vector<int32_t> shuffled(int64_t n) {
    std::vector<int32_t> index(static_cast<size_t>(n));
    for (size_t i = 0; i < index.size(); ++i)
      index[i] = static_cast<int32_t>(i);
    std::shuffle(index.begin(), index.end(), random);
    return index;
  }
};

/// What an entry made of a case; rows in memory order.
struct AttentionResult {
  std::vector<float> out, lse, row_max;
};

/// Runs one block through an entry inside guard bands. Rows outside the block keep the poison, which it checks.
inline AttentionResult run_entry(const AttentionFwd& kernel, const AttentionCase& test, const QueryBlock& block,
                                 bool& clean, Dtype out_dtype = Dtype::kF32) {
  const AttentionHead& head = test.head;
  const int64_t element = out_dtype == Dtype::kF32 ? 4 : 2, row_bytes = head.dim * element;
  Guarded packed(kernel.packed_bytes(head.keys, head.dim)), scratch(kernel.scratch_bytes(head.keys, head.dim));
  Guarded out(head.queries * row_bytes), lse(head.queries * 4), row_max(head.queries * 4);
  const int64_t half = head.keys / 2 / 64 * 64;
  kernel.pack(head, half, head.keys, packed.data());
  kernel.pack(head, 0, half, packed.data());
  kernel.run(head, packed.data(), block,
             {out.data(), head.dim, out_dtype, head.q.index, static_cast<float*>(lse.data()),
              static_cast<float*>(row_max.data())},
             scratch.data());
  clean = packed.intact() && scratch.intact() && out.intact() && lse.intact() && row_max.intact();
  std::vector<bool> written(static_cast<size_t>(head.queries));
  for (int32_t i = block.begin; i < block.end; ++i)
    written[static_cast<size_t>(head.q.index[i])] = true;
  const auto* bytes = static_cast<const uint8_t*>(out.data());
  for (int64_t row = 0; row < head.queries; ++row)
    for (int64_t b = 0; b < row_bytes && !written[static_cast<size_t>(row)]; ++b)
      clean = clean && bytes[row * row_bytes + b] == Guarded::kPoison;
  AttentionResult result;
  for (int64_t i = 0; i < head.queries * head.dim; ++i)
    result.out.push_back(out_dtype == Dtype::kF32 ? static_cast<float*>(out.data())[i]
                                                  : numeric::f32_from_bf16(static_cast<uint16_t*>(out.data())[i]));
  for (int64_t i = 0; i < head.queries; ++i) {
    result.lse.push_back(static_cast<float*>(lse.data())[i]);
    result.row_max.push_back(static_cast<float*>(row_max.data())[i]);
  }
  return result;
}

}  // namespace fpsa::kernel::testing_support
