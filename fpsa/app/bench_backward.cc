#include "fpsa/app/bench_backward.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "fpsa/base/check.h"
#include "fpsa/ops/attention_grad.h"

namespace fpsa::app::bench {
namespace {

// P, dS and the gradient are rounded to BF16 once each: three relative roundings of 2^-9, and a factor 2.
constexpr double kGradientLimit = 0.0118;

// One head in tile order, F64, and some of its rows.
struct Oracle {
  Oracle(const Inputs& inputs, const at::Tensor& d_out, const ops::AttentionResult& forward, const ops::Plan& plan)
      : plan(plan), scale(1.0 / std::sqrt(static_cast<double>(inputs.q.size(3)))) {
    const auto& raster = plan.order().to_raster();
    order = at::tensor(at::ArrayRef<int32_t>(raster)).to(at::kLong);
    const auto tiled = [&](const at::Tensor& x) {
      return x.select(0, 0).select(1, 0).index_select(0, order).to(at::kDouble);
    };
    q = tiled(inputs.q), k = tiled(inputs.k), v = tiled(inputs.v);
    g = tiled(d_out);
    delta = (g * tiled(forward.out)).sum(1);
    lse = forward.lse.select(0, 0).select(0, 0).index_select(0, order).to(at::kDouble);
    constexpr int64_t kRows = 8;
    std::vector<int64_t> chosen;
    for (const int64_t first : {int64_t{0}, plan.tokens() / 2, std::max<int64_t>(plan.tokens() - kRows, 0)})
      for (int64_t i = first; i < std::min(first + kRows, plan.tokens()); ++i)
        chosen.push_back(i);
    rows = at::tensor(at::ArrayRef<int64_t>(chosen));
  }

  // [rows, L]: whether query rows[i] sees key j, or, transposed, whether key rows[i] is seen by query j.
  at::Tensor visible(bool transposed) const {
    const auto& begin = plan.order().tile_begin();
    const auto tile_of = [&](int64_t position) {
      return std::ranges::upper_bound(begin, static_cast<int32_t>(position)) - begin.begin() - 1;
    };
    const auto seen = at::zeros({rows.size(0), plan.tokens()}, at::kBool);
    for (int64_t i = 0; i < rows.size(0); ++i) {
      const int64_t own = tile_of(rows[i].item<int64_t>());
      for (int64_t other = 0; other < plan.order().tile_count(); ++other) {
        const auto tiles = plan.mask().visible(0, transposed ? other : own);
        if (std::ranges::binary_search(tiles, static_cast<int32_t>(transposed ? own : other)))
          seen[i].narrow(0, plan.order().tile_begin(other), plan.order().tile_tokens(other)).fill_(true);
      }
    }
    return seen;
  }

  at::Tensor d_q() const {
    const auto hidden = visible(false).logical_not();
    const auto scores = at::matmul(q.index_select(0, rows), k.t()).mul_(scale);
    const auto p = scores.masked_fill(hidden, -std::numeric_limits<double>::infinity()).softmax(1);
    const auto d_p = at::matmul(g.index_select(0, rows), v.t());
    return at::matmul(p * (d_p - (p * d_p).sum(1, true)), k).mul_(scale);
  }

  // Probabilities of the keys `rows` in every query's row, [rows, L].
  at::Tensor of_keys() const {
    return (at::matmul(k.index_select(0, rows), q.t()) * scale - lse).exp() * visible(true);
  }
  at::Tensor d_k() const {
    const auto d_p = at::matmul(v.index_select(0, rows), g.t());
    return at::matmul(of_keys() * (d_p - delta), q).mul_(scale);
  }
  at::Tensor d_v() const { return at::matmul(of_keys(), g); }

  void check(const ops::AttentionGradients& got, Case& item) const {
    Rows expected;
    const auto raster = order.index_select(0, rows);
    expected.raster.assign(raster.const_data_ptr<int64_t>(), raster.const_data_ptr<int64_t>() + raster.numel());
    double worst = 0;
    const auto compare = [&](const char* name, const at::Tensor& gradient, const at::Tensor& values) {
      expected.values = values;
      worst = std::max(worst,
                       check_rows(rows_of(gradient, expected), expected, kGradientLimit, join(item.name, ": ", name)));
    };
    compare("d_q", got.q, d_q());
    compare("d_k", got.k, d_k());
    compare("d_v", got.v, d_v());
    item.error = worst;
  }

  const ops::Plan& plan;
  double scale;
  at::Tensor order, q, k, v, g, delta, lse, rows;
};

Entrant own(const Session& session, const Shape& shape, const std::string& pattern, const pattern::Grid& window) {
  const auto plan = session.plan(shape.grid, pattern, window);
  Entrant entrant;
  Case& item = entrant.result;
  item =
      session.start_case("backward", plan->dense() ? "bf16" : join("bf16/sparse", pattern::to_string(window)), shape);
  item.format = "bf16";
  item.density = plan->density();
  const auto& entry = kernel::attention_bwd(kernel::Dtype::kBf16);
  item.kernel = entry.name;
  item.isa = kernel::isa_name(entry.isa);
  // Five products where the forward has two.
  item.operations =
      2.5 * static_cast<double>(pattern::attention_flops(plan->mask(), plan->order(), shape.heads, shape.dim));
  entrant.contender.most = session.sizes().samples;
  entrant.contender.run = attempt([&] {
    const auto inputs = make_inputs(shape);
    const auto forward = ops::attention(inputs.q, inputs.k, inputs.v, *plan, ops::saving({}));
    const auto call = [inputs, forward, plan] {
      // V serves as the gradient of the output, as in the peer: of its shape, and normal too.
      return ops::attention_backward(inputs.v, inputs.q, inputs.k, inputs.v, forward, *plan);
    };
    Oracle(inputs, inputs.v, forward, *plan).check(call(), item);
    return [call](int repeats) { return time_calls(repeats, call); };
  });
  return entrant;
}

}  // namespace

void bench_backward(Session& session) {
  const auto& sizes = session.sizes();
  struct Problem {
    pattern::Grid grid, window;
  };
  std::vector<Problem> problems = {{sizes.primary, sizes.windows.front()}};
  // torch's backward of the paper's length takes minutes, but for --quick's lengths.
  if (session.options().extent != Extent::kDefault) problems.push_back({sizes.paper, sizes.paper_window});
  for (const auto& problem : problems) {
    const Shape shape{problem.grid};
    std::vector<Entrant> entrants;
    entrants.push_back(own(session, shape, "sta", problem.window));
    entrants.push_back(own(session, shape, "dense", pattern::kFullWindow));
    std::ranges::move(session.torch("backward", shape, /*backward=*/true), std::back_inserter(entrants));
    const auto cases = session.race(std::move(entrants), [](std::vector<Case>& raced) {
      const Case* torch = best_torch(raced);
      if (torch && !torch->failed() && !raced[0].failed())
        raced[0].more["vs_torch_best"] = torch->timing.seconds / raced[0].timing.seconds;
    });
    if (problem.grid == sizes.primary)
      session.report().ratio("sparse_backward_vs_torch_best", best_torch(cases), &cases[0]);
  }
}

}  // namespace fpsa::app::bench
