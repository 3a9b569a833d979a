#include "fpsa/kernel/cuda/emulation/warp.h"

#include <algorithm>
#include <cstring>

#include "fpsa/kernel/cuda/emulation/block.h"

namespace fpsa::kernel::cuda::emulation {

template <class Finish>
Warp::Lane Warp::meet(const char* what, Lane mine, Site site, Finish finish) {
  const auto lane = static_cast<size_t>(block_->self() % 32);
  if (arrived_ == 0) {
    doing_ = what;
    site_ = site;
  } else if (std::strcmp(doing_, what) != 0 || site_.line != site.line) {
    block_->fail(site, "the warp diverges: ", what, ", while other threads are at ", doing_, " in line ", site_.line);
  }
  given_[lane] = mine;
  const uint64_t generation = generation_;
  if (++arrived_ == 32) {
    finish();
    arrived_ = 0;
    ++generation_;
    block_->notify(this);
  } else {
    while (generation_ == generation)
      block_->block_on(this, {what, 32, "threads of warp", static_cast<uint32_t>(index_), site});
  }
  return got_[lane];
}

void Warp::sync(Site site) {
  meet("sync_warp", {}, site, [this] { block_->order().meet(block_->number(index_ * 32), 32); });
}

bool Warp::elect(Site site) {
  return meet("elect_one", {}, site, [this] {
           const uint64_t chosen = block_->draw(32);
           for (size_t i = 0; i < 32; ++i)
             got_[i].address = i == chosen;
         }).address != 0;
}

uint32_t Warp::shuffle_xor(uint32_t value, int mask, Site site) {
  return meet("shuffle_xor", {value, {static_cast<uint32_t>(mask)}}, site,
              [this] {
                for (size_t i = 0; i < 32; ++i)
                  got_[i].address = given_[i ^ given_[i].values[0]].address;
              })
      .address;
}

bool Warp::any(bool condition, Site site) {
  return meet("any_in_warp", {condition, {}}, site, [this] {
           uint32_t any = 0;
           for (const Lane& lane : given_)
             any |= lane.address;
           for (Lane& lane : got_)
             lane.address = any;
         }).address != 0;
}

uint32_t Warp::max(uint32_t value, Site site) {
  return meet("max_in_warp", {value, {}}, site, [this] {
           uint32_t largest = 0;
           for (const Lane& lane : given_)
             largest = std::max(largest, lane.address);
           for (Lane& lane : got_)
             lane.address = largest;
         }).address;
}

// In both: lane l names row l % 8 of matrix l / 8, and holds elements 2 (l % 4), 2 (l % 4) + 1 of row l / 4 of each.
void Warp::store_matrix(uint32_t row, const uint32_t (&values)[4], Site site) {
  if (row % 16 != 0) block_->fail(site, "stmatrix: row at shared address ", row, ": expected a multiple of 16");
  // Each row's four registers come from four threads, all of which write; the history names the row's owner.
  const Lane mine = meet("store_matrix_x4", {row, {values[0], values[1], values[2], values[3]}}, site, [this] {
    for (size_t owner = 0; owner < 32; ++owner)
      for (size_t piece = 0; piece < 4; ++piece)
        got_[owner].values[piece] = given_[owner % 8 * 4 + piece].values[owner / 8];
  });
  // Each row at a time of its own: that others see it takes a barrier of the warp.
  block_->shared().write(row, mine.values.data(), 16, site);
}

void Warp::load_matrix(uint32_t row, uint32_t (&values)[4], Site site) {
  if (row % 16 != 0) block_->fail(site, "ldmatrix: row at shared address ", row, ": expected a multiple of 16");
  Lane mine{row, {}};
  block_->shared().read(row, mine.values.data(), 16, site);
  const Lane result = meet("load_matrix_x4", mine, site, [this] {
    for (size_t lane = 0; lane < 32; ++lane)
      for (size_t matrix = 0; matrix < 4; ++matrix)
        got_[lane].values[matrix] = given_[matrix * 8 + lane / 4].values[lane % 4];
  });
  for (size_t i = 0; i < 4; ++i)
    values[i] = result.values[i];
}

void Warp::set_registers(int registers, bool raise, Site site) {
  meet(raise ? "setmaxnreg.inc" : "setmaxnreg.dec", {}, site, [] {});
  if (block_->self() % 32 == 0) block_->registers().set(index_, registers, raise, site);
  meet("setmaxnreg end", {}, site, [] {});
}

RegisterPool::RegisterPool(Block& block)
    : block_(block), free_(65536 - block.launch().registers * block.launch().threads) {
  of_thread_.fill(block.launch().registers);
}

void RegisterPool::set(int warp, int registers, bool raise, Site site) {
  if (registers % 8 != 0 || registers < 24 || registers > 256)
    block_.fail(site, "setmaxnreg of ", registers, ": expected a multiple of 8 from 24 to 256");
  int& mine = of_thread_[static_cast<size_t>(warp)];
  if (raise ? registers < mine : registers > mine)
    block_.fail(site, "setmaxnreg from ", mine, " to ", registers, " in the wrong direction");
  while (free_ < (registers - mine) * 32)
    block_.block_on(this,
                    {"registers", static_cast<uint32_t>(registers), "for warp", static_cast<uint32_t>(warp), site});
  free_ -= (registers - mine) * 32;
  mine = registers;
  block_.notify(this);
}

void RegisterPool::check_warpgroups_at_exit() const {
  for (int warp = 0; warp < block_.threads() / 32; ++warp) {
    const int mine = of_thread_[static_cast<size_t>(warp)], first = of_thread_[static_cast<size_t>(warp / 4 * 4)];
    if (mine != first)
      block_.fail_for(warp * 32, {}, "setmaxnreg left its warp with ", mine,
                      " registers a thread and the first warp of its warpgroup with ", first);
  }
}

}  // namespace fpsa::kernel::cuda::emulation
