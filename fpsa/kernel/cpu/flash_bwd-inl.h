// Attention backward for CPUs: a block of keys stays in the cache while every query that sees it passes by.
//
// Queries and output gradients are packed once per head in groups of kLanes queries, each in two forms: queries as the
// lanes of a vector (for S^T = k q^T and dP^T = v d_out^T), and channels as lanes (for dV = P^T d_out and
// dK = dS^T q). So probabilities come out as [key][query] and go into dV and dK as they are, in register tiles of 6
// keys. dQ = dS k sums over keys: dS is stored a second time with keys beside each other, and a group of queries adds
// to its rows of the share's sum. A block is 64 queries: P and dS of it, and one form of its queries, stay in L1.
//
// Included by one ISA file per level; everything here has internal linkage. Beside what flash_fwd-inl.h asks for, an
// Engine E supplies
//   kColumnTile              rows of a register tile of dQ
//   kColumnStep              keys that columns hold beside each other
//   from_f32(), put()        one value, one vector -> Element
//   put_columns()            one vector each of two neighbouring keys
//   accumulate_columns<MR,NC>()   the product of a register tile of dQ
#pragma once

#include <cstdint>

#include "fpsa/kernel/attention_bwd.h"
#include "fpsa/kernel/cpu/expand-inl.h"
#include "fpsa/kernel/cpu/flash_fwd-inl.h"

namespace fpsa::kernel {
namespace {
namespace backward {

// A group of packed queries; the statistics have one value per lane.
template <class E>
struct Group {
  static constexpr int kLanes = E::V::kLanes;
  using Element = typename E::Element;

  Group() = default;
  Group(void* packed, int64_t group, int64_t dim) {
    const int64_t lanes = dim * kLanes, pairs = round_up(dim, kLanes) * kLanes;
    q_lanes = reinterpret_cast<Element*>(static_cast<char*>(packed) + group * bytes(dim));
    d_out_lanes = q_lanes + lanes;
    q_channels = d_out_lanes + lanes;
    d_out_channels = q_channels + pairs;
    factor = reinterpret_cast<float*>(d_out_channels + pairs);
    offset = factor + kLanes;
    delta = offset + kLanes;
    weight = delta + kLanes;
    q_scale = weight + kLanes;
  }
  static int64_t bytes(int64_t dim) {
    const int64_t elements = 2 * kLanes * (dim + round_up(dim, kLanes));
    return round_up(elements * static_cast<int64_t>(sizeof(Element)) + 5 * kLanes * 4, 64);
  }

