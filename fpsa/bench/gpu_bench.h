// `fpsa bench attention --device cuda`: our kernels on a card, beside others' on the same card.
#pragma once

#include <functional>
#include <string>

#include "fpsa/bench/gpu_report.h"

namespace fpsa::bench {

struct GpuBenchOptions {
  int device = 0;
  int samples = 7;
  std::string python = "python3";  // of the peers; empty: no peers
};

/// Every case, checked before it is timed. `progress` gets a line when a group begins.
///   Errors    fpsa::Error: no such device, or one that does not run the kernels. A case that fails is in the report
GpuReport run_gpu_bench(const GpuBenchOptions& options, const std::function<void(const std::string&)>& progress);

}  // namespace fpsa::bench
