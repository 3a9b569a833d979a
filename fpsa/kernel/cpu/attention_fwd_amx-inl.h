// Attention forward on AMX tiles: a pipeline over blocks of 64 keys and strips of 32 query rows.
//
// A tile is 16 rows of 64 bytes. Both products work on 2 x 2 accumulator tiles, so every tile that is loaded is used
// twice. Keys and values are packed once per head into whole tiles: a group is as many keys as one tile of P holds in
// a row, and channels are filled up with zeros to whole tiles. Scores, P and accumulators pass through memory, because
// only tile instructions see tiles.
//
// The two products of a strip keep the tile unit about as long busy as its softmax does the vector units. They run at
// the same time because the softmax of one item (strip x block) is dealt out row by row between the tile instructions
// of its neighbours: the scores of the item ahead and the values of the item behind.
//
// Included by attention_fwd_amx.cc, and by a test with an emulation of the tile instructions; everything here has
// internal linkage. An engine E (amx_engines-inl.h) is one of flash_fwd-inl.h's with 16 lanes as far as its softmax
// goes, and supplies
//   Tiles          tile instructions (tiles_amx-inl.h)
//   kStep          elements of a tile row: channels of a step of the first product, keys of one of the second
//   kExactSums     whether the products are sums of int32;  to_f32()  16 of them
//   first_key()    of the neighbouring keys that row i of a value tile holds; P has them at that place in its row
//   dot_scores(), dot_values()   one tile product of each kind
#pragma once

#include <cstdint>

#include "fpsa/kernel/cpu/amx_engines-inl.h"
#include "fpsa/kernel/cpu/amx_layout-inl.h"
#include "fpsa/kernel/cpu/tiles_amx-inl.h"

namespace fpsa::kernel {
namespace {

// Tiles 0 to 3 accumulate (row by row), 4 and 5 hold rows of the left operand, 6 and 7 columns of the right one.
constexpr TileConfig kWholeTiles = {1, 0, {}, {64, 64, 64, 64, 64, 64, 64, 64}, {}, {16, 16, 16, 16, 16, 16, 16, 16},
                                    {}};

// An int32 sum of products of a u8 and an s8 holds this many keys for sure; the sums of a longer row join the
// accumulator on the way.
constexpr int64_t kExactKeys = 65536;
static_assert(kExactKeys * 255 * 128 <= INT32_MAX);

// One strip against one block of keys.
struct Item {
  KeyBlock keys;  // groups of 16, a multiple of a packed group
  int row = 0, rows = 0;
  int slot = 0;       // which half of the score and probability buffers
  bool fold = false;  // whether exact sums must join the accumulator before this item adds to them
};

// All items of a query block: blocks of keys in order, and for each all strips, which share its tiles in the caches.
template <class E>
class ItemWalk {
 public:
  explicit ItemWalk(const QueryBlock& block) : walk_(block), rows_(block.end - block.begin), row_(rows_) {}

  bool next(Item& item) {
    if (row_ >= rows_) {
      if (!next_keys()) return false;
      row_ = 0;
      fold_ = ++block_ % (kExactKeys / kBlockKeys) == 0;
    }
    item = {keys_, row_, rows_ - row_ < kStripRows ? rows_ - row_ : kStripRows, slot_, fold_};
    row_ += kStripRows;
    slot_ ^= 1;
    return true;
  }

 private:
  // Cuts the packed groups into the groups of 16 that the softmax knows.
  bool next_keys() {
    KeyBlock groups;
    if (rows_ == 0 || !walk_.next(groups)) return false;
    keys_.count = 0;
    keys_.partial = groups.partial;
    for (int g = 0; g < groups.count; ++g) {
      for (int lane = 0; lane < E::kStep; lane += kTileLanes, ++keys_.count) {
        keys_.group[keys_.count] = (groups.group[g] * E::kStep + lane) / kTileLanes;
        keys_.mask[keys_.count] = groups.mask[g] >> lane & 0xffff;
      }
    }
    return true;
  }

