#include "tests/kernel/cuda/emulated_attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numbers>
#include <random>

#include "fpsa/kernel/cuda/attention_fwd_e4m3_sm90a-inl.h"
#include "fpsa/kernel/cuda/tiling/pack.h"
#include "fpsa/kernel/reference/attention_fwd.h"
#include "fpsa/kernel/visibility.h"
#include "fpsa/numeric/bf16.h"
#include "fpsa/numeric/bounds.h"
#include "fpsa/numeric/e4m3.h"
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
                         .shared_base = 1024},
                        options, [&] { attention_fwd_e4m3_sm90a<kTiling>(params); });
}

constexpr AttentionTiling folding(AttentionTiling tiling, int every) {
  tiling.fold_every = every;
  return tiling;
}

template <int kDim>
emulation::Report run_dim(const AttentionFwdParams& params, bool columns, const EmulatedAttention::RunOptions& run,
                          const emulation::Options& options) {
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

EmulatedAttention::EmulatedAttention(const EmulatedProblem& problem)
    : problem_(problem),
      order_(problem.grid, problem.tile, problem.granularity),
      layout_(order_.tile_begin()),
      work_(problem.mask, layout_, layout_) {
  std::mt19937_64 random(problem.seed);
  const auto jobs = static_cast<size_t>(problem.batch * problem.heads);
  const auto tokens = static_cast<size_t>(order_.tokens()), dim = static_cast<size_t>(problem.dim);
  const auto fill = [&](std::vector<uint8_t>& codes) {
    std::normal_distribution<float> normal(0.0f, 100.0f);
    for (size_t i = 0; i < jobs * tokens * dim; ++i)
      codes.push_back(numeric::e4m3_from_f32(normal(random)));
  };
  fill(q);
  fill(k);
  fill(v);
  const auto groups = pattern::token_groups(order_);
  column_scales_ = needs_column_scales(layout_, groups.of_token);
  std::uniform_real_distribution<float> uniform(0.5f, 1.5f);
  const auto scales = [&](std::vector<float>& scale, double unit) {
    std::vector<float> of_group(static_cast<size_t>(groups.count));
    for (size_t job = 0; job < jobs; ++job) {
      for (float& x : of_group)
        x = static_cast<float>(unit / 100) * uniform(random);
      for (const int32_t group : groups.of_token)
        scale.push_back(of_group[static_cast<size_t>(group)]);
    }
  };
  scales(q_scale, problem.spread);
  scales(k_scale, problem.spread);
  for (size_t i = 0; i < jobs * dim; ++i)
    v_scale.push_back(uniform(random) / 100);
}

AttentionHead EmulatedAttention::head(int64_t job) const {
  const int64_t rows = order_.tokens(), dim = problem_.dim;
  AttentionHead head;
  head.queries = head.keys = rows;
  head.dim = dim;
  head.q = {q.data() + job * rows * dim, dim, nullptr};
  head.k = {k.data() + job * rows * dim, dim, nullptr};
  head.v = {v.data() + job * rows * dim, dim, nullptr};
  head.q_scale = q_scale.data() + job * rows;
  head.k_scale = k_scale.data() + job * rows;
  head.v_scale = v_scale.data() + job * dim;
  head.softmax_scale = 1.0f / std::sqrt(static_cast<float>(dim));
  return head;
}

EmulatedResult EmulatedAttention::reference() const {
  const int64_t jobs = problem_.batch * problem_.heads, rows = order_.tokens(), dim = problem_.dim;
  EmulatedResult result;
  result.out.resize(static_cast<size_t>(jobs * rows * dim));
  result.exact.resize(result.out.size());
  result.lse.resize(static_cast<size_t>(jobs * rows));
  result.row_max.resize(result.lse.size());
  const AttentionFwd kernel = kernel::reference::attention_fwd_e4m3();
  std::vector<uint8_t> scratch(static_cast<size_t>(kernel.scratch_bytes(rows, dim)));
  for (int64_t job = 0; job < jobs; ++job) {
    const Visibility visible(problem_.mask, problem_.mask.heads() == 1 ? 0 : job % problem_.heads, order_.tile_begin(),
                             order_.tile_begin());
    AttentionOut out;
    out.out = result.out.data() + job * rows * dim;
    out.exact = result.exact.data() + job * rows * dim;
    out.stride = out.exact_stride = dim;
    out.index = order_.to_raster().data();
    out.lse = result.lse.data() + job * rows;
    out.row_max = result.row_max.data() + job * rows;
    const AttentionHead at = head(job);
    for (const QueryBlock& block : visible.blocks())
      kernel.run(at, nullptr, block, out, scratch.data());
  }
  return result;
}

EmulatedResult EmulatedAttention::emulated(const RunOptions& run, const emulation::Options& options,
                                           emulation::Report* report) const {
  const int64_t jobs = problem_.batch * problem_.heads, rows = order_.tokens(), dim = problem_.dim;
  const int64_t slots = layout_.slots(), segments = layout_.segments();
  Aligned<uint8_t> q_packed(static_cast<size_t>(jobs * slots * dim)), k_packed(static_cast<size_t>(jobs * slots * dim)),
      v_packed(static_cast<size_t>(jobs * slots * dim));
  Aligned<float> q_scales(static_cast<size_t>(jobs * slots)), k_scales(static_cast<size_t>(jobs * slots));
  std::vector<int32_t> row_of_slot(static_cast<size_t>(slots));
  rows_of_slots(layout_, order_.to_raster(), row_of_slot.data());
  for (int64_t job = 0; job < jobs; ++job) {
    pack_codes(layout_, q.data() + job * rows * dim, dim, q_packed.data + job * slots * dim);
    pack_codes(layout_, k.data() + job * rows * dim, dim, k_packed.data + job * slots * dim);
    pack_values(layout_, v.data() + job * rows * dim, dim, v_packed.data + job * slots * dim);
    pack_scales(layout_, q_scale.data() + job * rows, q_scales.data + job * slots);
    pack_scales(layout_, k_scale.data() + job * rows, k_scales.data + job * slots);
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
  params.items = work_.items.data();
  params.entries = work_.entries.data();
  params.row_of_slot = row_of_slot.data();
  params.item_count = static_cast<int32_t>(work_.items.size());
  params.batch = static_cast<int32_t>(problem_.batch);
  params.heads = static_cast<int32_t>(problem_.heads);
  params.query_segments = params.key_segments = static_cast<int32_t>(segments);
  params.queries = rows;
  params.shared_mask = work_.shared;
  params.log2_factor = static_cast<float>(std::numbers::log2e) * head(0).softmax_scale;
  params.out = {out.start(), run.type, problem_.heads * rows * out.pitch(), rows * out.pitch(), out.pitch()};
  params.lse = result.lse.data();
  params.row_max = result.row_max.data();
  const emulation::Report made = dim == 128 ? run_dim<128>(params, column_scales_, run, options)
                                            : run_dim<64>(params, column_scales_, run, options);
  if (report) *report = made;
  (run.exact ? result.exact : result.out) = out.take();
  return result;
}

EmulatedAttention::Magnitudes EmulatedAttention::magnitudes(int64_t job) const {
  const AttentionHead at = head(job);
  const auto* codes_q = static_cast<const uint8_t*>(at.q.data);
  const auto* codes_k = static_cast<const uint8_t*>(at.k.data);
  const auto* codes_v = static_cast<const uint8_t*>(at.v.data);
  const auto real = [](uint8_t code) { return static_cast<double>(numeric::f32_from_e4m3(code)); };
  const auto size = [&](uint8_t code) { return std::abs(real(code)); };
  Magnitudes found;
  found.keys = at.keys;
  double largest = 0;
  for (int64_t i = 0; i < at.queries; ++i) {
    for (int64_t j = 0; j < at.keys; ++j) {
      double sum = 0, partial = 0, peak = 0;
      for (int64_t d = 0; d < at.dim; ++d) {
        const double term = real(codes_q[i * at.dim + d]) * real(codes_k[j * at.dim + d]);
        sum += std::abs(term);
        partial += term;
        peak = std::max({peak, std::abs(term), std::abs(partial)});
      }
      const double scale = double{at.q_scale[i]} * at.k_scale[j];
      largest = std::max(largest, sum * scale);
      found.score_peak = std::max(found.score_peak, peak * scale * at.softmax_scale);
    }
  }
  for (int64_t j = 0; j < at.keys; ++j)
    for (int64_t d = 0; d < at.dim; ++d)
      found.value = std::max(found.value, size(codes_v[j * at.dim + d]) * at.v_scale[d]);
  found.score_error = numeric::dot_bound(numeric::kF32Epsilon, at.dim + 2, largest) * at.softmax_scale;
  return found;
}

}  // namespace fpsa::kernel::cuda::testing_support
