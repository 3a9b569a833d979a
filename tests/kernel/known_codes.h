// One query of known scores against the codes of its probabilities, for the entries that code P.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "tests/kernel/attention_case.h"

namespace fpsa::kernel::testing_support {

/// Scores in log2 units with the value of the code of each P = 2^(S2 - m), m = ceil(max S2).
struct KnownCodes {
  std::vector<double> s2, code;
};

/// Runs the query of `test`, whose scores are those of `known`. A code stands for P times `unit`.
inline void expect_known_codes(const AttentionFwd& kernel, const AttentionCase& test, const KnownCodes& known,
                               double unit, double allowed) {
  const KeyRange all{0, static_cast<int32_t>(known.s2.size())};
  bool clean = false;
  const auto got = run_entry(kernel, test, {0, 1, &all, 1}, clean);
  const double m = std::ceil(*std::ranges::max_element(known.s2));
  EXPECT_EQ(got.row_max[0], m);
  double sum = 0;
  for (const double s : known.s2)
    sum += std::exp2(s - m);
  EXPECT_NEAR(got.lse[0], (m + std::log2(sum)) * std::numbers::ln2, 1e-5);
  for (int64_t d = 0; d < test.head.dim; ++d) {
    double weighted = 0;
    for (size_t j = 0; j < known.s2.size(); ++j)
      weighted += known.code[j] * test.value(test.head.v, nullptr, test.head.v_scale, static_cast<int64_t>(j), d);
    EXPECT_NEAR(got.out[static_cast<size_t>(d)], weighted / (unit * sum), allowed) << "channel " << d;
  }
}

}  // namespace fpsa::kernel::testing_support