  KeyWalk<E::kStep> walk_;
  KeyBlock keys_;
  int rows_, row_, slot_ = 0;
  int64_t block_ = -1;
  bool fold_ = false;
};

// Adds a row's exact sums to its accumulator, as multiples of `unit`, and begins them anew.
template <class E>
[[gnu::noinline]] void fold_row(const TileWork<E>& work, int64_t row, float unit) {
  using V = typename E::V;
  float* accumulator = work.accumulator + row * work.width;
  int32_t* integer = work.integer + row * work.width;
  for (int64_t d = 0; d < work.width; d += kTileLanes) {
    V::store(accumulator + d, V::fma(E::to_f32(integer + d), V::set1(unit), V::load(accumulator + d)));
  }
  __builtin_memset(integer, 0, static_cast<size_t>(work.width) * sizeof *integer);
}

template <class E, int kCount, bool kExact>
void softmax_strip(const TilePacked<E>& packed, TileWork<E> work, const Item& item, int from, int to) {
  using V = typename E::V;
  for (int r = from; r < to; ++r) {
    const int row = item.row + r;
    const int64_t at = item.slot * work.kItem + r * kBlockKeys;
    float* score = work.score + at;
    if constexpr (E::kExactSums) FPSA_UNROLL for (int c = 0; c < kBlockKeys; c += kTileLanes) {
        V::store(score + c, E::to_f32(score + c));
      }
    float& m = work.m[row];
    const float before = m;
    softmax_row<E, kCount, kExact>(item.keys, packed.k_scale, work.row_factor[row], score, work.probability + at,
                                   work.exact_probability + at, m, work.accumulator + row * work.width,
                                   work.lane_sum + row * kTileLanes, work.exact + row * work.width, work.width);
    if constexpr (E::kExactSums)
      if (m != before) [[unlikely]]
        fold_row(work, row, power_of_two(before - m));
  }
}

// The softmax of an item in shares, one for each of a number of steps of tile work. Not inlined: it stands between
// the tile instructions of several loops.
template <class E, bool kExact>
class Shares {
 public:
  Shares(const TilePacked<E>& packed, const TileWork<E>& work, const Item& item, int64_t steps)
      : packed_(packed), work_(work), item_(item), steps_(static_cast<int>(steps)) {}

  void deal() {
    for (left_ += item_.rows; left_ >= steps_; left_ -= steps_)
      ++due_;
    if (due_ > done_) to(due_);
  }
  void rest() { to(item_.rows); }

 private:
  [[gnu::noinline]] void to(int end) {
    if (item_.keys.count == kBlockKeys / kTileLanes && !item_.keys.partial)
      softmax_strip<E, kBlockKeys / kTileLanes, kExact>(packed_, work_, item_, done_, end);
    else
      softmax_strip<E, 0, kExact>(packed_, work_, item_, done_, end);
    done_ = end;
  }

