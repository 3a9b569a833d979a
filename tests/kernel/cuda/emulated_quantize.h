// Projections on a grid, quantised by the CPU reference and, in emulation, by the sm_90a kernels' own source.
#pragma once

#include <cstdint>
#include <vector>

#include "fpsa/kernel/cuda/emulation/run.h"
#include "fpsa/kernel/cuda/tiling/quantize_plan.h"
#include "fpsa/kernel/prepass.h"
#include "fpsa/pattern/order.h"

namespace fpsa::kernel::cuda::testing_support {

struct QuantizeProblem {
  pattern::Grid grid, tile, granularity;
  int64_t batch = 1, heads = 2, dim = 64;
  bool norm = true, turn = true;
  int64_t row_gap = 0, head_gap = 0;  // elements between rows and between heads, multiples of 8
  float eps = 1e-6f;
  int64_t lag = kQuadLag;
  uint64_t seed = 1;
};

/// In the memory of the kernels. Scales of Q and K by slot, of V by channel.
struct QuantizeResult {
  std::vector<uint8_t> codes;
  std::vector<float> scale;
};

class EmulatedQuantize {
 public:
  explicit EmulatedQuantize(const QuantizeProblem& problem);

  // Q or K, and V: reference/ with tiling/pack.h, and the kernels. Memory beside the outputs must stay as it is.
  QuantizeResult reference_rows() const;
  QuantizeResult reference_values() const;
  QuantizeResult emulated_rows(int blocks, int together, const emulation::Options& options,
                               emulation::Report* report = nullptr) const;
  QuantizeResult emulated_values(int multiprocessors, const emulation::Options& options,
                                 emulation::Report* report = nullptr) const;

  /// Element of the projection, to be read or changed.
  uint16_t& at(int64_t batch, int64_t row, int64_t head, int64_t d) {
    return x_[static_cast<size_t>(offset(batch, row, head) + d)];
  }
  const QuantizeProblem& problem() const { return problem_; }
  const pattern::TileOrder& order() const { return order_; }
  const SegmentLayout& layout() const { return layout_; }
  const QuantizePlan& plan() const { return plan_; }

  std::vector<float> weight, turns;

 private:
  int64_t head_stride() const { return problem_.dim + problem_.head_gap; }
  int64_t row_stride() const { return problem_.heads * head_stride() + problem_.row_gap; }
  int64_t batch_stride() const { return order_.tokens() * row_stride() + 64; }
  int64_t offset(int64_t batch, int64_t row, int64_t head) const {
    return start_ + batch * batch_stride() + row * row_stride() + head * head_stride();
  }
  /// One sample with all heads side by side, as the contract has it.
  std::vector<uint16_t> sample(int64_t batch) const;
  /// Those rows as the contract's input, without norm and turns.
  PrepassInput input_of(const std::vector<uint16_t>& rows) const;

  QuantizeProblem problem_;
  pattern::TileOrder order_;
  SegmentLayout layout_;
  pattern::TokenGroups groups_;
  QuantizePlan plan_;
  std::vector<uint16_t> x_;
  int64_t start_ = 0;  // the first element, at a multiple of 16 bytes
};

/// Same codes, same bits of scales but for the payload of NaN; reports the first difference.
void expect_same(const QuantizeResult& got, const QuantizeResult& want);

}  // namespace fpsa::kernel::cuda::testing_support
