// What each thread of a block, or of the blocks of a cluster, knows to have happened before: vector clocks.
//
// A thread's own time moves on with each release. Its clock says, of every thread, up to which time it has heard of
// what that one did: by a phase of an mbarrier that it waited for, a named barrier, a barrier of its warp or of the
// cluster. What one thread wrote reaches another only if that one's clock has come to the time of the write. Shuffles,
// votes and matrix stores of a warp order nothing, though all 32 threads meet there; nor does an arrival at another
// block's mbarrier, whose scope is the block (ptx/cluster.h).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace fpsa::kernel::cuda::emulation {

class Order {
 public:
  using Clock = std::vector<uint32_t>;  // by thread; empty: nothing

  /// Threads are numbered from 0; those of several blocks one block after the other.
  explicit Order(int threads);

  /// The time of what a thread does now.
  uint32_t now(int thread) const { return of(thread)[static_cast<size_t>(thread)]; }
  /// Whether a thread knows what another did at a time.
  bool knows(int thread, int other, uint32_t time) const { return of(thread)[static_cast<size_t>(other)] >= time; }

  /// All that the thread did and knows goes into a clock that others acquire.
  void release(int thread, Clock& into);
  void acquire(int thread, const Clock& from);
  /// `count` threads from `first` tell each other all.
  void meet(int first, int count);

 private:
  const Clock& of(int thread) const { return clocks_[static_cast<size_t>(thread)]; }

  std::vector<Clock> clocks_;
};

/// The clocks of a barrier that ends one phase after the other. Who waits for a phase knows what was released into it
/// and into those before.
class PhaseClocks {
 public:
  void arrive(Order& order, int thread) { order.release(thread, arriving_); }
  void end(uint64_t phase) { ended_[phase % 2] = arriving_; }
  void wait(Order& order, int thread, uint64_t phase) const { order.acquire(thread, ended_[phase % 2]); }

 private:
  Order::Clock arriving_;
  std::array<Order::Clock, 2> ended_;
};

}  // namespace fpsa::kernel::cuda::emulation
