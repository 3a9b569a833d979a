#include "tests/kernel/cuda/attention_problem.h"

#include <algorithm>
#include <cmath>
#include <random>

#include "fpsa/base/check.h"
#include "fpsa/kernel/cuda/tiling/pack.h"
#include "fpsa/kernel/reference/attention_fwd.h"
#include "fpsa/numeric/bounds.h"
#include "fpsa/numeric/e4m3.h"
#include "tests/tolerance.h"

namespace fpsa::kernel::cuda::testing_support {
AttentionOnCodes::AttentionOnCodes(const CodeProblem& problem)
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

AttentionHead AttentionOnCodes::head(int64_t job) const {
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

AttentionRows AttentionOnCodes::reference() const {
  return reference_rows(kernel::reference::attention_fwd_e4m3(), problem_.mask, order_, problem_.batch, problem_.heads,
                        problem_.dim, /*exact=*/true, [&](int64_t job) { return head(job); });
}

AttentionOnCodes::Magnitudes AttentionOnCodes::magnitudes(int64_t job) const {
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

std::string AttentionOnCodes::violation(const AttentionRows& got, const AttentionRows& want, bool exact,
                                        const Arithmetic& arithmetic) const {
  const int64_t rows = tokens(), dim = problem_.dim;
  for (int64_t job = 0; job < problem_.batch * problem_.heads; ++job) {
    const auto [value, score_error, score_peak, keys] = magnitudes(job);
    // Scores, exp2 within 3e-6, sums. A tensor core of few bits cuts less than `cut` of the largest term off each term,
    // so off D / 32 x 33 terms of a score and 4 x 33 of a block's output; errors of either sign add up as the root of
    // their number.
    const double cut = arithmetic.accumulator_bits > 0 ? std::ldexp(1.0, -arithmetic.accumulator_bits) : 0.0;
    const double terms = 33.0 * static_cast<double>(dim) / 32;
    const double f32 =
        tolerance::kAttentionF32 * (score_error + 3e-6 + static_cast<double>(keys + 2) * numeric::kF32Epsilon);
    const double relative = f32 + cut * (tolerance::kAttentionF32 * terms * score_peak + 4 * 33);
    const double relative_rms =
        f32 + cut * (tolerance::kAttentionF32 * std::sqrt(terms) * score_peak + std::sqrt(4 * 33));
    const double most = relative + arithmetic.output + (exact ? tolerance::kAttentionExact : tolerance::kAttentionE4m3);
    double squares = 0;
    for (int64_t i = 0; i < rows; ++i) {
      const auto row = static_cast<size_t>(job * rows + i);
      const auto far = [&](double a, double b, double allowed) { return a != b && !(std::abs(a - b) <= allowed); };
      if (far(got.lse[row], want.lse[row],
              std::isinf(want.lse[row]) ? 0 : relative + 1e-6 * std::abs(want.lse[row])))
        return join("job ", job, " row ", i, ": expected lse ", want.lse[row], ", got ", got.lse[row]);
      // The ceiling of a score beside an integer may be either.
      if (far(got.row_max[row], want.row_max[row], std::isinf(want.row_max[row]) ? 0 : 1))
        return join("job ", job, " row ", i, ": expected row_max ", want.row_max[row], ", got ", got.row_max[row]);
      for (int64_t d = 0; d < dim; ++d) {
        const size_t at = row * static_cast<size_t>(dim) + static_cast<size_t>(d);
        const double left = exact ? want.exact[at] : want.out[at], right = exact ? got.exact[at] : got.out[at];
        const double error = std::abs(right - left);
        if (!(error <= most * value))
          return join("job ", job, " row ", i, " channel ", d, ": expected ", left, ", got ", right, ", allowed error ",
                      most * value);
        squares += error * error;
      }
    }
    const double rms = std::sqrt(squares / static_cast<double>(rows * dim));
    const double most_rms = (tolerance::kAttentionE4m3Rms + relative_rms + arithmetic.output) * value;
    if (!(rms <= most_rms)) return join("job ", job, ": expected an RMS error of at most ", most_rms, ", got ", rms);
  }
  return {};
}

std::vector<AttentionCase> attention_cases() {
  // Tiles of 2x4x8 = 64 tokens with remainders: rows and keys straddle tiles, and some tiles are ragged.
  const auto ragged = [](int64_t dim) {
    CodeProblem problem;
    problem.grid = {3, 7, 18};
    problem.tile = problem.granularity = {2, 4, 8};
    problem.mask = pattern::sliding_tile(problem.grid, problem.tile, {2, 1, 2});
    problem.dim = dim;
    return problem;
  };
  std::vector<AttentionCase> cases;
  for (const int64_t dim : {64, 128}) {
    const auto add = [&](const char* name, const CodeProblem& problem) {
      for (const bool exact : {false, true})
        cases.push_back({join(name, exact ? " exact" : "", " D", dim), problem, exact});
    };
    add("window", ragged(dim));
    CodeProblem all = ragged(dim);
    all.mask = pattern::dense(all.grid, all.tile);
    all.spread = 3;
    add("all tiles, large scores", all);
    CodeProblem fine = ragged(dim);
    fine.granularity = {1, 2, 4};
    add("scales inside a segment", fine);
    CodeProblem small = ragged(dim);
    small.grid = {1, 1, 5};
    small.mask = pattern::dense(small.grid, small.tile);
    add("fewer tokens than a block", small);
    CodeProblem heads = ragged(dim);
    heads.grid = {2, 7, 18};
    heads.batch = heads.heads = 2;
    const auto tiles = pattern::tiles_per_axis(heads.grid, heads.tile).volume();
    std::vector<uint8_t> visible(static_cast<size_t>(2 * tiles * tiles));
    for (size_t i = 0; i < visible.size(); ++i)
      visible[i] = i % 3 == 0 || i % 7 == 2;
    std::fill_n(visible.begin() + 2 * tiles, tiles, uint8_t{0});
    heads.mask = pattern::from_matrix(visible, 2, tiles, tiles);
    add("a mask for each head, rows that see nothing", heads);
  }
  return cases;
}

}  // namespace fpsa::kernel::cuda::testing_support
