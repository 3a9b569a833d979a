// Runs a kernel's own source on the CPU, every thread of a block as a fiber, with the instructions of ptx/ done by
// rules written from the PTX ISA document. It is made to catch what hardware punishes, not to be fast:
//   * which thread goes on, when a copy's bytes land and when a matrix product reads its operands is drawn from a seed;
//   * a copy's bytes count as not there until its barrier's phase ends, and a thread may use them only after it has
//     waited for that phase itself;
//   * shared memory knows for each byte who wrote it and how; what ordinary stores wrote reaches a copy or a product
//     only past the writer's fence.proxy.async, and another thread, through either proxy, only past a barrier that both
//     had part in (order.h): a phase of an mbarrier, a named barrier, one of the block or of the warp;
//   * accumulators hold NaN from the product to the wait for it, and A's registers may not change in between;
//   * the blocks of a cluster run at the same time; what one brings to several lands in each at times of their own, and
//     to reach into a block that has ended, or has not been met in a barrier of the cluster, is an error;
//   * no progress, a wait for the wrong phase, a missing arrival, an access out of bounds are errors that name the
//     thread, the barrier and the line of the kernel.
// Global memory has no order here: who reads it sees every earlier write of any block. What blocks tell each other
// through it (ptx/global.h) is noticed to be missing only in a schedule that reads too early, by the bits; that it is a
// release or an acquire is not watched at all.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "fpsa/kernel/cuda/emulation/site.h"

namespace fpsa::kernel::cuda::emulation {

/// What a kernel did that is not allowed.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// A line of a kernel that issues an instruction.
struct Call {
  std::string function;  // of ptx/
  std::string file;
  int line = 0;
  bool operator==(const Call&) const = default;
};

/// A fault put into the kernel without touching its source, for tests that the emulation notices.
struct Mutation {
  enum class Kind {
    kDrop,  // the call does nothing
    kFlip,  // a wait for a phase waits for the other parity; a block of a cluster takes itself for the next one, its
            // arrival goes to the block after the one that is meant, its copy for several leaves it out
    kOwn,   // what goes to other blocks of the cluster goes to this one alone
    kSwap,  // a product exchanges two registers of its fragment
  };
  Kind kind = Kind::kDrop;
  Call call;
};

struct Options {
  uint64_t seed = 1;
  std::optional<Mutation> mutation;
  /// Bits that the accumulator of an E4M3 product keeps below the largest term, truncated; 0: F32, rounded. Tensor
  /// cores of sm_90 are said to keep 13 or 14.
  int accumulator_bits = 0;
};

struct Launch {
  int blocks = 1;
  int threads = 128;          // of a block, a multiple of 32
  int registers = 128;        // of a thread at the start, for setmaxnreg
  uint32_t shared_bytes = 0;  // dynamic
  uint32_t shared_base = 0;   // where they begin; 1024 on sm_90, whose system has the first ones
  int cluster = 1;            // blocks of a cluster
  int together = 1;           // clusters that run at the same time
};

/// What a run met.
struct Report {
  std::vector<Call> calls;  // every line once
};

/// Runs every block of the grid: as many at a time as the launch says, in the order of their indices.
///   Errors    Error, at the first violation; std::invalid_argument for a launch that no device would take
///   Threads   any number of host threads may each run one
Report run(const Launch& launch, const Options& options, const std::function<void()>& kernel);

}  // namespace fpsa::kernel::cuda::emulation
