// Attention problems on a grid, run by the CPU reference and, in emulation, by the sm_90a kernel's own source.
#pragma once

#include <cstdint>
#include <vector>

#include "fpsa/kernel/attention.h"
#include "fpsa/kernel/cuda/attention_fwd_e4m3_sm90a.h"
#include "fpsa/kernel/cuda/emulation/run.h"
#include "fpsa/kernel/cuda/tiling/attention_tiling.h"
#include "fpsa/kernel/cuda/tiling/work_list.h"
#include "fpsa/pattern/mask.h"
#include "fpsa/pattern/order.h"

namespace fpsa::kernel::cuda::testing_support {

/// Codes and scales of [batch, heads], by position.
struct EmulatedProblem {
  pattern::Grid grid, tile, granularity;
  pattern::BlockMask mask;
  int64_t batch = 1, heads = 1, dim = 64;
  double spread = 1.0;  // of Q and K: scores have a standard deviation of spread^2
  uint64_t seed = 1;
};

/// Rows in raster order, of every job = batch * heads + head. The kernel makes either out or exact.
struct EmulatedResult {
  std::vector<float> out, exact, lse, row_max;
};

class EmulatedAttention {
 public:
  explicit EmulatedAttention(const EmulatedProblem& problem);

  /// reference/, in F32.
  EmulatedResult reference() const;
  struct RunOptions {
    OutType type = OutType::kF32;
    bool exact = false;
    int blocks = 2;
    int fold_every = 1;
  };
  /// The kernel, on a grid of `blocks`. Guard bands are checked.
  EmulatedResult emulated(const RunOptions& run, const emulation::Options& options,
                          emulation::Report* report = nullptr) const;

  bool column_scales() const { return column_scales_; }
  /// By job and position: the largest |v| of a visible key; in natural-log units the bound of the error of a score, and
  /// the largest term or partial sum of a score, to which a tensor core aligns the others.
  struct Magnitudes {
    double value = 0, score_error = 0, score_peak = 0;
    int64_t keys = 0;
  };
  Magnitudes magnitudes(int64_t job) const;
  int64_t tokens() const { return order_.tokens(); }
  const EmulatedProblem& problem() const { return problem_; }

  // Open to tests that change single codes or scales, by job and position.
  std::vector<uint8_t> q, k, v;
  std::vector<float> q_scale, k_scale, v_scale;

 private:
  AttentionHead head(int64_t job) const;

  EmulatedProblem problem_;
  pattern::TileOrder order_;
  SegmentLayout layout_;
  WorkList work_;
  bool column_scales_;
};

}  // namespace fpsa::kernel::cuda::testing_support
