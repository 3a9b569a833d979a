#include "tests/kernel/cuda/emulated_bf16.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <random>

#include "fpsa/kernel/cuda/attention_fwd_bf16_sm90a-inl.h"
#include "fpsa/kernel/cuda/pack_bf16_sm90a-inl.h"
#include "fpsa/kernel/cuda/tiling/pack.h"
#include "fpsa/kernel/reference/attention_fwd.h"
#include "fpsa/numeric/bounds.h"

namespace fpsa::kernel::cuda::testing_support {
namespace {

template <int kDim, ptx::Element kElement, int kCluster>
emulation::Report run_tiling(const AttentionParams& params, int blocks, const emulation::Options& options) {
  constexpr AttentionTiling kTiling = choose_bf16_tiling(kDim, kCluster);
  constexpr SharedMap kMap = shared_map(kTiling);
  return emulation::run({.blocks = blocks,
                         .threads = kThreads,
                         .registers = kRegistersAtStart,
                         .shared_bytes = kMap.bytes,
                         .cluster = kCluster},
                        options, [&] { attention_fwd_bf16_sm90a<kTiling, kElement>(params); });
}

template <int kDim, ptx::Element kElement>
emulation::Report run_dim(const AttentionParams& params, const EmulatedBf16::RunOptions& run,
                          const emulation::Options& options) {
  return run.cluster == 2 ? run_tiling<kDim, kElement, 2>(params, run.blocks, options)
                          : run_tiling<kDim, kElement, 1>(params, run.blocks, options);
}

}  // namespace

EmulatedBf16::EmulatedBf16(const EmulatedProblem& problem)
    : problem_(problem),
      order_(problem.grid, problem.tile),
      layout_(order_.tile_begin()),
      work_(problem.mask, layout_, layout_),
      row_of_slot_(static_cast<size_t>(layout_.slots())),
      values_(static_cast<size_t>(problem.batch * order_.tokens() * 3 * problem.heads * problem.dim)) {
  rows_of_slots(layout_, order_.to_raster(), row_of_slot_.data());
  std::mt19937_64 random(problem.seed);
  std::normal_distribution<double> normal;
  for (int64_t batch = 0; batch < problem_.batch; ++batch)
    for (int64_t row = 0; row < tokens(); ++row)
      for (int which = 0; which < 3; ++which)
        for (int64_t head = 0; head < problem_.heads; ++head)
          for (int64_t d = 0; d < problem_.dim; ++d)
            at(batch, row, which, head, d) =
                bits_of(element(), static_cast<float>(normal(random) * (which < 2 ? problem_.spread : 1.0)));
  for (int which = 0; which < 3; ++which)
    packed_.emplace_back(static_cast<size_t>(packed_elements()));
  pack();
}

void EmulatedBf16::pack() {
  const int64_t head_stride = problem_.dim, third = problem_.heads * problem_.dim, row_stride = 3 * third;
  for (int which = 0; which < 3; ++which) {
    uint16_t* to = packed_[static_cast<size_t>(which)].data;
    std::fill_n(to, packed_elements(), uint16_t{0x7fff});
    PackBf16Params params;
    params.from = values_.data + which * third;
    params.batch_stride = tokens() * row_stride;
    params.head_stride = head_stride;
    params.row_stride = row_stride;
    params.to = to;
    params.row_of_slot = row_of_slot_.data();
    params.batch = static_cast<int32_t>(problem_.batch);
    params.heads = static_cast<int32_t>(problem_.heads);
    params.segments = static_cast<int32_t>(layout_.segments());
    emulation::run({.blocks = static_cast<int>(pack_blocks(params)), .threads = kPackThreads, .registers = 32}, {},
                   [&] { problem_.dim == 128 ? pack_bf16_sm90a<128>(params) : pack_bf16_sm90a<64>(params); });
  }
}

AttentionHead EmulatedBf16::head(int64_t job) const {
  const int64_t rows = tokens(), dim = problem_.dim, third = problem_.heads * dim;
  const uint16_t* first = values_.data + job / problem_.heads * rows * 3 * third + job % problem_.heads * dim;
  AttentionHead head;
  head.queries = head.keys = rows;
  head.dim = dim;
  head.q = {first, 3 * third, order_.to_raster().data()};
  head.k = {first + third, 3 * third, order_.to_raster().data()};
  head.v = {first + 2 * third, 3 * third, order_.to_raster().data()};
  head.softmax_scale = 1.0f / std::sqrt(static_cast<float>(dim));
  return head;
}

EmulatedResult EmulatedBf16::reference() const {
  if (!problem_.f16)
    return reference_rows(kernel::reference::attention_fwd_bf16(), problem_.mask, order_, problem_.batch,
                          problem_.heads, problem_.dim, /*exact=*/false, [&](int64_t job) { return head(job); });
  // No entry takes F16: the F32 one on the same values.
  std::vector<float> wide(values_.memory.size());
  std::transform(values_.data, values_.data + elements(), wide.begin(),
                 [](uint16_t bits) { return value_of(ptx::Element::kF16, bits); });
  return reference_rows(kernel::reference::attention_fwd_f32(), problem_.mask, order_, problem_.batch, problem_.heads,
                        problem_.dim, /*exact=*/false, [&](int64_t job) {
                          AttentionHead at = head(job);
                          for (RowsView* view : {&at.q, &at.k, &at.v})
                            view->data = wide.data() + (static_cast<const uint16_t*>(view->data) - values_.data);
                          return at;
                        });
}

EmulatedResult EmulatedBf16::emulated(const RunOptions& run, const emulation::Options& options,
                                      emulation::Report* report) const {
  const int64_t jobs = problem_.batch * problem_.heads, rows = tokens(), dim = problem_.dim, heads = problem_.heads;
  const int64_t segments = layout_.segments();
  Cells out(jobs * rows, dim, run.type);
  EmulatedResult result;
  result.lse.assign(static_cast<size_t>(jobs * rows), kGuard);
  result.row_max = result.lse;

  const AttentionMaps maps =
      attention_bf16_maps(packed(0), packed(1), packed(2), static_cast<int>(dim), jobs, segments, segments);
  AttentionParams params;
  params.q = {maps.q};
  params.k = {maps.k};
  params.v = {maps.v};
  params.items = work_.items.data();
  params.entries = work_.entries.data();
  params.row_of_slot = row_of_slot_.data();
  params.item_count = static_cast<int32_t>(work_.items.size());
  params.paired = static_cast<int32_t>(work_.paired);
  params.batch = static_cast<int32_t>(problem_.batch);
  params.heads = static_cast<int32_t>(heads);
  params.query_segments = params.key_segments = static_cast<int32_t>(segments);
  params.queries = rows;
  params.shared_mask = work_.shared;
  params.log2_factor = static_cast<float>(std::numbers::log2e) * head(0).softmax_scale;
  params.out = {out.start(), run.type, rows * heads * out.pitch(), out.pitch(), heads * out.pitch()};
  params.lse = result.lse.data();
  params.row_max = result.row_max.data();
  using enum ptx::Element;
  const auto run_on = dim == 128 ? problem_.f16 ? run_dim<128, kF16> : run_dim<128, kBf16>
                      : problem_.f16 ? run_dim<64, kF16>
                                     : run_dim<64, kBf16>;
  const emulation::Report made = run_on(params, run, options);
  if (report) *report = made;
  const std::vector<float> by_row = out.take();
  result.out.resize(by_row.size());
  for (int64_t job = 0; job < jobs; ++job)
    for (int64_t row = 0; row < rows; ++row)
      std::copy_n(by_row.begin() + ((job / heads * rows + row) * heads + job % heads) * dim, dim,
                  result.out.begin() + (job * rows + row) * dim);
  return result;
}

EmulatedAttention::Magnitudes EmulatedBf16::magnitudes(int64_t job) const {
  const AttentionHead at = head(job);
  const auto size = [&](const RowsView& view, int64_t row, int64_t d) {
    return std::abs(static_cast<double>(
        value_of(element(), static_cast<const uint16_t*>(view.data)[view.index[row] * view.stride + d])));
  };
  EmulatedAttention::Magnitudes found;
  found.keys = at.keys;
  double largest = 0;
  for (int64_t i = 0; i < at.queries; ++i) {
    for (int64_t j = 0; j < at.keys; ++j) {
      double sum = 0;
      for (int64_t d = 0; d < at.dim; ++d)
        sum += size(at.q, i, d) * size(at.k, j, d);
      largest = std::max(largest, sum);
    }
  }
  for (int64_t j = 0; j < at.keys; ++j)
    for (int64_t d = 0; d < at.dim; ++d)
      found.value = std::max(found.value, size(at.v, j, d));
  found.score_error = numeric::dot_bound(numeric::kF32Epsilon, at.dim + 2, largest) * at.softmax_scale;
  return found;
}

}  // namespace fpsa::kernel::cuda::testing_support
