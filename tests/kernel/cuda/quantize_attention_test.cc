// From projections to the output: quantize_sm90a and attention_fwd_e4m3_sm90a on each other's memory, against the CPU's
// pre-pass and attention.
#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "fpsa/kernel/cuda/attention_fwd_e4m3_sm90a-inl.h"
#include "fpsa/kernel/cuda/tiling/work_list.h"
#include "fpsa/numeric/bounds.h"
#include "tests/kernel/cuda/emulated_attention.h"
#include "tests/kernel/cuda/emulated_quantize.h"
#include "tests/tolerance.h"

namespace fpsa::kernel::cuda {
namespace {

using testing_support::EmulatedAttention;
using testing_support::EmulatedProblem;
using testing_support::EmulatedQuantize;
using testing_support::EmulatedResult;
using testing_support::QuantizeProblem;
using testing_support::QuantizeResult;

constexpr int64_t kBatch = 2, kHeads = 2, kJobs = kBatch * kHeads, kDim = 64;

// What the kernels wrote, by position.
void unpack(const EmulatedQuantize& from, const QuantizeResult& rows, std::vector<uint8_t>& codes,
            std::vector<float>& scale) {
  const auto positions = from.layout().position_of_slot();
  const int64_t slots = from.plan().slots, tokens = from.order().tokens();
  for (int64_t job = 0; job < kJobs; ++job)
    for (int64_t slot = 0; slot < slots; ++slot) {
      const int64_t position = positions[static_cast<size_t>(slot)];
      if (position < 0) continue;
      scale[static_cast<size_t>(job * tokens + position)] = rows.scale[static_cast<size_t>(job * slots + slot)];
      for (int64_t d = 0; d < kDim; ++d)
        codes[static_cast<size_t>((job * tokens + position) * kDim + d)] =
            rows.codes[static_cast<size_t>((job * slots + slot) * kDim + d)];
    }
}
void unpack_values(const EmulatedQuantize& from, const QuantizeResult& values, std::vector<uint8_t>& codes) {
  const auto positions = from.layout().position_of_slot();
  const int64_t slots = from.plan().slots, tokens = from.order().tokens();
  for (int64_t job = 0; job < kJobs; ++job)
    for (int64_t slot = 0; slot < slots; ++slot) {
      const int64_t position = positions[static_cast<size_t>(slot)], segment = (job * slots + slot) / kSegment;
      if (position < 0) continue;
      for (int64_t d = 0; d < kDim; ++d)
        codes[static_cast<size_t>((job * tokens + position) * kDim + d)] =
            values.codes[static_cast<size_t>((segment * kDim + d) * kSegment +
                                             value_place(static_cast<int>(slot % kSegment)))];
    }
}

TEST(QuantizeThenAttention, HasTheOutputOfTheCpuFromTheSameProjections) {
  EmulatedProblem problem;
  problem.grid = {2, 5, 18};
  problem.tile = problem.granularity = {2, 4, 8};
  problem.mask = pattern::sliding_tile(problem.grid, problem.tile, {1, 1, 2});
  problem.batch = kBatch;
  problem.heads = kHeads;
  problem.dim = kDim;
  const QuantizeProblem of_q{.grid = problem.grid, .tile = problem.tile, .granularity = problem.granularity,
                             .batch = kBatch, .heads = kHeads, .dim = kDim};
  QuantizeProblem of_k = of_q, of_v = of_q;
  of_k.seed = 2;
  of_v.seed = 3;
  const EmulatedQuantize q(of_q), k(of_k), v(of_v);

  // The CPU's way.
  EmulatedAttention attention(problem);
  unpack(q, q.reference_rows(), attention.q, attention.q_scale);
  unpack(k, k.reference_rows(), attention.k, attention.k_scale);
  const QuantizeResult v_want = v.reference_values();
  unpack_values(v, v_want, attention.v);
  attention.v_scale = v_want.scale;
  const EmulatedResult want = attention.reference();

  // The device's way: what one kernel writes, the next one reads.
  const QuantizeResult q_made = q.emulated_rows(2, 2, {}), k_made = k.emulated_rows(2, 2, {}),
                       v_made = v.emulated_values(2, {});
  const WorkList work(problem.mask, q.layout(), k.layout());
  const int64_t tokens = q.order().tokens(), segments = q.layout().segments();
  const AttentionMaps maps =
      attention_maps(q_made.codes.data(), k_made.codes.data(), v_made.codes.data(), kDim, kJobs, segments, segments);
  std::vector<float> out(static_cast<size_t>(kJobs * tokens * kDim)), lse(static_cast<size_t>(kJobs * tokens));
  AttentionFwdParams params;
  params.q = {maps.q};
  params.k = {maps.k};
  params.v = {maps.v};
  params.q_scale = q_made.scale.data();
  params.k_scale = k_made.scale.data();
  params.v_scale = v_made.scale.data();
  params.items = work.items.data();
  params.entries = work.entries.data();
  params.row_of_slot = q.plan().words.data();
  params.item_count = static_cast<int32_t>(work.items.size());
  params.batch = kBatch;
  params.heads = kHeads;
  params.query_segments = params.key_segments = static_cast<int32_t>(segments);
  params.queries = tokens;
  params.shared_mask = work.shared;
  params.log2_factor = static_cast<float>(std::numbers::log2e) / std::sqrt(static_cast<float>(kDim));
  params.out = {out.data(), OutType::kF32, kHeads * tokens * kDim, tokens * kDim, kDim};
  params.lse = lse.data();
  constexpr AttentionTiling kTiling = choose_tiling(kDim, false, false);
  emulation::run({.blocks = 2,
                  .threads = kThreads,
                  .registers = kRegistersAtStart,
                  .shared_bytes = shared_map(kTiling).bytes,
                  .shared_base = 1024},
                 {}, [&] { attention_fwd_e4m3_sm90a<kTiling>(params); });

  // The bounds of the attention kernel on the same codes.
  const EmulatedResult same_codes = attention.emulated({}, {});
  EXPECT_EQ(out, same_codes.out);
  EXPECT_EQ(lse, same_codes.lse);
  for (int64_t job = 0; job < kJobs; ++job) {
    const auto found = attention.magnitudes(job);
    const double relative = tolerance::kAttentionF32 *
                            (found.score_error + 3e-6 + static_cast<double>(found.keys + 2) * numeric::kF32Epsilon);
    for (int64_t i = job * tokens * kDim; i < (job + 1) * tokens * kDim; ++i)
      ASSERT_NEAR(out[static_cast<size_t>(i)], want.out[static_cast<size_t>(i)],
                  (relative + tolerance::kAttentionE4m3) * found.value)
          << "element " << i;
  }
}

}  // namespace
}  // namespace fpsa::kernel::cuda
