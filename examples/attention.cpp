// Sliding-tile attention from C++: plan once, run, and compare with dense attention. C++20.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <memory>
#include <random>
#include <vector>

#include <fpsa/pattern/mask.h>
#include <fpsa/plan/run.h>
#include <fpsa/plan/thread_pool.h>

namespace {

namespace plan = fpsa::plan;
namespace pattern = fpsa::pattern;

constexpr pattern::Grid kGrid{9, 16, 16}, kTile{3, 4, 4};
constexpr int64_t kHeads = 4, kDim = 64, kTokens = 9 * 16 * 16;

using Values = std::vector<float>;  // [L,H,D]

Values random_values(std::mt19937& random) {
  std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
  Values x(kTokens * kHeads * kDim);
  for (float& value : x)
    value = uniform(random);
  return x;
}

Values run(const plan::AttentionPlan& planned, const Values& q, const Values& k, const Values& v,
           plan::ParallelRunner& threads) {
  Values out(q.size());
  plan::Workspace workspace(planned.workspace_bytes(1, threads.workers()));
  auto source = [](const Values& x) { return plan::Source{x.data(), 0, kDim, kHeads * kDim}; };
  const plan::Output output{{out.data(), 0, kDim, kHeads * kDim}};
  plan::run(planned, 1, {source(q), source(k), source(v)}, 1.0f / std::sqrt(float{kDim}), output, workspace.bytes(),
            threads);
  return out;
}

std::shared_ptr<const plan::Geometry> geometry(const pattern::Grid& window) {
  return std::make_shared<const plan::Geometry>(kGrid, kTile, kTile, pattern::sliding_tile(kGrid, kTile, window));
}

// The first token's first head by the definition: softmax over the keys that the corner of the grid sees.
bool first_row_is_right(const Values& q, const Values& k, const Values& v, const pattern::Grid& window,
                        const Values& out) {
  auto row = [](const Values& x, int64_t token) { return x.data() + token * kHeads * kDim; };
  double sum = 0, expected[kDim] = {};
  for (int64_t token = 0; token < kTokens; ++token) {
    const int64_t x = token % kGrid.x, y = token / kGrid.x % kGrid.y, t = token / kGrid.x / kGrid.y;
    if (t >= window.t * kTile.t || y >= window.y * kTile.y || x >= window.x * kTile.x) continue;
    double dot = 0;
    for (int64_t d = 0; d < kDim; ++d)
      dot += row(q, 0)[d] * row(k, token)[d];
    const double weight = std::exp(dot / std::sqrt(double{kDim}));
    sum += weight;
    for (int64_t d = 0; d < kDim; ++d)
      expected[d] += weight * row(v, token)[d];
  }
  double error = 0;
  for (int64_t d = 0; d < kDim; ++d)
    error = std::max(error, std::abs(expected[d] / sum - out[static_cast<size_t>(d)]));
  return error < 1e-5;
}

}  // namespace

int main() try {
  plan::AttentionSpec spec;
  spec.heads = kHeads;
  spec.dim = kDim;
  const pattern::Grid window{3, 2, 2};
  const plan::AttentionPlan sparse(geometry(window), spec), full(geometry(pattern::kFullWindow), spec);
  const plan::AttentionPlan dense(kTokens, kTokens, spec);
  plan::ThreadPool threads(2);

  std::mt19937 random(1);
  const Values q = random_values(random), k = random_values(random), v = random_values(random);
  const Values out = run(sparse, q, k, v, threads);
  std::printf("%s: density %.4f, %.3f of %.3f GFLOP, first value %.5f\n", sparse.entry().name.data(), sparse.density(),
              1e-9 * static_cast<double>(sparse.flops(1)), 1e-9 * static_cast<double>(dense.flops(1)), out[0]);
  if (!first_row_is_right(q, k, v, window, out)) {
    std::fprintf(stderr, "the first row is not the softmax over what it sees\n");
    return 1;
  }
  if (run(full, q, k, v, threads) != run(dense, q, k, v, threads)) {
    std::fprintf(stderr, "the full window should give the values of dense attention\n");
    return 1;
  }
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
