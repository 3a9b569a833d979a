#include "tests/kernel/cuda/emulated_attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numbers>

#include "fpsa/kernel/cuda/attention_fwd_e4m3_sm90a-inl.h"
#include "fpsa/kernel/cuda/tiling/pack.h"
#include "tests/kernel/cuda/emulated_memory.h"

namespace fpsa::kernel::cuda::testing_support {
namespace {

template <AttentionTiling kTiling>
emulation::Report run_tiling(const AttentionFwdParams& params, int blocks, const emulation::Options& options) {
  constexpr SharedMap kMap = shared_map(kTiling);
  return emulation::run({.blocks = blocks,
                         .threads = kThreads,
                         .registers = kRegistersAtStart,
                         .shared_bytes = kMap.bytes,
                         .shared_base = 1024,
                         .cluster = kTiling.cluster},
                        options, [&] { attention_fwd_e4m3_sm90a<kTiling>(params); });
}

constexpr AttentionTiling folding(AttentionTiling tiling, int every) {
  tiling.fold_every = every;
  return tiling;
}

template <int kDim>
emulation::Report run_dim(const AttentionFwdParams& params, bool columns, const EmulatedAttention::RunOptions& run,
                          const emulation::Options& options) {
  if (run.cluster == 2) {
    EXPECT_TRUE(!columns && !run.exact && run.fold_every == 1) << "not instantiated";
    return run_tiling<choose_tiling(kDim, false, false, 2)>(params, run.blocks, options);
  }
  if (run.fold_every == 3 && !run.exact) {
    return columns ? run_tiling<folding(choose_tiling(kDim, true, false), 3)>(params, run.blocks, options)
                   : run_tiling<folding(choose_tiling(kDim, false, false), 3)>(params, run.blocks, options);
  }
  EXPECT_EQ(run.fold_every, 1) << "not instantiated";
  if (run.exact) {
    return columns ? run_tiling<choose_tiling(kDim, true, true)>(params, run.blocks, options)
                   : run_tiling<choose_tiling(kDim, false, true)>(params, run.blocks, options);
  }
  return columns ? run_tiling<choose_tiling(kDim, true, false)>(params, run.blocks, options)
                 : run_tiling<choose_tiling(kDim, false, false)>(params, run.blocks, options);
}

}  // namespace

EmulatedResult EmulatedAttention::emulated(const RunOptions& run, const emulation::Options& options,
                                           emulation::Report* report) const {
  const int64_t jobs = problem().batch * problem().heads, rows = order().tokens(), dim = problem().dim;
  const int64_t slots = layout().slots(), segments = layout().segments();
  Aligned<uint8_t> q_packed(static_cast<size_t>(jobs * slots * dim)), k_packed(static_cast<size_t>(jobs * slots * dim)),
      v_packed(static_cast<size_t>(jobs * slots * dim));
  Aligned<float> q_scales(static_cast<size_t>(jobs * slots)), k_scales(static_cast<size_t>(jobs * slots));
  std::vector<int32_t> row_of_slot(static_cast<size_t>(slots));
  rows_of_slots(layout(), order().to_raster(), row_of_slot.data());
  for (int64_t job = 0; job < jobs; ++job) {
    pack_codes(layout(), q.data() + job * rows * dim, dim, q_packed.data + job * slots * dim);
    pack_codes(layout(), k.data() + job * rows * dim, dim, k_packed.data + job * slots * dim);
    pack_values(layout(), v.data() + job * rows * dim, dim, v_packed.data + job * slots * dim);
    pack_scales(layout(), q_scale.data() + job * rows, q_scales.data + job * slots);
    pack_scales(layout(), k_scale.data() + job * rows, k_scales.data + job * slots);
  }
  Cells out(jobs * rows, dim, run.type);
  EmulatedResult result;
  result.lse.assign(static_cast<size_t>(jobs * rows), kGuard);
  result.row_max = result.lse;

  const AttentionMaps maps =
      attention_maps(q_packed.data, k_packed.data, v_packed.data, static_cast<int>(dim), jobs, segments, segments);
  AttentionFwdParams params;
  params.q = {maps.q};
  params.k = {maps.k};
  params.v = {maps.v};
  params.q_scale = q_scales.data;
  params.k_scale = k_scales.data;
  params.v_scale = v_scale.data();
  params.items = work().items.data();
  params.entries = work().entries.data();
  params.row_of_slot = row_of_slot.data();
  params.item_count = static_cast<int32_t>(work().items.size());
  params.paired = static_cast<int32_t>(work().paired);
  params.batch = static_cast<int32_t>(problem().batch);
  params.heads = static_cast<int32_t>(problem().heads);
  params.query_segments = params.key_segments = static_cast<int32_t>(segments);
  params.queries = rows;
  params.shared_mask = work().shared;
  params.log2_factor = static_cast<float>(std::numbers::log2e) * head(0).softmax_scale;
  params.out = {out.start(), run.type, problem().heads * rows * out.pitch(), rows * out.pitch(), out.pitch()};
  params.lse = result.lse.data();
  params.row_max = result.row_max.data();
  const emulation::Report made = dim == 128 ? run_dim<128>(params, column_scales(), run, options)
                                            : run_dim<64>(params, column_scales(), run, options);
  if (report) *report = made;
  (run.exact ? result.exact : result.out) = out.take();
  return result;
}

}  // namespace fpsa::kernel::cuda::testing_support