  const TilePacked<E>& packed_;
  const TileWork<E>& work_;
  const Item& item_;
  int steps_, left_ = 0, due_ = 0, done_ = 0;
};

// Loads MT tiles of the left and NT of the right operand and hands every pair to `dot`.
template <class T, int MT, int NT, class Dot>
void tile_step(const void* left, int64_t stride, const void* right, int64_t next_right, const Dot& dot) {
  T::template load<4>(left, stride);
  T::template load<6>(right, kTileBytes);
  dot.template operator()<0, 4, 6>();
  if constexpr (NT == 2) {
    T::template load<7>(static_cast<const char*>(right) + next_right, kTileBytes);
    dot.template operator()<1, 4, 7>();
  }
  if constexpr (MT == 2) {
    T::template load<5>(static_cast<const char*>(left) + kTileRows * stride, stride);
    dot.template operator()<2, 5, 6>();
    if constexpr (NT == 2) dot.template operator()<3, 5, 7>();
  }
}

// Stores MT x NT accumulator tiles at `out`; row tiles lie 16 rows apart, column tiles side by side.
template <class T, int MT, int NT>
void store_tiles(void* out, int64_t stride) {
  char* at = static_cast<char*>(out);
  T::template store<0>(at, stride);
  if constexpr (NT == 2) T::template store<1>(at + kTileBytes, stride);
  if constexpr (MT == 2) {
    T::template store<2>(at + kTileRows * stride, stride);
    if constexpr (NT == 2) T::template store<3>(at + kTileRows * stride + kTileBytes, stride);
  }
}

template <class T, int MT, int NT>
void load_tiles(const void* in, int64_t stride) {
  const char* at = static_cast<const char*>(in);
  T::template load<0>(at, stride);
  if constexpr (NT == 2) T::template load<1>(at + kTileBytes, stride);
  if constexpr (MT == 2) {
    T::template load<2>(at + kTileRows * stride, stride);
    if constexpr (NT == 2) T::template load<3>(at + kTileRows * stride + kTileBytes, stride);
  }
}

// First product of an item: its score buffer becomes q k^T, unscaled.
template <class E, int MT, class Shares>
void tile_scores(const TilePacked<E>& packed, const TileWork<E>& work, const Item& item, Shares& shares) {
  using T = typename E::Tiles;
  constexpr auto kDot = []<int kC, int kA, int kB>() { E::template dot_scores<kC, kA, kB>(); };
  constexpr int64_t kTile = TilePacked<E>::kTileElements;
  const int64_t stride = work.q_width * static_cast<int64_t>(sizeof(typename E::Element));
  const typename E::Element* q = work.q + item.row * work.q_width;
  float* score = work.score + item.slot * work.kItem;
  for (int c = 0; c < item.keys.count; c += 2) {
    const typename E::Element* k = packed.k + item.keys.group[c] * packed.steps * kTile;
    T::template zero<0>();
    T::template zero<1>();
    if constexpr (MT == 2) {
      T::template zero<2>();
      T::template zero<3>();
    }
    for (int64_t s = 0; s < packed.steps; ++s) {
      tile_step<T, MT, 2>(q + s * E::kStep, stride, k + s * kTile, packed.steps * kTileSize, kDot);
      shares.deal();
    }
    store_tiles<T, MT, 2>(score + c * kTileLanes, kBlockKeys * 4);
  }
}

// Second product of an item for NT tiles of channels: `sums`, which are those of its rows, gain P v. `p` are the
// probabilities of its slot.
template <class E, int MT, int NT, class Shares>
void tile_values(const TilePacked<E>& packed, const Item& item, const typename E::Element* p, char* sums,
                 int64_t stride, int64_t channel_tile, Shares& shares) {
  using T = typename E::Tiles;
  constexpr auto kDot = []<int kC, int kA, int kB>() { E::template dot_values<kC, kA, kB>(); };
  constexpr int kKeyTiles = TilePacked<E>::kKeyTiles;
  load_tiles<T, MT, NT>(sums + channel_tile * kTileBytes, stride);
  for (int c = 0; c < item.keys.count; c += kKeyTiles) {
    const auto* v =
        packed.v + item.keys.group[c] / kKeyTiles * packed.value_group + channel_tile * packed.kTileElements;
    tile_step<T, MT, NT>(p + c * kTileLanes, kBlockKeys * static_cast<int64_t>(sizeof *p), v, kTileSize, kDot);
    shares.deal();
  }
  store_tiles<T, MT, NT>(sums + channel_tile * kTileBytes, stride);
}

template <class E, int MT, class Shares>
void tile_values(const TilePacked<E>& packed, const TileWork<E>& work, const Item& item,
                 const typename E::Element* probability, void* sums, Shares& shares) {
  const auto* p = probability + item.slot * work.kItem;
  int64_t t = 0;
  for (; t + 2 <= packed.channel_tiles; t += 2)
    tile_values<E, MT, 2>(packed, item, p, static_cast<char*>(sums), work.width * 4, t, shares);
  if (t < packed.channel_tiles)
    tile_values<E, MT, 1>(packed, item, p, static_cast<char*>(sums), work.width * 4, t, shares);
}

// The pipeline: each turn runs the softmax of one item beside the products of its neighbours. kExact: unrounded P has
// sums of its own.
template <class E, bool kExact>
class Pipeline {
  using Shares = kernel::Shares<E, kExact>;

