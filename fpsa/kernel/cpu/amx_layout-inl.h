// Memory of the AMX kernels: the packed form of a head, and the scratch of a call. Internal linkage; for ISA files
// only. E is an engine of amx_engines-inl.h.
#pragma once

#include <cstdint>

#include "fpsa/kernel/attention.h"
#include "fpsa/kernel/cpu/flash_fwd-inl.h"

namespace fpsa::kernel {
namespace {

constexpr int kTileRows = 16, kTileBytes = 64, kTileSize = kTileRows * kTileBytes;
constexpr int kTileLanes = 16;  // F32 or int32 elements of a tile row
constexpr int kStripRows = 2 * kTileRows;
static_assert(kMaxQueryRows % kStripRows == 0 && kBlockKeys == 64);

inline int64_t tiles_of(int64_t elements, int64_t per_tile) {
  return (elements + per_tile - 1) / per_tile;
}

// The packed form of one head, in whole tiles; channels and keys beyond the last one are zeros. A group is E::kStep
// keys. Row p, column n of the right operand of a tile product holds elements p * kBundle .. of the summed dimension.
//   k  [group][kStep / 16 key tiles][steps over D][tile]
//   v  [group][channel tiles][tile], keys in the order of E::first_key()
template <class E>
struct TilePacked {
  using Element = typename E::Element;
  static constexpr int kBundle = 4 / sizeof(Element);
  static constexpr int kTileElements = kTileSize / sizeof(Element);
  static constexpr int kKeyTiles = E::kStep / kTileLanes;

  TilePacked(void* memory, int64_t keys, int64_t dim)
      : steps(tiles_of(dim, E::kStep)),
        channel_tiles(tiles_of(dim, kTileLanes)),
        key_group(kKeyTiles * steps * kTileElements),
        value_group(channel_tiles * kTileElements),
        k(static_cast<Element*>(memory)),
        v(k + tiles_of(keys, E::kStep) * key_group),
        k_scale(reinterpret_cast<float*>(v + tiles_of(keys, E::kStep) * value_group)) {}

  static int64_t bytes(int64_t keys, int64_t dim) {
    const int64_t tiles = kKeyTiles * tiles_of(dim, E::kStep) + tiles_of(dim, kTileLanes);
    return tiles_of(keys, E::kStep) * (tiles * kTileSize + E::kStep * 4);
  }

  int64_t steps, channel_tiles, key_group, value_group;  // the groups in elements
  Element *k, *v;
  float* k_scale;
};

template <class E>
int64_t tile_packed_bytes(int64_t keys, int64_t dim) noexcept {
  return round_up(TilePacked<E>::bytes(keys, dim), 64);
}

template <class E>
const typename E::Input* input_row(const RowsView& rows, int64_t position) {
  return reinterpret_cast<const typename E::Input*>(row_bytes(rows, position, sizeof(typename E::Input)));
}

// kBundle elements as one 4-byte column of a right operand: element(0) lowest.
template <class E, class Element>
uint32_t bundle(const Element& element) {
  constexpr int kBundle = TilePacked<E>::kBundle;
  uint32_t bits = 0;
  FPSA_UNROLL for (int j = 0; j < kBundle; ++j) {
    bits |= static_cast<uint32_t>(E::expand(element(j))) << (32 / kBundle * j);
  }
  return bits;
}

// A key is a column of its key tile: as many channels in a row as go into a bundle.
template <class E>
void pack_key(const typename E::Input* key, int64_t dim, void* tiles) {
  constexpr int kBundle = TilePacked<E>::kBundle;
  uint32_t* column = static_cast<uint32_t*>(tiles);
  for (int64_t d = 0; d < dim; d += kBundle, column += kTileLanes)
    *column = bundle<E>([&](int j) { return key[d + j]; });
}

// Some keys are a row in every value tile.
template <class E>
void pack_values(const typename E::Input* const* v, int64_t dim, void* tiles) {
  uint32_t* row = static_cast<uint32_t*>(tiles);
  for (int64_t d = 0; d < dim; d += 8) {
    uint32_t* out = row + d / kTileLanes * (kTileSize / 4) + d % kTileLanes;
    for (int n = 0; n < 8; ++n)
      out[n] = bundle<E>([&](int j) { return v[j][d + n]; });
  }
}

template <class E>
void tile_pack(const AttentionHead& head, int64_t begin, int64_t end, void* memory) noexcept {
  static constexpr typename E::Input kZeros[256] = {};
  const TilePacked<E> packed(memory, head.keys, head.dim);
  for (int64_t first = begin; first < end; first += E::kStep) {
    const int count = static_cast<int>(end - first < E::kStep ? end - first : E::kStep);
    auto *k = packed.k + first / E::kStep * packed.key_group, *v = packed.v + first / E::kStep * packed.value_group;
    __builtin_memset(k, 0, static_cast<size_t>(packed.key_group) * sizeof *k);
    __builtin_memset(v, 0, static_cast<size_t>(packed.value_group) * sizeof *v);
    for (int i = 0; i < E::kStep; ++i)
      packed.k_scale[first + i] = E::kScales && i < count ? head.k_scale[first + i] : 0.0f;
    for (int i = 0; i < count; ++i)
      pack_key<E>(input_row<E>(head.k, first + i), head.dim,
                  k + i / kTileLanes * packed.steps * packed.kTileElements + i % kTileLanes * packed.kBundle);
    for (int row = 0; row < kTileRows; ++row) {
      const typename E::Input* values[TilePacked<E>::kBundle];
      for (int j = 0; j < packed.kBundle; ++j) {
        const int i = E::first_key(row) + j;
        values[j] = i < count ? input_row<E>(head.v, first + i) : kZeros;
      }
      pack_values<E>(values, head.dim, v + row * kTileLanes * packed.kBundle);
    }
  }
}

// Scratch of one call. Every row of a tile is a cache line. Rows that fill up a tile hold zeros in q and anything
// elsewhere: they meet no other row.
template <class E>
struct TileWork {
  using Element = typename E::Element;
  static constexpr int kItem = kStripRows * kBlockKeys;  // scores or probabilities of one strip and block

