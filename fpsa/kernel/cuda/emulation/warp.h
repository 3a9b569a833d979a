// What the 32 threads of a warp do together, and the registers that warps share.
#pragma once

#include <array>
#include <cstdint>

#include "fpsa/kernel/cuda/emulation/site.h"

namespace fpsa::kernel::cuda::emulation {

class Block;

class Warp {
 public:
  Warp(Block& block, int index) : block_(&block), index_(index) {}

  /// What one thread gives and gets.
  struct Lane {
    uint32_t address = 0;
    std::array<uint32_t, 4> values = {};
  };

  void sync(Site site);
  bool elect(Site site);
  uint32_t shuffle_xor(uint32_t value, int mask, Site site);
  bool any(bool condition, Site site);
  uint32_t max(uint32_t value, Site site);
  void store_matrix(uint32_t row, const uint32_t (&values)[4], Site site);
  void load_matrix(uint32_t row, uint32_t (&values)[4], Site site);
  void set_registers(int registers, bool raise, Site site);

 private:
  /// Gives the current thread's part; the last one to come calls finish() for all.
  template <class Finish>
  Lane meet(const char* what, Lane mine, Site site, Finish finish);

  Block* block_;
  int index_;
  const char* doing_ = nullptr;
  Site site_;
  int arrived_ = 0;
  uint64_t generation_ = 0;
  std::array<Lane, 32> given_ = {}, got_ = {};
};

/// The register file of the multiprocessor as setmaxnreg sees it.
class RegisterPool {
 public:
  explicit RegisterPool(Block& block);
  void set(int warp, int registers, bool raise, Site site);
  /// setmaxnreg is for all four warps of a warpgroup or none.
  void check_warpgroups_at_exit() const;

 private:
  Block& block_;
  int free_;
  std::array<int, 32> of_thread_;
};

}  // namespace fpsa::kernel::cuda::emulation
