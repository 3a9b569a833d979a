// Attention problems on codes over a grid, the CPU reference's answer, and how far another answer may be from it. Shared by
// the emulated kernels' tests and, without GoogleTest, by the checks on a GPU.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "fpsa/kernel/attention.h"
#include "fpsa/kernel/cuda/tiling/work_list.h"
#include "fpsa/kernel/visibility.h"
#include "fpsa/pattern/mask.h"
#include "fpsa/pattern/order.h"

namespace fpsa::kernel::cuda::testing_support {

/// Codes and scales of [batch, heads], by position.
struct CodeProblem {
  pattern::Grid grid, tile, granularity;
  pattern::BlockMask mask;
  int64_t batch = 1, heads = 1, dim = 64;
  double spread = 1.0;  // of Q and K: scores have a standard deviation of spread^2
  uint64_t seed = 1;
  bool f16 = false;  // of problems without codes: F16 elements instead of BF16
};

/// Rows in raster order, of every job = batch * heads + head. The kernel makes either out or exact.
struct AttentionRows {
  std::vector<float> out, exact, lse, row_max;
};

/// What a reference entry makes of every job, by head(job), over the mask of the job's head. Without `exact`, that
/// stays empty.
template <class Head>
AttentionRows reference_rows(const AttentionFwd& kernel, const pattern::BlockMask& mask,
                             const pattern::TileOrder& order, int64_t batch, int64_t heads, int64_t dim, bool exact,
                             const Head& head) {
  const int64_t jobs = batch * heads, rows = order.tokens();
  AttentionRows result;
  result.out.resize(static_cast<size_t>(jobs * rows * dim));
  if (exact) result.exact.resize(result.out.size());
  result.lse.resize(static_cast<size_t>(jobs * rows));
  result.row_max.resize(result.lse.size());
  std::vector<uint8_t> scratch(static_cast<size_t>(kernel.scratch_bytes(rows, dim)));
  for (int64_t job = 0; job < jobs; ++job) {
    const Visibility visible(mask, mask.heads() == 1 ? 0 : job % heads, order.tile_begin(), order.tile_begin());
    AttentionOut out;
    out.out = result.out.data() + job * rows * dim;
    out.exact = exact ? result.exact.data() + job * rows * dim : nullptr;
    out.stride = out.exact_stride = dim;
    out.index = order.to_raster().data();
    out.lse = result.lse.data() + job * rows;
    out.row_max = result.row_max.data() + job * rows;
    const AttentionHead at = head(job);
    for (const QueryBlock& block : visible.blocks())
      kernel.run(at, nullptr, block, out, scratch.data());
  }
  return result;
}

class AttentionOnCodes {
 public:
  explicit AttentionOnCodes(const CodeProblem& problem);

  /// reference/, in F32.
  AttentionRows reference() const;
  /// The arithmetic of an answer, where it is not F32.
  struct Arithmetic {
    double output = 0;         // unit roundoff of the output's type
    int accumulator_bits = 0;  // of the tensor core below the largest of the 33 terms that it adds at once; 0 for F32
  };
  /// What of an answer is further from the reference's than a kernel's may be, in words; empty when nothing is.
  ///   Numerics  the bound of the CPU entries (tests/kernel/attention_fwd_test.cc), and what the answer's own arithmetic
  ///             adds
  std::string violation(const AttentionRows& got, const AttentionRows& want, bool exact,
                        const Arithmetic& arithmetic) const;
  std::string violation(const AttentionRows& got, const AttentionRows& want, bool exact) const {
    return violation(got, want, exact, Arithmetic());
  }

  bool column_scales() const { return column_scales_; }
  /// By job and position: the largest |v| of a visible key; in natural-log units the bound of the error of a score, and
  /// the largest term or partial sum of a score, to which a tensor core aligns the others.
  struct Magnitudes {
    double value = 0, score_error = 0, score_peak = 0;
    int64_t keys = 0;
  };
  Magnitudes magnitudes(int64_t job) const;
  int64_t tokens() const { return order_.tokens(); }
  const CodeProblem& problem() const { return problem_; }
  const pattern::TileOrder& order() const { return order_; }
  const SegmentLayout& layout() const { return layout_; }
  const WorkList& work() const { return work_; }
  AttentionHead head(int64_t job) const;

  // Open to tests that change single codes or scales, by job and position.
  std::vector<uint8_t> q, k, v;
  std::vector<float> q_scale, k_scale, v_scale;

 private:
  CodeProblem problem_;
  pattern::TileOrder order_;
  SegmentLayout layout_;
  WorkList work_;
  bool column_scales_;
};

/// One line of the table of cases that every device walks.
struct AttentionCase {
  std::string name;
  CodeProblem problem;
  bool exact = false;  // the output with unrounded P
};
/// Both head dims; windows, all tiles, rows that see nothing; a mask for each head; scales inside a segment; large scores;
/// a grid smaller than a block.
std::vector<AttentionCase> attention_cases();

}  // namespace fpsa::kernel::cuda::testing_support
