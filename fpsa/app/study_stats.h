// Statistics of a study: what can be said of a mean from few paired observations.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace fpsa::app {

/// A mean with a 95% interval.
struct Estimate {
  double mean = 0;
  double low = 0, high = 0;  // NaN when fewer than two values leave an interval undefined
  int64_t count = 0;

  bool has_interval() const { return low <= high; }
  /// Whether the interval lies on one side of zero.
  bool excludes_zero() const { return has_interval() && (low > 0 || high < 0); }
};

/// Mean of the values with the percentile bootstrap's interval (Efron 1979): the values are the units that are drawn
/// again, so differences of pairs make it a paired bootstrap.
///   Requires  at least one value, all finite
///   Numerics  F64; the same values and seed give the same interval on every machine
Estimate bootstrap_mean(std::span<const double> values, uint64_t seed, int64_t resamples = 10000);

/// Linear interpolation between order statistics; q in [0, 1].
///   Requires  at least one value
double quantile(std::vector<double> values, double q);

/// The middle value, the mean of the two middle ones of an even count.
double median(std::vector<double> values);

}  // namespace fpsa::app