  Element *q_lanes, *d_out_lanes, *q_channels, *d_out_channels;
  float* factor;   // dot product -> log2 units
  float* offset;   // P = 2^(S2 - offset), in e4m3 256 times that of the running maximum
  float* delta;    // d_out . out
  float* weight;   // e4m3: 1 / (256 row sum)
  float* q_scale;  // e4m3
};

inline float load_float(const void* row, Dtype dtype, int64_t d) {
  if (dtype == Dtype::kF32) return static_cast<const float*>(row)[d];
  return f32_of_bf16(static_cast<const uint16_t*>(row)[d]);
}

inline const void* row_of(const RowsView& rows, Dtype dtype, int64_t position) {
  return row_bytes(rows, position, dtype == Dtype::kF32 ? 4 : 2);
}

// Statistics of one query. Lanes without one, and queries that see no key, get finite values.
template <class E>
void pack_statistics(const AttentionBwdHead& head, int64_t position, const Group<E>& group, int lane) {
  const AttentionHead& forward = head.forward;
  const void* out = row_of(head.out, head.out_dtype, position);
  const void* d_out = row_of(head.d_out, head.d_out_dtype, position);
  float delta[8] = {};
  for (int64_t d = 0; d < forward.dim; d += 8)
    for (int64_t i = 0; i < 8; ++i)
      delta[i] += load_float(d_out, head.d_out_dtype, d + i) * load_float(out, head.out_dtype, d + i);
  const int64_t row = head.out.index ? head.out.index[position] : position;
  const double lse = head.lse[row];
  const bool empty = lse == -__builtin_inf();
  const float to_log2 = static_cast<float>(1.4426950408889634 * forward.softmax_scale);
  group.delta[lane] = (delta[0] + delta[4]) + (delta[1] + delta[5]) + ((delta[2] + delta[6]) + (delta[3] + delta[7]));
  if constexpr (E::kE4m3) {
    const float m = empty ? 0.0f : head.row_max[row];
    group.factor[lane] = to_log2 * forward.q_scale[position];
    group.offset[lane] = m - 8.0f;
    group.weight[lane] = empty ? 0.0f : static_cast<float>(0x1p-8 * __builtin_exp(m * 0.6931471805599453 - lse));
    group.q_scale[lane] = forward.q_scale[position];
  } else {
    group.factor[lane] = to_log2;
    group.offset[lane] = empty ? 0.0f : static_cast<float>(lse * 1.4426950408889634);
  }
}

template <class E>
void pack(const AttentionBwdHead& head, int64_t begin, int64_t end, void* packed) noexcept {
  constexpr int kLanes = E::V::kLanes;
  using Element = typename E::Element;
  const AttentionHead& forward = head.forward;
  const int64_t dim = forward.dim, dim_padded = round_up(dim, kLanes);
  for (int64_t first = begin; first < end; first += kLanes) {
    const Group<E> group(packed, first / kLanes, dim);
    Element q[kLanes][256], d_out[kLanes][256], d_out_scaled[kLanes][256];
    const Element *q_rows[kLanes], *d_out_rows[kLanes], *scaled_rows[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) {
      // Lanes past the last query hold its values; no mask shows them.
      const int64_t position = first + lane < end ? first + lane : end - 1;
      const auto* q_row =
          reinterpret_cast<const typename E::Input*>(row_bytes(forward.q, position, sizeof(typename E::Input)));
      const void* d_out_row = row_of(head.d_out, head.d_out_dtype, position);
      for (int64_t d = 0; d < dim; ++d) {
        const float value = load_float(d_out_row, head.d_out_dtype, d);
        q[lane][d] = E::expand(q_row[d]);
        d_out[lane][d] = E::from_f32(value);
        if constexpr (E::kE4m3) d_out_scaled[lane][d] = E::from_f32(value * forward.v_scale[d]);
      }
      q_rows[lane] = q[lane];
      d_out_rows[lane] = d_out[lane];
      scaled_rows[lane] = E::kE4m3 ? d_out_scaled[lane] : d_out[lane];
      pack_statistics<E>(head, position, group, lane);
    }
    E::pack_keys(q_rows, dim, group.q_lanes);
    E::pack_keys(scaled_rows, dim, group.d_out_lanes);
    E::pack_values(q_rows, dim, dim_padded, group.q_channels);
    E::pack_values(d_out_rows, dim, dim_padded, group.d_out_channels);
  }
}

// Scratch of one call: the block of keys, its gradients, and what one block of queries makes with it.
template <class E>
struct Work {
  using Element = typename E::Element;

  Work(void* memory, int64_t dim, int64_t dim_padded)
      : d_k(static_cast<float*>(memory)),
        d_v(d_k + kMaxQueryRows * dim_padded),
        score(d_v + kMaxQueryRows * dim_padded),
        d_probability(score + kRows * kBlockKeys),
        k_scale(d_probability + kRows * kBlockKeys),
        k(reinterpret_cast<Element*>(k_scale + kMaxQueryRows)),
        v(k + kMaxQueryRows * dim),
        k_channels(v + kMaxQueryRows * dim),
        probability(k_channels + kMaxQueryRows * dim_padded),
        d_score(probability + kMaxQueryRows * kBlockKeys),
        columns(d_score + kMaxQueryRows * kBlockKeys) {}

  static int64_t bytes(int64_t dim) {
    const int64_t dim_padded = round_up(dim, E::V::kLanes);
    const int64_t floats = kMaxQueryRows * (2 * dim_padded + 1) + 2 * kRows * kBlockKeys;
    const int64_t elements = kMaxQueryRows * (2 * dim + dim_padded + 3 * kBlockKeys);
    return floats * 4 + elements * static_cast<int64_t>(sizeof(Element));
  }

