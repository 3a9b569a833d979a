#include "fpsa/models/wan/rope.h"

#include <vector>

namespace fpsa::models::wan {
namespace {

constexpr double kTheta = 10000.0;

// Angles of one axis: [n, dim/2] in F64.
at::Tensor axis_angles(int64_t n, int64_t dim, double stretch) {
  at::Tensor positions = at::arange(n, at::kDouble) * stretch;
  at::Tensor exponents = at::arange(0, dim, 2, at::kDouble) / static_cast<double>(dim);
  return at::outer(positions, at::reciprocal(at::pow(at::scalar_tensor(kTheta, at::kDouble), exponents)));
}

}  // namespace

std::array<int64_t, 3> rope_split(int64_t head_dim) {
  const int64_t plane = 2 * (head_dim / 6);
  return {head_dim - 2 * plane, plane, plane};
}

at::Tensor rope_table(pattern::Grid grid, int64_t head_dim, const RopeStretch& stretch, at::ScalarType wide) {
  const auto [dim_t, dim_y, dim_x] = rope_split(head_dim);
  const std::vector<int64_t> full = {grid.t, grid.y, grid.x, -1};
  at::Tensor angles = at::cat({axis_angles(grid.t, dim_t, stretch.t).view({grid.t, 1, 1, -1}).expand(full),
                               axis_angles(grid.y, dim_y, stretch.y).view({1, grid.y, 1, -1}).expand(full),
                               axis_angles(grid.x, dim_x, stretch.x).view({1, 1, grid.x, -1}).expand(full)},
                              -1)
                          .view({grid.volume(), 1, head_dim / 2});
  at::Tensor table = at::polar(at::ones_like(angles), angles);
  return wide == at::kDouble ? table : table.to(at::kComplexFloat);
}

}  // namespace fpsa::models::wan
