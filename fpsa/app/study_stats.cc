#include "fpsa/app/study_stats.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "fpsa/base/check.h"

namespace fpsa::app {
namespace {

double sorted_quantile(const std::vector<double>& sorted, double q) {
  const double place = q * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(std::floor(place));
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (place - std::floor(place)) * (sorted[above] - sorted[below]);
}

}  // namespace

Estimate bootstrap_mean(std::span<const double> values, uint64_t seed, int64_t resamples) {
  FPSA_CHECK(!values.empty(), "bootstrap: expected at least one value, got none");
  for (const double value : values)
    FPSA_CHECK(std::isfinite(value), "bootstrap: expected finite values, got ", value);
  const auto count = static_cast<double>(values.size());
  Estimate result;
  result.count = static_cast<int64_t>(values.size());
  // Summed as the resamples are: of equal values they then have this very mean.
  result.mean = std::accumulate(values.begin(), values.end(), 0.0) / count;
  if (values.size() < 2) {
    result.low = result.high = std::numeric_limits<double>::quiet_NaN();
    return result;
  }
  // Whole draws by remainder: the distributions of <random> differ between libraries, and a bias of n / 2^64 is none.
  std::mt19937_64 random(seed);
  std::vector<double> means(static_cast<size_t>(resamples));
  for (auto& mean : means) {
    double sum = 0;
    for (size_t i = 0; i < values.size(); ++i)
      sum += values[random() % values.size()];
    mean = sum / count;
  }
  std::sort(means.begin(), means.end());
  result.low = sorted_quantile(means, 0.025);
  result.high = sorted_quantile(means, 0.975);
  return result;
}

double quantile(std::vector<double> values, double q) {
  FPSA_CHECK(!values.empty(), "quantile: expected at least one value, got none");
  std::sort(values.begin(), values.end());
  return sorted_quantile(values, q);
}

double median(std::vector<double> values) {
  return quantile(std::move(values), 0.5);
}

}  // namespace fpsa::app
