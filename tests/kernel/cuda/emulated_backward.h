// Backward problems on a grid, run by the CPU reference and, in emulation, by the sm_90a kernels' own source.
#pragma once

#include <cstdint>
#include <vector>

#include "fpsa/kernel/attention_bwd.h"
#include "fpsa/kernel/cuda/attention_bwd_bf16_sm90a.h"
#include "fpsa/kernel/cuda/emulation/run.h"
#include "fpsa/kernel/cuda/ptx/math.h"
#include "fpsa/kernel/cuda/tiling/work_list.h"
#include "fpsa/pattern/mask.h"
#include "fpsa/pattern/order.h"

namespace fpsa::kernel::cuda::testing_support {

struct BackwardProblem {
  pattern::Grid grid, tile, granularity;
  pattern::BlockMask mask;
  int64_t batch = 1, heads = 1, dim = 64;
  bool coded = false;            // E4M3 codes and scales, else BF16
  bool f16 = false;              // F16 instead of BF16, without codes; d_out has F16 values then
  bool rounded_gradient = true;  // d_out has values of 16 bits
  double spread = 1.0;           // of Q and K: scores have a standard deviation of spread^2
  uint64_t seed = 1;
};

/// Rows in raster order, of every job = batch * heads + head.
struct BackwardResult {
  std::vector<float> q, k, v;
};

class EmulatedBackward {
 public:
  explicit EmulatedBackward(const BackwardProblem& problem);

  /// reference/, in F32 (of F16 elements: by the F32 entry), on what the reference forward gives.
  BackwardResult reference() const;
  struct RunOptions {
    OutType type = OutType::kF32;   // of the gradients
    OutType given = OutType::kF32;  // of out and d_out as the kernel gets them
    int blocks = 2;
    bool of_keys = true, of_queries = true;  // the passes
  };
  /// The kernels, on a grid of `blocks`: expand, prepare, and the passes. Guard bands are checked. The report is of the
  /// passes.
  BackwardResult emulated(const RunOptions& run, const emulation::Options& options,
                          emulation::Report* report = nullptr) const;
  /// What each element may be off by, of the CPU entries' kind (tests/kernel/attention_bwd_test.cc).
  struct Bounds {
    std::vector<double> q, k, v;
  };
  Bounds bounds() const;

  int64_t tokens() const { return order_.tokens(); }
  const BackwardProblem& problem() const { return problem_; }
  /// Fills out, exact, lse and row_max anew, after codes or values have changed.
  void run_forward();

  // By job and position: codes, or BF16 values; by job and channel: v_scale.
  std::vector<uint8_t> q_codes, k_codes, v_codes;
  std::vector<uint16_t> q, k, v;
  std::vector<float> q_scale, k_scale, v_scale;
  // By job and raster row. `out` is the exact output.
  std::vector<float> d_out, out, lse, row_max;

 private:
  AttentionHead head(int64_t job) const;
  AttentionBwdHead backward_head(int64_t job) const;
  double value(int which, int64_t job, int64_t position, int64_t channel) const;
  ptx::Element element() const { return problem_.f16 ? ptx::Element::kF16 : ptx::Element::kBf16; }

  BackwardProblem problem_;
  pattern::TileOrder order_;
  SegmentLayout layout_;
  WorkList of_queries_, of_keys_;
  std::vector<float> wide_[3];  // Q, K and V of F16 as the reference's F32 entries take them
};

}  // namespace fpsa::kernel::cuda::testing_support
