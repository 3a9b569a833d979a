#include "fpsa/diffusion/unipc_levels.h"

#include <cmath>

#include "fpsa/base/check.h"

namespace fpsa::diffusion {

// At sigma 1 the log signal-to-noise ratio is -infinity; UniPC starts just below.
constexpr double kBelowOne = 1e-6;

double spaced(double first, double last, int64_t n, int64_t i) {
  if (n == 1) return first;
  return i == n - 1 ? last : first + static_cast<double>(i) * ((last - first) / static_cast<double>(n - 1));
}

void check_shift(double shift) {
  FPSA_CHECK(std::isfinite(shift) && shift > 0.0, "flow shift must be a positive number, received ", shift,
             "; Wan2.1 uses 3 at 480p and 5 at 720p");
}

void check_steps(int64_t steps) {
  FPSA_CHECK(steps >= 1 && steps <= kTrainSteps, "number of denoising steps must be from 1 to ", kTrainSteps,
             ", received ", steps);
}

std::vector<double> unipc_levels(double shift, int64_t steps) {
  check_shift(shift);
  check_steps(steps);
  std::vector<double> levels;
  for (int64_t i = 0; i < steps; ++i)
    levels.push_back(shifted(spaced(1.0, 1.0 / kTrainSteps, steps + 1, i), shift));
  if (std::fabs(levels[0] - 1.0) < kBelowOne) levels[0] -= kBelowOne;
  return levels;
}

}  // namespace fpsa::diffusion
