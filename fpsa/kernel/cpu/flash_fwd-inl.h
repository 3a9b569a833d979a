// Attention forward for CPUs: blocks of keys against register tiles of query rows, softmax on the way.
//
// Keys and values are packed once per head into groups of kLanes keys: in a key group the lanes of a vector are
// keys, in a value group they are channels. A block of keys is any 64 keys' worth of groups, so ranges of visible
// keys cost at most one partial group at each end; a block's keys and values stay in L1 while all query rows of
// the call pass over them, 6 at a time. The running maximum is an integer, so it seldom rises, and rescaling by a
// power of two is exact.
//
// Included by one ISA file per level; everything here has internal linkage. An Engine E supplies
//   V            vector operations (vec_*-inl.h)
//   Input        element type of q, k, v in memory;  Element  type in the packed form
//   kScales      whether q_scale, k_scale and v_scale apply
//   kE4m3        whether probabilities become E4M3 codes
//   kLog2Unit, kLog2Offset   P is summed in units of 2^-kLog2Unit; of that, exp2() is handed kLog2Offset as part of x
//   kBlockKeys   keys of a block;  kKeyExtra  elements of a packed key group beyond its keys
//   expand()     Input -> Element
//   pack_keys(), pack_values()                   one group
//   scores<MR,NC>(), accumulate<MR,NC>()         the two products of a register tile
//   exp2(), put_probabilities()
#pragma once

#include <cstdint>

#include "fpsa/kernel/attention.h"

#define FPSA_UNROLL _Pragma("GCC unroll 8")