 public:
  Pipeline(const TilePacked<E>& packed, const TileWork<E>& work) : packed_(packed), work_(work) {}

  void run(const QueryBlock& block) {
    ItemWalk<E> walk(block);
    Item items[3];
    Item *ahead = &items[0], *current = &items[1], *behind = &items[2];
    if (!walk.next(*current)) return;
    Item nothing;
    Shares none(packed_, work_, nothing, 1);
    scores(*current, none);
    for (bool more = true, first = true; more; first = false) {
      more = walk.next(*ahead);
      turn(more ? ahead : nullptr, *current, first ? nullptr : behind);
      Item* const free = behind;
      behind = current;
      current = ahead;
      ahead = free;
    }
    values(*behind, none);
  }

 private:
  void turn(const Item* ahead, const Item& current, const Item* behind) {
    // A softmax may rescale the accumulators of its rows, so it must find those of the item behind complete.
    if (behind && behind->row == current.row) {
      Item nothing;
      Shares none(packed_, work_, nothing, 1);
      values(*behind, none);
      behind = nullptr;
    }
    Shares shares(packed_, work_, current, (ahead ? score_steps(*ahead) : 0) + (behind ? value_steps(*behind) : 0));
    if (ahead) scores(*ahead, shares);
    if (behind) values(*behind, shares);
    shares.rest();
  }

  int64_t score_steps(const Item& item) const { return item.keys.count / 2 * packed_.steps; }
  int64_t value_steps(const Item& item) const {
    return item.keys.count / TilePacked<E>::kKeyTiles * ((packed_.channel_tiles + 1) / 2) * (kExact ? 2 : 1);
  }

  void scores(const Item& item, Shares& shares) {
    if (item.rows > kTileRows)
      tile_scores<E, 2>(packed_, work_, item, shares);
    else
      tile_scores<E, 1>(packed_, work_, item, shares);
  }
  void values(const Item& item, Shares& shares) {
    if constexpr (E::kExactSums)
      for (int row = item.row; item.fold && row < item.row + item.rows; ++row)
        fold_row(work_, row, 1.0f);
    if (item.rows > kTileRows)
      values<2>(item, shares);
    else
      values<1>(item, shares);
  }
  template <int MT>
  void values(const Item& item, Shares& shares) {
    tile_values<E, MT>(packed_, work_, item, work_.probability, work_.sums(item.row), shares);
    if constexpr (kExact)
      tile_values<E, MT>(packed_, work_, item, work_.exact_probability, work_.exact + item.row * work_.width, shares);
  }

  const TilePacked<E>& packed_;
  const TileWork<E>& work_;
};

// Tiles are configured per thread; they are given back because other libraries on this thread configure them too.
template <class E>
void tile_run(const AttentionHead& head, const void* packed_memory, const QueryBlock& block, const AttentionOut& out,
              void* scratch) noexcept {
  const TilePacked<E> packed(const_cast<void*>(packed_memory), head.keys, head.dim);
  const TileWork<E> work(scratch, head.dim);
  const bool exact = E::kE4m3 && out.exact;
  tile_start<E>(head, block, work, exact);
  E::Tiles::configure(kWholeTiles);
  if (exact)
    Pipeline<E, E::kE4m3>(packed, work).run(block);
  else
    Pipeline<E, false>(packed, work).run(block);
  E::Tiles::release();
  if constexpr (E::kExactSums)
    for (int row = 0; row < block.end - block.begin; ++row)
      fold_row(work, row, 1.0f);
  finish<E>(head, block, out, work, work.width);
}

template <class E>
AttentionFwd tile_flash_fwd() {
  return {tile_packed_bytes<E>, tile_pack<E>, tile_scratch_bytes<E>, tile_run<E>};
}

}  // namespace
}  // namespace fpsa::kernel
