// Attention problems on a grid, run in emulation by the sm_90a kernel's own source.
#pragma once

#include "fpsa/kernel/cuda/attention_fwd_e4m3_sm90a.h"
#include "fpsa/kernel/cuda/emulation/run.h"
#include "fpsa/kernel/cuda/tiling/attention_tiling.h"
#include "tests/kernel/cuda/attention_problem.h"

namespace fpsa::kernel::cuda::testing_support {

using EmulatedProblem = CodeProblem;
using EmulatedResult = AttentionRows;

class EmulatedAttention : public AttentionOnCodes {
 public:
  using AttentionOnCodes::AttentionOnCodes;

  struct RunOptions {
    OutType type = OutType::kF32;
    bool exact = false;
    int blocks = 2;
    int fold_every = 1;
    int cluster = 1;  // 1 or 2, and then an even number of blocks
  };
  /// The kernel, on a grid of `blocks`. Guard bands are checked.
  EmulatedResult emulated(const RunOptions& run, const emulation::Options& options,
                          emulation::Report* report = nullptr) const;
};

}  // namespace fpsa::kernel::cuda::testing_support