  float *d_k, *d_v;                // [keys][dim_padded]
  float *score, *d_probability;    // [kRows][queries]
  float* k_scale;                  // [keys]
  Element *k, *v;                  // [keys][dim]
  Element* k_channels;             // [keys / kColumnStep][dim_padded][kColumnStep]
  Element *probability, *d_score;  // [keys][queries]
  Element* columns;                // dS again: [keys / kColumnStep][queries][kColumnStep]
};

inline int rows_even(int rows) {
  return (rows + 1) / 2 * 2;
}

// Brings the keys of a block into scratch, as an even number of rows: after an odd one the last key comes twice, with
// zeros for dQ.
template <class E>
void load_keys(const AttentionHead& head, const QueryBlock& block, const Work<E>& work, int64_t dim_padded) {
  using Input = typename E::Input;
  using Element = typename E::Element;
  const int rows = block.end - block.begin;
  for (int r = 0; r < rows_even(rows); ++r) {
    const int64_t position = block.begin + (r < rows ? r : rows - 1);
    const auto* k = reinterpret_cast<const Input*>(row_bytes(head.k, position, sizeof(Input)));
    const auto* v = reinterpret_cast<const Input*>(row_bytes(head.v, position, sizeof(Input)));
    Element* channels = work.k_channels + r / E::kColumnStep * E::kColumnStep * dim_padded + r % E::kColumnStep;
    for (int64_t d = 0; d < head.dim; ++d) {
      work.k[r * head.dim + d] = E::expand(k[d]);
      work.v[r * head.dim + d] = E::expand(v[d]);
    }
    for (int64_t d = 0; d < dim_padded; ++d)
      channels[d * E::kColumnStep] = r < rows && d < head.dim ? E::expand(k[d]) : Element{};
    work.k_scale[r] = E::kE4m3 ? head.k_scale[position] : 1.0f;
  }
  for (int64_t i = 0; i < rows_even(rows) * dim_padded; ++i)
    work.d_k[i] = work.d_v[i] = 0.0f;
}

// P and dS of two neighbouring keys. kMasked: some queries of the block do not see them.
template <class E, bool kMasked>
void probabilities(const KeyBlock& block, const Group<E>* groups, const float* k_scale, const float* score,
                   const float* d_probability, typename E::Element* p, typename E::Element* d_score,
                   typename E::Element* columns) {
  using V = typename E::V;
  using F = typename V::F;
  for (int c = 0; c < block.count; ++c) {
    const Group<E>& group = groups[c];
    const int at = c * V::kLanes;
    const F factor = V::load(group.factor), offset = V::load(group.offset), delta = V::load(group.delta);
    F column[2];
    FPSA_UNROLL for (int r = 0; r < 2; ++r) {
      F s = V::mul(V::load(score + r * kBlockKeys + at), factor);
      if constexpr (E::kE4m3) s = V::mul(s, V::set1(k_scale[r]));
      F weight = E::exp2(V::sub(s, offset)), coded = weight;
      if constexpr (E::kE4m3) {
        const F inverse = V::load(group.weight);
        coded = V::mul(V::round_e4m3(weight), inverse);
        weight = V::mul(weight, inverse);
      }
      F ds = V::mul(weight, V::sub(V::load(d_probability + r * kBlockKeys + at), delta));
      if constexpr (kMasked) {
        const auto visible = V::mask(static_cast<uint32_t>(block.mask[c]));
        coded = V::select(visible, coded, V::set1(0.0f));
        ds = V::select(visible, ds, V::set1(0.0f));
      }
      E::put(coded, p + r * kBlockKeys + at);
      E::put(E::kE4m3 ? V::mul(ds, V::load(group.q_scale)) : ds, d_score + r * kBlockKeys + at);
      column[r] = E::kE4m3 ? V::mul(ds, V::set1(k_scale[r])) : ds;
    }
    E::put_columns(column[0], column[1], columns + at * E::kColumnStep);
  }
}

// P and dS of a register tile of keys.
template <class E, int MR>
void score_tile(const KeyBlock& block, const Group<E>* groups, const Work<E>& work, int64_t dim, int row) {
  const typename E::Element *q[8], *d_out[8];
  for (int c = 0; c < block.count; ++c) {
    q[c] = groups[c].q_lanes;
    d_out[c] = groups[c].d_out_lanes;
  }
  score_block<E, MR>(work.k + row * dim, dim, q, block.count, work.score);
  score_block<E, MR>(work.v + row * dim, dim, d_out, block.count, work.d_probability);
  auto make = block.partial ? probabilities<E, true> : probabilities<E, false>;
  for (int r = 0; r < MR; r += 2) {
    const int64_t at = (row + r) * kBlockKeys;
    make(block, groups, work.k_scale + row + r, work.score + r * kBlockKeys, work.d_probability + r * kBlockKeys,
         work.probability + at, work.d_score + at, work.columns + at);
  }
}

// Calls fn.template operator()<MR>(row) over all rows in register tiles of kRows; an even rest.
template <class Function>
void for_row_tiles(int rows, const Function& fn) {
  int row = 0;
  for (; row + kRows <= rows; row += kRows)
    fn.template operator()<kRows>(row);
  if (rows - row == 4) fn.template operator()<4>(row);
  if (rows - row == 2) fn.template operator()<2>(row);
}

template <class E, int MR, int NC>
void columns_rest(int count, const typename E::Element* p, const typename E::Element* k, int steps, float* sum,
                  int64_t dim_padded) {
  if constexpr (NC > 0) {
    if (count == NC)
      E::template accumulate_columns<MR, NC>(p, k, steps, sum, dim_padded);
    else
      columns_rest<E, MR, NC - 1>(count, p, k, steps, sum, dim_padded);
  }
}

// Adds dS k of MR queries to their rows of the sum.
template <class E, int MR>
void column_tile(const typename E::Element* columns, const typename E::Element* k, int steps, float* sum,
                 int64_t dim_padded) {
  constexpr int kLanes = E::V::kLanes;
  for (int64_t d = 0; d < dim_padded; d += E::kPanel * kLanes) {
    const auto* channels = k + d * E::kColumnStep;
    if (d + E::kPanel * kLanes <= dim_padded)
      E::template accumulate_columns<MR, E::kPanel>(columns, channels, steps, sum + d, dim_padded);
    else
      columns_rest<E, MR, E::kPanel - 1>(static_cast<int>((dim_padded - d) / kLanes), columns, channels, steps, sum + d,
                                         dim_padded);
  }
}

// dQ of a group of queries.
template <class E>
void column_group(const typename E::Element* columns, const Work<E>& work, int rows, float* sum, int64_t dim_padded) {
  constexpr int kLanes = E::V::kLanes, kTile = E::kColumnTile;
  const int steps = rows / E::kColumnStep;
  for (int row = 0; row + kTile <= kLanes; row += kTile)
    column_tile<E, kTile>(columns + row * E::kColumnStep, work.k_channels, steps, sum + row * dim_padded, dim_padded);
  if constexpr (kLanes % kTile != 0) {
    constexpr int kRow = kLanes / kTile * kTile;
    column_tile<E, kLanes - kRow>(columns + kRow * E::kColumnStep, work.k_channels, steps, sum + kRow * dim_padded,
                                  dim_padded);
  }
}

template <class E>
void query_block(const AttentionHead& head, const KeyBlock& block, const Group<E>* groups, const Work<E>& work,
                 int rows, float* sum, int64_t dim_padded) {
  for_row_tiles(rows, [&]<int MR>(int row) { score_tile<E, MR>(block, groups, work, head.dim, row); });
  const typename E::Element *q[8], *d_out[8];
  for (int c = 0; c < block.count; ++c) {
    q[c] = groups[c].q_channels;
    d_out[c] = groups[c].d_out_channels;
  }
  for_row_tiles(rows, [&]<int MR>(int row) {
    accumulate_block<E, MR>(work.probability + row * kBlockKeys, d_out, block.count, work.d_v + row * dim_padded,
                            dim_padded);
  });
  for_row_tiles(rows, [&]<int MR>(int row) {
    accumulate_block<E, MR>(work.d_score + row * kBlockKeys, q, block.count, work.d_k + row * dim_padded, dim_padded);
  });
  for (int c = 0; c < block.count; ++c)
    column_group<E>(work.columns + c * E::V::kLanes * E::kColumnStep, work, rows,
                    sum + static_cast<int64_t>(block.group[c]) * E::V::kLanes * dim_padded, dim_padded);
}

inline void write_row(void* out, Dtype dtype, int64_t at, int64_t dim, const float* row, float factor) {
  if (dtype == Dtype::kF32) {
    for (int64_t d = 0; d < dim; ++d)
      static_cast<float*>(out)[at + d] = row[d] * factor;
  } else {
    for (int64_t d = 0; d < dim; ++d)
      static_cast<uint16_t*>(out)[at + d] = round_to_bf16(row[d] * factor);
  }
}

template <class E>
void run(const AttentionBwdHead& head, const void* packed, const QueryBlock& block, const AttentionGrads& grads,
         void* sum, void* scratch) noexcept {
  constexpr int kLanes = E::V::kLanes;
  const AttentionHead& forward = head.forward;
  const int64_t dim = forward.dim, dim_padded = round_up(dim, kLanes);
  const Work<E> work(scratch, dim, dim_padded);
  load_keys<E>(forward, block, work, dim_padded);
  KeyWalk<kLanes> walk(block);
  KeyBlock queries;
  while (walk.next(queries)) {
    Group<E> groups[8];
    for (int c = 0; c < queries.count; ++c)
      groups[c] = Group<E>(const_cast<void*>(packed), queries.group[c], dim);
    query_block<E>(forward, queries, groups, work, rows_even(block.end - block.begin), static_cast<float*>(sum),
                   dim_padded);
  }
  for (int r = 0; r < block.end - block.begin; ++r) {
    const int64_t row = grads.k_index ? grads.k_index[block.begin + r] : block.begin + r;
    write_row(grads.d_k, grads.dtype, row * grads.k_stride, dim, work.d_k + r * dim_padded, forward.softmax_scale);
    write_row(grads.d_v, grads.dtype, row * grads.v_stride, dim, work.d_v + r * dim_padded, 1.0f);
  }
}

template <class E>
void finish(const AttentionBwdHead& head, const DqSums& sums, int64_t begin, int64_t end,
            const AttentionGrads& grads) noexcept {
  const int64_t dim = head.forward.dim, dim_padded = round_up(dim, E::V::kLanes);
  for (int64_t i = begin; i < end; ++i) {
    float total[256];
    for (int64_t d = 0; d < dim; ++d)
      total[d] = 0.0f;
    for (int32_t s = 0; s < sums.count; ++s) {
      const auto* sum =
          reinterpret_cast<const float*>(static_cast<const char*>(sums.data) + s * sums.stride) + i * dim_padded;
      for (int64_t d = 0; d < dim; ++d)
        total[d] += sum[d];
    }
    const int64_t row = grads.q_index ? grads.q_index[i] : i;
    write_row(grads.d_q, grads.dtype, row * grads.q_stride, dim, total, head.forward.softmax_scale);
  }
}

template <class E>
int64_t packed_bytes(int64_t queries, int64_t dim) noexcept {
  return (queries + E::V::kLanes - 1) / E::V::kLanes * Group<E>::bytes(dim);
}

template <class E>
int64_t sum_bytes(int64_t queries, int64_t dim) noexcept {
  return round_up(round_up(queries, E::V::kLanes) * round_up(dim, E::V::kLanes) * 4, 64);
}

template <class E>
int64_t scratch_bytes(int64_t dim) noexcept {
  return round_up(Work<E>::bytes(dim), 64);
}

}  // namespace backward

template <class E>
AttentionBwd flash_bwd() {
  return {backward::packed_bytes<E>,  backward::pack<E>, backward::sum_bytes<E>,
          backward::scratch_bytes<E>, backward::run<E>,  backward::finish<E>};
}

}  // namespace
}  // namespace fpsa::kernel
