// What INT8 attention promises beyond a distance from the reference: the codes of P, exactly.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "fpsa/base/check.h"
#include "fpsa/numeric/bounds.h"
#include "tests/kernel/attention_case.h"
#include "tests/kernel/known_codes.h"
#include "tests/kernel/tested_entries.h"
#include "tests/tolerance.h"

namespace fpsa::kernel {
namespace {

using testing_support::AttentionCase;
using testing_support::expect_known_codes;
using testing_support::KnownCodes;
using testing_support::run_entry;

template <class Function>
void for_each_int8_entry(const Function& fn) {
  for (const auto& entry : testing_support::tested_entries()) {
    if (entry.dtype != Dtype::kInt8 || entry.isa > detected_isa()) continue;
    SCOPED_TRACE(std::string(entry.name));
    fn(entry);
  }
}

// One query whose keys have those scores. Values are multiples of 1/4 in [-1, 1].
void set_scores(AttentionCase& test, const std::vector<double>& s2) {
  constexpr int8_t kQuery[8] = {2, 1, -1, 4, 0, 0, -127, 127}, kKey[8] = {1, 1, 2, 1, 7, -3, 100, 100};
  constexpr double kDot = 5;
  test.head.softmax_scale = std::numbers::ln2_v<float>;
  test.q_scale[0] = 1.0f;
  std::ranges::fill(test.v_scale, 0.25f);
  for (size_t d = 0; d < 8; ++d)
    test.q[d] = static_cast<uint8_t>(kQuery[d]);
  for (size_t j = 0; j < s2.size(); ++j) {
    test.k_scale[j] = static_cast<float>(std::abs(s2[j]) / kDot);
    const size_t row = static_cast<size_t>(test.key_index[j] * test.stride);
    for (size_t d = 0; d < 8; ++d) {
      test.k[row + d] = static_cast<uint8_t>(s2[j] < 0 ? -kKey[d] : kKey[d]);
      test.v[row + d] = static_cast<uint8_t>(static_cast<int>((3 * j + 5 * d) % 9) - 4);
    }
  }
}

TEST(AttentionFwdInt8, ProbabilitiesHaveTheCodesOfTheRule) {
  // The nearest integer to 255 P.
  const std::vector<KnownCodes> cases = {
      {{-0.3}, {207}},                                    // m 0, 255 P 207.12
      {{2.6, 1.1}, {193, 68}},                            // m 3, 193.25 and 68.33
      {{0.7, -3.2, -0.9}, {207, 14, 68}},                 // m 1, 207.12, 13.87 and 68.33
      {{5.5, 4.2, -4.6, -9.4}, {180, 73, 0, 0}},          // m 6, 180.3, 73.2, 0.16 and 0.006
      {{2.99, 1.3, 0.9, -5, -6.1}, {253, 78, 59, 1, 0}},  // m 3, 253.2, 78.49, 59.48, 0.996 and 0.46
  };
  for_each_int8_entry([&](const AttentionFwdEntry& entry) {
    for (const auto& known : cases) {
      SCOPED_TRACE(join("keys ", known.s2.size()));
      AttentionCase test(Dtype::kInt8, 1, 1, static_cast<int64_t>(known.s2.size()), 8);
      set_scores(test, known.s2);
      expect_known_codes(entry.kernel, test, known, 255, tolerance::kAttentionInt8Codes);
    }
  });
}

// The largest score of every row comes first, so m never rises and every entry makes the same codes, save where
// 255 P lies on the border of two codes within the error of exp2.
TEST(AttentionFwdInt8, EntriesMakeTheSameCodesWhereTheMaximumDoesNotRise) {
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    std::mt19937_64 random(seed * 104729);
    const int64_t dim = 8 + 8 * static_cast<int64_t>(random() % 32), keys = 1 + static_cast<int64_t>(random() % 400);
    SCOPED_TRACE(join("seed ", seed, " keys ", keys, " dim ", dim));
    AttentionCase test(Dtype::kInt8, seed, 13, keys, dim);
    auto first = test.random_ranges();
    first.insert(first.begin(), {0, 1});
    std::vector<KeyRange> ranges;
    for (const KeyRange& range : first)
      if (ranges.empty() || range.begin >= ranges.back().end) ranges.push_back(range);
    const QueryBlock block{0, 13, ranges.data(), static_cast<int32_t>(ranges.size())};
    // Channel 0 of every query is 127, and key 0 has nothing else: its score is positive and grows with its scale.
    const size_t row = static_cast<size_t>(test.key_index[0] * test.stride);
    for (int64_t i = 0; i < 13; ++i)
      test.q[static_cast<size_t>(test.query_index[static_cast<size_t>(i)] * test.stride)] = 127;
    for (size_t d = 0; d < static_cast<size_t>(dim); ++d)
      test.k[row + d] = d == 0 ? 127 : 0;
    std::ranges::fill(test.q_scale, test.q_scale[0]);
    bool clean = false;
    const auto& reference = attention_fwd_at(Dtype::kInt8, Isa::kReference).kernel;
    auto want = run_entry(reference, test, block, clean);
    const float top = *std::ranges::max_element(want.row_max);
    test.k_scale[0] = std::max(top, 1.0f) / (127 * 127 * test.q_scale[0] * test.head.softmax_scale);
    want = run_entry(reference, test, block, clean);

    const double value = 127 * *std::ranges::max_element(test.v_scale);
    std::vector<double> flips(13, 0.0), sum(13, 0.0);
    for (int64_t i = 0; i < 13; ++i) {
      const double m = want.row_max[static_cast<size_t>(test.query_index[static_cast<size_t>(i)])];
      for (const KeyRange& range : ranges) {
        for (int64_t key = range.begin; key < range.end; ++key) {
          double dot = 0;
          for (int64_t d = 0; d < dim; ++d)
            dot += test.value(test.head.q, test.head.q_scale, nullptr, i, d) *
                   test.value(test.head.k, test.head.k_scale, nullptr, key, d);
          const double p = std::exp2(dot * std::numbers::log2e * test.head.softmax_scale - m);
          sum[static_cast<size_t>(i)] += p;
          // exp2 is good to 3e-6; S2 of up to 32 in F32 adds as much.
          if (std::abs(255 * p - std::floor(255 * p) - 0.5) < 255 * p * 1e-5 + 1e-9) ++flips[static_cast<size_t>(i)];
        }
      }
    }
    for_each_int8_entry([&](const AttentionFwdEntry& entry) {
      const auto got = run_entry(entry.kernel, test, block, clean);
      EXPECT_TRUE(clean);
      EXPECT_EQ(got.row_max, want.row_max);
      for (size_t i = 0; i < 13; ++i) {
        const double allowed = value * (tolerance::kAttentionInt8Codes + flips[i] / (255 * sum[i]));
        for (size_t d = 0; d < static_cast<size_t>(dim); ++d) {
          const size_t at = static_cast<size_t>(test.query_index[i]) * static_cast<size_t>(dim) + d;
          ASSERT_NEAR(got.out[at], want.out[at], allowed) << "row " << i << " channel " << d << " flips " << flips[i];
        }
      }
    });
  }
}

// Every P and every value as large as they get: an int32 sum over more than 65793 keys would wrap around.
TEST(AttentionFwdInt8, SumsOverALongRowDoNotWrapAround) {
  constexpr int32_t kKeys = 2 * 65536 + 77;
  AttentionCase test(Dtype::kInt8, 3, 1, kKeys, 8);
  std::ranges::fill(test.q, uint8_t{0});
  for (size_t i = 0; i < test.v.size(); ++i)
    test.v[i] = static_cast<uint8_t>(i % 2 ? 127 : -127);
  test.v_scale.assign(8, 1.0f);
  test.head.v_scale = test.v_scale.data();
  const KeyRange all{0, kKeys};
  const double allowed = 127 * (tolerance::kAttentionInt8Codes + numeric::dot_bound(numeric::kF32Epsilon, kKeys, 1.0));
  for_each_int8_entry([&](const AttentionFwdEntry& entry) {
    bool clean = false;
    const auto got = run_entry(entry.kernel, test, {0, 1, &all, 1}, clean);
    EXPECT_TRUE(clean);
    for (size_t d = 0; d < 8; ++d)
      EXPECT_NEAR(got.out[d], d % 2 ? 127.0 : -127.0, allowed) << "channel " << d;
  });
}

}  // namespace
}  // namespace fpsa::kernel
