// How long work on a device takes.
#pragma once

#include <functional>
#include <memory>

#include "fpsa/bench/gpu_report.h"

namespace fpsa::bench {

/// A source of times. The real one is EventClock; tests have others.
class GpuClock {
 public:
  virtual ~GpuClock() = default;
  /// Seconds of what `enqueue` puts on the stream, with nothing of it in L2 before.
  virtual double seconds(const std::function<void()>& enqueue) = 0;
};

/// CUDA events around a call, after a buffer of twice L2's size was overwritten.
///   Requires  the device is the current one of torch; `stream` its current stream (a cudaStream_t)
///   Errors    fpsa::Error: those of kernel/cuda/device.h
std::unique_ptr<GpuClock> event_clock(int device, void* stream);

/// Runs a call twice to warm up, then `samples` times; sets seconds, spread and samples of the case, or its failure when
/// a call throws.
///   Requires  samples of 1 or more
void time_case(GpuClock& clock, const std::function<void()>& call, int samples, GpuCase& item);

}  // namespace fpsa::bench
