// The blocks of a cluster in emulation, which run at the same time, and the barrier that all their threads share.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <vector>

#include "fpsa/kernel/cuda/emulation/order.h"
#include "fpsa/kernel/cuda/emulation/run.h"
#include "fpsa/kernel/cuda/emulation/site.h"

namespace fpsa::kernel::cuda::emulation {

class Block;

class Cluster {
 public:
  /// Blocks `first` to first + launch.cluster - 1 of the grid.
  Cluster(const Launch& launch, const Options& options, int first, const std::function<void()>& kernel, Report& report);
  ~Cluster();

  /// One of the blocks goes on for some steps; false when all have ended.
  ///   Errors    Error of a block; a deadlock, when none of them can go on
  bool advance(uint64_t steps, std::mt19937_64& random);

  /// What the threads of all blocks know, numbered one block after the other.
  Order& order() { return order_; }
  int size() const { return static_cast<int>(blocks_.size()); }
  /// Barriers of the cluster that all threads have arrived at.
  uint64_t generation() const { return generation_; }
  /// The block of this rank, into which another one is about to reach.
  ///   Errors    Error of `from`: no such block, or it has ended
  Block& reach(int rank, const Block& from, Site site);

  // barrier.cluster, by the current thread of a block.
  void arrive(const Block& block, Site site);
  void wait(Block& block, Site site);
  /// A thread that has ended is not waited for any more.
  void thread_ended(const Block& block);

 private:
  enum class Step : uint8_t { kElsewhere, kArrived };
  Step& step_of(const Block& block);
  void end_if_complete();
  [[noreturn]] void deadlock() const;

  Order order_;
  std::vector<std::unique_ptr<Block>> blocks_;
  std::vector<bool> ended_;           // blocks that are done with everything
  std::vector<Step> steps_;           // of each thread of each block
  std::vector<uint64_t> arrived_at_;  // the generation of its last arrival
  int arrived_ = 0, threads_ = 0;     // at the barrier now; not ended
  uint64_t generation_ = 0;
  PhaseClocks clocks_;  // of the barrier
};

}  // namespace fpsa::kernel::cuda::emulation