  TileWork(void* memory, int64_t dim)
      : width(round_up(dim, kTileLanes)),
        q_width(round_up(dim, E::kStep)),
        accumulator(static_cast<float*>(memory)),
        lane_sum(accumulator + kMaxQueryRows * width),
        score(lane_sum + kMaxQueryRows * kTileLanes),
        row_factor(score + 2 * kItem),
        m(row_factor + kMaxQueryRows),
        exact(m + kMaxQueryRows),
        integer(reinterpret_cast<int32_t*>(exact + exact_floats(width))),
        probability(reinterpret_cast<Element*>(integer + integers(width))),
        q(probability + 2 * kItem),
        exact_probability(q + kMaxQueryRows * q_width) {}

  static int64_t bytes(int64_t dim) {
    const int64_t width = round_up(dim, kTileLanes);
    const int64_t words = kMaxQueryRows * (width + kTileLanes + 2) + 2 * kItem + exact_floats(width) + integers(width);
    const int64_t elements = (E::kE4m3 ? 4 : 2) * kItem + kMaxQueryRows * round_up(dim, E::kStep);
    return words * 4 + elements * static_cast<int64_t>(sizeof(Element));
  }

  // E4M3 entries have room for the sums of unrounded P too.
  static constexpr int64_t exact_floats(int64_t width) { return E::kE4m3 ? kMaxQueryRows * width : 0; }
  // Entries with an exact second product sum it in int32, which joins the accumulator now and then.
  static constexpr int64_t integers(int64_t width) { return E::kExactSums ? kMaxQueryRows * width : 0; }

  // What the second product of the rows from `row` on adds to.
  void* sums(int64_t row) const {
    if constexpr (E::kExactSums) return integer + row * width;
    return accumulator + row * width;
  }

  int64_t width, q_width;
  float *accumulator, *lane_sum, *score, *row_factor, *m, *exact;
  int32_t* integer;
  Element *probability, *q, *exact_probability;
};

template <class E>
int64_t tile_scratch_bytes(int64_t, int64_t dim) noexcept {
  return round_up(TileWork<E>::bytes(dim), 64);
}

template <class E>
void tile_start(const AttentionHead& head, const QueryBlock& block, const TileWork<E>& work, bool exact) {
  const float to_log2 = static_cast<float>(1.4426950408889634 * head.softmax_scale);
  const int64_t rows = block.end - block.begin, whole_rows = round_up(rows, kTileRows);
  __builtin_memset(work.q, 0, static_cast<size_t>(whole_rows * work.q_width) * sizeof *work.q);
  __builtin_memset(work.accumulator, 0, static_cast<size_t>(whole_rows * work.width) * sizeof(float));
  if (exact) __builtin_memset(work.exact, 0, static_cast<size_t>(whole_rows * work.width) * sizeof(float));
  __builtin_memset(work.sums(0), 0, static_cast<size_t>(whole_rows * work.width) * sizeof(float));
  __builtin_memset(work.lane_sum, 0, static_cast<size_t>(rows * kTileLanes) * sizeof(float));
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t position = block.begin + r;
    const auto* q = input_row<E>(head.q, position);
    for (int64_t d = 0; d < head.dim; ++d)
      work.q[r * work.q_width + d] = E::expand(q[d]);
    work.row_factor[r] = E::kScales ? to_log2 * head.q_scale[position] : to_log2;
    work.m[r] = kLowest;
  }
}

}  // namespace
}  // namespace fpsa::kernel