namespace fpsa::kernel {
namespace {

constexpr int kRows = 6;              // query rows of a register tile
constexpr int kBlockKeys = 64;        // usual keys of a block: 16 KiB of keys and as much of values at D = 128 in BF16
constexpr float kLowest = -0x1p100f;  // first running maximum: below any score, and differences stay finite

inline int64_t round_up(int64_t n, int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

inline const char* row_bytes(const RowsView& rows, int64_t position, int64_t element_bytes) {
  const int64_t row = rows.index ? rows.index[position] : position;
  return static_cast<const char*>(rows.data) + row * rows.stride * element_bytes;
}

// 2^d for an integer d <= 0.
inline float power_of_two(float d) {
  if (!(d >= -126.0f)) return 0.0f;
  const int32_t bits = (static_cast<int32_t>(d) + 127) << 23;
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

inline uint16_t round_to_bf16(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// Some groups of keys, in order; a mask bit per key of a partial group.
struct KeyBlock {
  int count = 0;
  bool partial = false;
  int32_t group[8];
  uint64_t mask[8];
};

// Cuts ranges of keys into blocks of groups.
template <int kLanes, int kKeys = kBlockKeys>
class KeyWalk {
 public:
  explicit KeyWalk(const QueryBlock& block) : range_(block.ranges), last_(block.ranges + block.range_count) {
    if (range_ != last_) at_ = range_->begin;
  }

  bool next(KeyBlock& block) {
    block.count = 0;
    block.partial = false;
    while (block.count < kKeys / kLanes && range_ != last_) {
      const int32_t group = at_ / kLanes;
      const uint64_t mask = group_mask(group);
      block.group[block.count] = group;
      block.mask[block.count] = mask;
      block.partial |= mask != kAll;
      ++block.count;
    }
    return block.count > 0;
  }

 private:
  static constexpr uint64_t kAll = ~uint64_t{0} >> (64 - kLanes);

  uint64_t group_mask(int32_t group) {
    const int32_t begin = group * kLanes, end = begin + kLanes;
    uint64_t mask = 0;
    while (range_ != last_ && at_ < end) {
      const int32_t stop = range_->end < end ? range_->end : end;
      mask |= (kAll >> (kLanes - (stop - at_))) << (at_ - begin);
      at_ = stop;
      if (at_ == range_->end && ++range_ != last_) at_ = range_->begin;
    }
    return mask;
  }

  const KeyRange *range_, *last_;
  int32_t at_ = 0;
};

// The packed form of one head: key groups, value groups, key scales.
template <class E>
struct Packed {
  static constexpr int kLanes = E::V::kLanes;
  using Element = typename E::Element;

  Packed(void* memory, int64_t keys, int64_t dim)
      : dim_padded(round_up(dim, kLanes)),
        key_group(dim * kLanes + E::kKeyExtra),
        value_group(dim_padded * kLanes),
        k(static_cast<Element*>(memory)),
        v(k + groups(keys) * key_group),
        k_scale(reinterpret_cast<float*>(v + groups(keys) * value_group)) {}

  static int64_t groups(int64_t keys) { return (keys + kLanes - 1) / kLanes; }
  static int64_t bytes(int64_t keys, int64_t dim) {
    const int64_t elements = groups(keys) * (kLanes * (dim + round_up(dim, kLanes)) + E::kKeyExtra);
    return elements * static_cast<int64_t>(sizeof(Element)) + groups(keys) * kLanes * 4;
  }

  int64_t dim_padded, key_group, value_group;
  Element *k, *v;
  float* k_scale;
};

template <class E>
int64_t packed_bytes(int64_t keys, int64_t dim) noexcept {
  return round_up(Packed<E>::bytes(keys, dim), 64);
}

template <class E>
void pack(const AttentionHead& head, int64_t begin, int64_t end, void* memory) noexcept {
  constexpr int kLanes = E::V::kLanes;
  using Input = typename E::Input;
  const Packed<E> packed(memory, head.keys, head.dim);
  for (int64_t first = begin; first < end; first += kLanes) {
    const int count = static_cast<int>(end - first < kLanes ? end - first : kLanes);
    const Input *k[kLanes], *v[kLanes];
    for (int i = 0; i < kLanes; ++i) {
      // Lanes past the last key hold finite values; no mask shows them.
      const int64_t position = first + (i < count ? i : 0);
      k[i] = reinterpret_cast<const Input*>(row_bytes(head.k, position, sizeof(Input)));
      v[i] = reinterpret_cast<const Input*>(row_bytes(head.v, position, sizeof(Input)));
      if (E::kScales) packed.k_scale[first + i] = head.k_scale[position];
    }
    const int64_t group = first / kLanes;
    E::pack_keys(k, head.dim, packed.k + group * packed.key_group);
    E::pack_values(v, head.dim, packed.dim_padded, packed.v + group * packed.value_group);
  }
}

// Scratch of one call.
template <class E>
struct Work {
  using Element = typename E::Element;

  Work(void* memory, int64_t dim, int64_t dim_padded)
      : accumulator(static_cast<float*>(memory)),
        lane_sum(accumulator + kMaxQueryRows * dim_padded),
        score(lane_sum + kMaxQueryRows * E::V::kLanes),
        row_factor(score + kRows * E::kBlockKeys),
        m(row_factor + kMaxQueryRows),
        exact(m + kMaxQueryRows),
        probability(reinterpret_cast<Element*>(exact + exact_floats(dim_padded))),
        q(probability + kRows * E::kBlockKeys),
        exact_probability(q + kMaxQueryRows * dim) {}

  static int64_t bytes(int64_t dim) {
    const int64_t dim_padded = round_up(dim, E::V::kLanes);
    const int64_t floats =
        kMaxQueryRows * (dim_padded + E::V::kLanes + 2) + kRows * E::kBlockKeys + exact_floats(dim_padded);
    const int64_t elements = (E::kE4m3 ? 2 : 1) * kRows * E::kBlockKeys + kMaxQueryRows * dim;
    return floats * 4 + elements * static_cast<int64_t>(sizeof(Element));
  }

  // Entries whose P is coded have room for the sums of unrounded P too.
  static int64_t exact_floats(int64_t dim_padded) { return E::kE4m3 ? kMaxQueryRows * dim_padded : 0; }

  float *accumulator, *lane_sum, *score, *row_factor, *m, *exact;
  Element *probability, *q, *exact_probability;
};

template <class E>
int64_t scratch_bytes(int64_t, int64_t dim) noexcept {
  return round_up(Work<E>::bytes(dim), 64);
}

template <class E, bool kExact>
void start(const AttentionHead& head, const QueryBlock& block, const Work<E>& work, int64_t dim_padded) {
  const float to_log2 = static_cast<float>(1.4426950408889634 * head.softmax_scale);
  const int rows = block.end - block.begin;
  for (int r = 0; r < rows; ++r) {
    const int64_t position = block.begin + r;
    const auto* q = reinterpret_cast<const typename E::Input*>(row_bytes(head.q, position, sizeof(typename E::Input)));
    for (int64_t d = 0; d < head.dim; ++d)
      work.q[r * head.dim + d] = E::expand(q[d]);
    work.row_factor[r] = E::kScales ? to_log2 * head.q_scale[position] : to_log2;
    work.m[r] = kLowest;
  }
  for (int64_t i = 0; i < rows * dim_padded; ++i)
    work.accumulator[i] = 0.0f;
  for (int64_t i = 0; kExact && i < rows * dim_padded; ++i)
    work.exact[i] = 0.0f;
  for (int64_t i = 0; i < rows * E::V::kLanes; ++i)
    work.lane_sum[i] = 0.0f;
}

// Raises the running maximum of a row and rescales what was summed under the old one.
template <class E, bool kExact>
[[gnu::noinline]] void raise_maximum(typename E::V::F top, float& m, float* accumulator, float* lane_sum, float* exact,
                                     int64_t dim_padded) {
  using V = typename E::V;
  const float raised = __builtin_ceilf(V::reduce_max(top));
  const auto factor = V::set1(power_of_two(m - raised));
  for (int64_t d = 0; d < dim_padded; d += V::kLanes)
    V::store(accumulator + d, V::mul(V::load(accumulator + d), factor));
  for (int64_t d = 0; kExact && d < dim_padded; d += V::kLanes)
    V::store(exact + d, V::mul(V::load(exact + d), factor));
  V::store(lane_sum, V::mul(V::load(lane_sum), factor));
  m = raised;
}

// Turns one row of scores into probabilities. kCount > 0: that many groups, all whole; 0: block.count groups.
template <class E, int kCount, bool kExact>
void softmax_row(const KeyBlock& block, const float* k_scale, float row_factor, const float* score,
                 typename E::Element* probability, typename E::Element* exact_probability, float& m, float* accumulator,
                 float* lane_sum, float* exact, int64_t dim_padded) {
  using V = typename E::V;
  using F = typename V::F;
  const int count = kCount > 0 ? kCount : block.count;
  F s[kCount > 0 ? kCount : 8];
  if constexpr (kCount == 0)
    for (F& x : s)
      x = V::set1(0.0f);
  F top = V::set1(kLowest);
  const F factor = V::set1(row_factor);
  FPSA_UNROLL for (int c = 0; c < count; ++c) {
    s[c] = V::mul(V::load(score + c * V::kLanes), factor);
    if constexpr (E::kScales) s[c] = V::mul(s[c], V::load(k_scale + block.group[c] * V::kLanes));
    if constexpr (kCount == 0)
      s[c] = V::select(V::mask(static_cast<uint32_t>(block.mask[c])), s[c], V::set1(-0x1p120f));
    top = V::max(top, s[c]);
  }
  if (V::any_greater(top, V::set1(m))) [[unlikely]]
    raise_maximum<E, kExact>(top, m, accumulator, lane_sum, exact, dim_padded);
  // Codes have a unit (256 P, 255 P) that probabilities get here; the row sum has it too, so it cancels.
  const F offset = V::set1(m - E::kLog2Offset);
  F sum = V::load(lane_sum);
  FPSA_UNROLL for (int c = 0; c < count; ++c) {
    s[c] = E::exp2(V::sub(s[c], offset));
    if constexpr (kCount == 0) s[c] = V::select(V::mask(static_cast<uint32_t>(block.mask[c])), s[c], V::set1(0.0f));
    sum = V::add(sum, s[c]);
    if constexpr (E::kE4m3 && !kExact) s[c] = V::round_e4m3(s[c]);
  }
  V::store(lane_sum, sum);
  if constexpr (kExact) {
    E::template put_probabilities<kCount>(s, count, exact_probability);
    FPSA_UNROLL for (int c = 0; c < count; ++c) {
      s[c] = V::round_e4m3(s[c]);
    }
  }
  E::template put_probabilities<kCount>(s, count, probability);
}

template <class E, int MR, int NC>
void scores_rest(int count, const typename E::Element* q, int64_t dim, const typename E::Element* const* k,
                 float* score) {
  if constexpr (NC > 0) {
    if (count == NC)
      E::template scores<MR, NC>(q, dim, k, score);
    else
      scores_rest<E, MR, NC - 1>(count, q, dim, k, score);
  }
}

template <class E, int MR, int NC>
void accumulate_rest(int count, const typename E::Element* p, const typename E::Element* const* v, int groups,
                     float* accumulator, int64_t dim_padded) {
  if constexpr (NC > 0) {
    if (count == NC)
      E::template accumulate<MR, NC>(p, v, groups, accumulator, dim_padded);
    else
      accumulate_rest<E, MR, NC - 1>(count, p, v, groups, accumulator, dim_padded);
  }
}

// Adds a register tile's probabilities times a block's values to the accumulators, panel after panel of channels.
template <class E, int MR>
void accumulate_block(const typename E::Element* probability, const typename E::Element* const* v, int groups,
                      float* accumulator, int64_t dim_padded) {
  constexpr int kWidth = E::kPanel * E::V::kLanes;
  const typename E::Element* first[8];
  for (int64_t d = 0; d < dim_padded; d += kWidth) {
    for (int g = 0; g < groups; ++g)
      first[g] = v[g] + d * E::kValueStep;
    if (d + kWidth <= dim_padded)
      E::template accumulate<MR, E::kPanel>(probability, first, groups, accumulator + d, dim_padded);
    else
      accumulate_rest<E, MR, E::kPanel - 1>(static_cast<int>((dim_padded - d) / E::V::kLanes), probability, first,
                                            groups, accumulator + d, dim_padded);
  }
}

// One register tile's products of rows `a` with the key groups of a block.
template <class E, int MR>
void score_block(const typename E::Element* a, int64_t dim, const typename E::Element* const* k, int groups,
                 float* score) {
  int c = 0;
  for (; c + E::kPanel <= groups; c += E::kPanel)
    E::template scores<MR, E::kPanel>(a, dim, k + c, score + c * E::V::kLanes);
  scores_rest<E, MR, E::kPanel - 1>(groups - c, a, dim, k + c, score + c * E::V::kLanes);
}

// One register tile of MR rows over one block of keys.
template <class E, int MR, bool kExact>
void tile(const AttentionHead& head, const Packed<E>& packed, const Work<E>& work, const KeyBlock& block, int row) {
  constexpr int kLanes = E::V::kLanes;
  float* accumulator = work.accumulator + row * packed.dim_padded;
  float* exact = kExact ? work.exact + row * packed.dim_padded : nullptr;
  const typename E::Element *k[8], *v[8];
  for (int c = 0; c < block.count; ++c) {
    k[c] = packed.k + block.group[c] * packed.key_group;
    v[c] = packed.v + block.group[c] * packed.value_group;
  }
  score_block<E, MR>(work.q + row * head.dim, head.dim, k, block.count, work.score);

  const bool whole = block.count == E::kBlockKeys / kLanes && !block.partial;
  for (int r = 0; r < MR; ++r) {
    auto softmax = whole ? softmax_row<E, E::kBlockKeys / kLanes, kExact> : softmax_row<E, 0, kExact>;
    softmax(block, packed.k_scale, work.row_factor[row + r], work.score + r * E::kBlockKeys,
            work.probability + r * E::kBlockKeys, work.exact_probability + r * E::kBlockKeys, work.m[row + r],
            accumulator + r * packed.dim_padded, work.lane_sum + (row + r) * kLanes,
            kExact ? exact + r * packed.dim_padded : nullptr, packed.dim_padded);
  }
  accumulate_block<E, MR>(work.probability, v, block.count, accumulator, packed.dim_padded);
  if constexpr (kExact) accumulate_block<E, MR>(work.exact_probability, v, block.count, exact, packed.dim_padded);
}

template <class E, int MR, bool kExact>
void tile_rest(int rows, const AttentionHead& head, const Packed<E>& packed, const Work<E>& work, const KeyBlock& block,
               int row) {
  if constexpr (MR > 0) {
    if (rows == MR)
      tile<E, MR, kExact>(head, packed, work, block, row);
    else
      tile_rest<E, MR - 1, kExact>(rows, head, packed, work, block, row);
  }
}

// One row of sums to memory.
template <class E>
void write_row(const AttentionHead& head, Dtype dtype, const float* accumulator, float inverse, void* out) {
  for (int64_t d = 0; d < head.dim; ++d) {
    const float value = accumulator[d] * inverse * (E::kScales ? head.v_scale[d] : 1.0f);
    if (dtype == Dtype::kF32)
      static_cast<float*>(out)[d] = value;
    else
      static_cast<uint16_t*>(out)[d] = round_to_bf16(value);
  }
}

// Asks for the keys and values that lie behind a block, one share of them for each register tile of the call: from
// beyond the L2 they would come too late otherwise. Sparse ranges mostly go on where they are, too. g++ drops calls of
// a function that only prefetches, hence the attribute.
template <class E>
[[gnu::always_inline]] inline void prefetch_behind(const Packed<E>& packed, const KeyBlock& block, int64_t keys,
                                                   int row) {
  constexpr int kTiles = kMaxQueryRows / kRows, kLine = 64;
  constexpr int64_t kGroups = E::kBlockKeys / E::V::kLanes;
  const int64_t next = block.group[block.count - 1] + 1, left = packed.groups(keys) - next;
  const int64_t groups = left < kGroups ? left : kGroups;
  auto share = [&](const typename E::Element* from, int64_t elements) {
    const char* bytes = reinterpret_cast<const char*>(from);
    const int64_t lines = elements * static_cast<int64_t>(sizeof(typename E::Element)) / kLine;
    const int64_t size = (lines + kTiles - 1) / kTiles, first = row / kRows * size;
    for (int64_t line = first; line < first + size && line < lines; ++line)
      __builtin_prefetch(bytes + line * kLine, 0, 2);
  };
  share(packed.k + next * packed.key_group, groups * packed.key_group);
  share(packed.v + next * packed.value_group, groups * packed.value_group);
}

template <class E, class W>
void finish(const AttentionHead& head, const QueryBlock& block, const AttentionOut& out, const W& work,
            int64_t dim_padded) {
  using V = typename E::V;
  const bool empty = block.range_count == 0;
  const int64_t element_bytes = out.dtype == Dtype::kF32 ? 4 : 2;
  const float* exact = E::kE4m3 ? work.exact : work.accumulator;
  for (int r = 0; r < block.end - block.begin; ++r) {
    const int64_t row = out.index ? out.index[block.begin + r] : block.begin + r;
    const float sum = V::reduce_add(V::load(work.lane_sum + r * V::kLanes));
    const float inverse = empty ? 0.0f : 1.0f / sum;
    write_row<E>(head, out.dtype, work.accumulator + r * dim_padded, inverse,
                 static_cast<char*>(out.out) + row * out.stride * element_bytes);
    if (out.exact)
      write_row<E>(head, out.dtype, exact + r * dim_padded, inverse,
                   static_cast<char*>(out.exact) + row * out.exact_stride * element_bytes);
    const float m = empty ? -__builtin_inff() : work.m[r];
    if (out.row_max) out.row_max[row] = m;
    if (out.lse) {
      const double log2_sum = empty ? 0.0 : __builtin_log2(static_cast<double>(sum)) - E::kLog2Unit;
      out.lse[row] = static_cast<float>((m + log2_sum) * 0.6931471805599453);
    }
  }
}

template <class E, bool kExact>
void run_rows(const AttentionHead& head, const Packed<E>& packed, const QueryBlock& block, const Work<E>& work) {
  start<E, kExact>(head, block, work, packed.dim_padded);
  const int rows = block.end - block.begin;
  KeyWalk<E::V::kLanes, E::kBlockKeys> walk(block);
  KeyBlock keys;
  while (walk.next(keys)) {
    int row = 0;
    for (; row + kRows <= rows; row += kRows) {
      prefetch_behind(packed, keys, head.keys, row);
      tile<E, kRows, kExact>(head, packed, work, keys, row);
    }
    tile_rest<E, kRows - 1, kExact>(rows - row, head, packed, work, keys, row);
  }
}

template <class E>
void run(const AttentionHead& head, const void* packed_memory, const QueryBlock& block, const AttentionOut& out,
         void* scratch) noexcept {
  const Packed<E> packed(const_cast<void*>(packed_memory), head.keys, head.dim);
  const Work<E> work(scratch, head.dim, packed.dim_padded);
  if (E::kE4m3 && out.exact)
    run_rows<E, E::kE4m3>(head, packed, block, work);
  else
    run_rows<E, false>(head, packed, block, work);
  finish<E>(head, block, out, work, packed.dim_padded);
}

template <class E>
AttentionFwd flash_fwd() {
  return {packed_bytes<E>, pack<E>, scratch_bytes<E>, run<E>};
}

}  // namespace
}  // namespace fpsa::kernel
