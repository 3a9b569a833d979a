// mbarriers and named barriers of a block.
#pragma once

#include <array>
#include <bitset>
#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "fpsa/kernel/cuda/emulation/order.h"
#include "fpsa/kernel/cuda/emulation/site.h"

namespace fpsa::kernel::cuda::emulation {

class Block;

class Barriers {
 public:
  explicit Barriers(Block& block);

  // mbarriers, by the current thread.
  void init(uint32_t address, uint32_t arrivals, Site site);
  void fence_init();
  void arrive(uint32_t address, uint32_t expect_bytes, Site site) { arrive_from(block_, address, expect_bytes, site); }
  void wait(uint32_t address, uint32_t parity, Site site);
  // By the current thread of a block of the cluster.
  void arrive_from(const Block& from, uint32_t address, uint32_t expect_bytes, Site site);

  // mbarriers, by a copy of a block of the cluster: its bytes belong to the phase; some of them have landed. Those of
  // another block may come before this one expects them, those of its own may not.
  void expect_landing(const Block& from, uint32_t address, uint32_t to, uint32_t bytes, Site site);
  void complete_bytes(const Block& from, uint32_t address, uint32_t bytes, int thread, Site site);

  /// Phases of the barrier that the thread knows to have ended.
  uint64_t observed(int thread, uint32_t address) const;

  /// Named barrier 0 to 15; `wait` or only arrive.
  void named(int barrier, int threads, bool wait, Site site);
  /// Barriers in the middle of a phase.
  void check_idle_at_exit();

 private:
  struct Mbarrier {
    uint32_t arrivals = 0, pending = 0;
    int64_t bytes = 0;  // expected and not landed
    uint64_t phase = 0;
    int owner = -1;
    bool fenced = false;
    uint64_t made_at = 0, made_at_of_cluster = 0;  // barriers of the block and of the cluster before
    std::vector<std::pair<uint32_t, uint32_t>> landings;
    PhaseClocks clocks;
  };
  struct Named {
    int threads = 0, arrived = 0;
    uint64_t generation = 0;
    std::bitset<1024> who;
    PhaseClocks clocks;
  };
  Mbarrier& find(const Block& from, uint32_t address, Site site);
  void check_bytes(const Mbarrier& barrier, uint32_t address, const Block& from, int thread, Site site) const;
  void end_phase_if_complete(uint32_t address, Mbarrier& barrier);

  Block& block_;
  std::map<uint32_t, Mbarrier> mbarriers_;
  std::vector<std::map<uint32_t, uint64_t>> observed_;   // by thread
  std::vector<std::map<uint32_t, uint32_t>> last_wait_;  // parity, by thread
  std::array<Named, 16> named_;
};

}  // namespace fpsa::kernel::cuda::emulation
