// What this machine could do at most: the rate of the multiply-add instructions that kernels use, on registers only,
// and the bandwidth of memory. Kernels are judged against these, measured in the same run.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "fpsa/app/bench_sampler.h"
#include "fpsa/kernel/table.h"

namespace fpsa::app::bench {

/// A loop of one instruction on fixed registers, with enough accumulators to hide its latency.
struct PeakLoop {
  std::string_view name;   // "vdpbf16ps zmm"
  int64_t operations = 0;  // multiplications and additions of one iteration
  void (*run)(int64_t iterations) = nullptr;
  bool (*supported)() = nullptr;  // by processor and operating system
};

/// Every loop of this build, those this machine lacks included.
std::span<const PeakLoop> peak_loops();

/// The loop of the instruction that does the products of an entry of this level and dtype; null for the reference and
/// for INT8 in words, whose products take two instructions.
const PeakLoop* peak_loop_of(kernel::Isa isa, kernel::Dtype dtype);

/// Rows and keys that an entry always computes together, visible or not.
struct WorkUnit {
  int64_t rows = 1, keys = 1;
};
WorkUnit work_unit_of(const kernel::AttentionFwdEntry& entry);

struct PeakRate {
  double rate = 0;  // operations per second, all threads together
  Timing timing;
};

/// Runs a loop on so many threads at the same time.
///   Requires  loop.supported()
PeakRate measure_peak(const PeakLoop& loop, int threads, const SamplePolicy& policy);

/// Bytes per second: `read` sums a buffer, `copy` counts what it reads and what it writes.
struct Bandwidth {
  double read = 0, copy = 0;
  Timing read_timing, copy_timing;
};
Bandwidth measure_bandwidth(int threads, int64_t bytes_per_thread, const SamplePolicy& policy);

}  // namespace fpsa::app::bench
