// BF16 and F16 attention problems on a grid, run by the CPU reference and, in emulation, by the sm_90a kernels' source.
#pragma once

#include <cstdint>
#include <vector>

#include "fpsa/kernel/attention.h"
#include "fpsa/kernel/cuda/attention_fwd_bf16_sm90a.h"
#include "tests/kernel/cuda/emulated_attention.h"
#include "tests/kernel/cuda/emulated_memory.h"

namespace fpsa::kernel::cuda::testing_support {

/// Q, K and V are views of one array in raster order, as a fused projection makes it: values [batch,L,3,heads,D].
/// The problem's granularity means nothing here.
class EmulatedBf16 {
 public:
  explicit EmulatedBf16(const EmulatedProblem& problem);

  /// reference/, in F32 (of F16 elements: by the F32 entry); rows in raster order, of every job = batch * heads + head,
  /// without `exact`.
  EmulatedResult reference() const;
  struct RunOptions {
    OutType type = OutType::kF32;
    int blocks = 2;
    int cluster = 1;  // 1 or 2, and then an even number of blocks
  };
  /// pack_bf16_sm90a for each of Q, K and V; to be called again when values have changed.
  void pack();
  /// attention_fwd_bf16_sm90a on a grid of `blocks`, into rows [batch,L,heads,D] with guard bands, which are checked.
  EmulatedResult emulated(const RunOptions& run, const emulation::Options& options,
                          emulation::Report* report = nullptr) const;

  EmulatedAttention::Magnitudes magnitudes(int64_t job) const;
  int64_t tokens() const { return order_.tokens(); }
  const EmulatedProblem& problem() const { return problem_; }
  const SegmentLayout& layout() const { return layout_; }
  const WorkList& work() const { return work_; }
  const std::vector<int32_t>& row_of_slot() const { return row_of_slot_; }
  /// Which: 0 Q, 1 K, 2 V.
  uint16_t& at(int64_t batch, int64_t row, int which, int64_t head, int64_t channel) {
    return values_.data[((((batch * tokens() + row) * 3 + which) * problem_.heads + head) * problem_.dim) + channel];
  }
  /// [batch,heads,slots,D], after pack().
  const uint16_t* packed(int which) const { return packed_[static_cast<size_t>(which)].data; }
  int64_t packed_elements() const { return problem_.batch * problem_.heads * layout_.slots() * problem_.dim; }
  int32_t raster(int64_t position) const { return order_.to_raster()[static_cast<size_t>(position)]; }

 private:
  AttentionHead head(int64_t job) const;
  ptx::Element element() const { return problem_.f16 ? ptx::Element::kF16 : ptx::Element::kBf16; }
  int64_t elements() const { return problem_.batch * order_.tokens() * 3 * problem_.heads * problem_.dim; }

  EmulatedProblem problem_;
  pattern::TileOrder order_;
  SegmentLayout layout_;
  WorkList work_;
  std::vector<int32_t> row_of_slot_;
  Aligned<uint16_t> values_;
  std::vector<Aligned<uint16_t>> packed_;
};

}  // namespace fpsa::kernel::cuda::testing_support
