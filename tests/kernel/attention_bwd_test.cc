// Walks the kernel table: every backward entry that this machine supports against the reference of its dtype.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numbers>

#include "fpsa/base/check.h"
#include "fpsa/numeric/bounds.h"
#include "tests/kernel/attention_bwd_case.h"
#include "tests/tolerance.h"

namespace fpsa::kernel {
namespace {

using testing_support::BwdCase;
using testing_support::Gradients;
using testing_support::run_entry;

// One case as real numbers, by position.
struct Reals {
  explicit Reals(const BwdCase& test) : head(test.attention.head) {
    const auto& x = test.attention;
    for (int64_t i = 0; i < head.queries; ++i)
      for (int64_t d = 0; d < head.dim; ++d) {
        q.push_back(x.value(head.q, head.q_scale, nullptr, i, d));
        d_out.push_back(test.d_out[static_cast<size_t>(x.query_index[static_cast<size_t>(i)] * head.dim + d)]);
        out.push_back(test.out[static_cast<size_t>(x.query_index[static_cast<size_t>(i)] * head.dim + d)]);
      }
    for (int64_t j = 0; j < head.keys; ++j)
      for (int64_t d = 0; d < head.dim; ++d) {
        k.push_back(x.value(head.k, head.k_scale, nullptr, j, d));
        v.push_back(x.value(head.v, nullptr, head.v_scale, j, d));
      }
  }
  const AttentionHead& head;
  std::vector<double> q, k, v, d_out, out;
};

struct Dot {
  double value = 0, magnitude = 0;
};

Dot dot(const std::vector<double>& a, int64_t i, const std::vector<double>& b, int64_t j, int64_t dim) {
  Dot result;
  for (int64_t d = 0; d < dim; ++d) {
    const double term = a[static_cast<size_t>(i * dim + d)] * b[static_cast<size_t>(j * dim + d)];
    result.value += term;
    result.magnitude += std::abs(term);
  }
  return result;
}

double code(double x) {
  return numeric::f32_from_e4m3(numeric::e4m3_from_f32(static_cast<float>(x)));
}

// P and dS of one pair with what an entry may be off by.
struct Pair {
  double p, p_error, d_s, d_s_error;
};

Pair pair_of(Dtype dtype, const BwdCase& test, const Reals& real, int64_t i, int64_t j) {
  const AttentionHead& head = real.head;
  const double eps = numeric::kF32Epsilon, u = dtype == Dtype::kF32 ? 0 : numeric::kBf16Epsilon;
  const size_t row = static_cast<size_t>(test.attention.query_index[static_cast<size_t>(i)]);
  const double lse = test.lse[row];
  const Dot s = dot(real.q, i, real.k, j, head.dim), g = dot(real.d_out, i, real.v, j, head.dim);
  const Dot delta = dot(real.d_out, i, real.out, i, head.dim);
  const double logit = s.value * head.softmax_scale;
  // The dot product, two scalings, the offset and the difference in log2 units; then 2^x.
  const double score_error = numeric::dot_bound(eps, head.dim + 4, s.magnitude) * head.softmax_scale +
                             4 * eps * (std::abs(lse) + std::abs(logit - lse));
  const double relative = score_error + (dtype == Dtype::kF32 ? 3e-7 : 3e-6) + 4 * eps;
  const double plain = std::exp(logit - lse);
  Pair pair{plain, plain * (relative + 2 * u), 0, 0};
  if (dtype == Dtype::kE4m3) {
    const double m = test.row_max[row], coded = 256 * std::exp2(logit * std::numbers::log2e - m);
    const double unit = std::exp(m * std::numbers::ln2 - lse) / 256;
    const double low = code(coded * (1 - 2 * relative)), high = code(coded * (1 + 2 * relative));
    pair.p = code(coded) * unit;
    pair.p_error = pair.p * (relative + 2 * u) + (high - low) * unit;
  }
  pair.d_s = plain * (g.value - delta.value);
  pair.d_s_error = std::abs(pair.d_s) * (relative + u) +
                   plain * (numeric::dot_bound(eps, head.dim + 2, g.magnitude + delta.magnitude) + u * g.magnitude);
  return pair;
}

struct Bounds {
  std::vector<double> q, k, v;
};

// What each element of the gradients may be off by.
Bounds bounds_of(Dtype dtype, const BwdCase& test) {
  const Reals real(test);
  const AttentionHead& head = real.head;
  const int64_t dim = head.dim;
  const double eps = numeric::kF32Epsilon, scale = head.softmax_scale;
  const double terms = static_cast<double>(std::max(head.queries, head.keys) + 4) * eps;
  Bounds bounds;
  bounds.q.assign(real.q.size(), 1e-30);
  bounds.k.assign(real.k.size(), 1e-30);
  bounds.v = bounds.k;
  for (int64_t i = 0; i < head.queries; ++i) {
    for (int64_t j = 0; j < head.keys; ++j) {
      if (!test.visible(i, j)) continue;
      const Pair pair = pair_of(dtype, test, real, i, j);
      const double d_s = pair.d_s_error + std::abs(pair.d_s) * terms, p = pair.p_error + pair.p * terms;
      for (int64_t d = 0; d < dim; ++d) {
        const size_t at_i = static_cast<size_t>(i * dim + d), at_j = static_cast<size_t>(j * dim + d);
        bounds.q[at_i] += scale * d_s * std::abs(real.k[at_j]);
        bounds.k[at_j] += scale * d_s * std::abs(real.q[at_i]);
        bounds.v[at_j] += p * std::abs(real.d_out[at_i]);
      }
    }
  }
  return bounds;
}

void expect_within(const char* name, const std::vector<float>& got, const std::vector<float>& want,
                   const std::vector<double>& bound, const std::vector<int32_t>& index, int64_t dim) {
  for (size_t i = 0; i < index.size(); ++i)
    for (size_t d = 0; d < static_cast<size_t>(dim); ++d) {
      const size_t at = static_cast<size_t>(index[i] * dim) + d;
      const double error = std::abs(static_cast<double>(got[at]) - want[at]);
      ASSERT_LE(error, tolerance::kAttentionF32 * bound[i * static_cast<size_t>(dim) + d])
          << name << " row " << i << " channel " << d << ": expected " << want[at] << ", got " << got[at];
    }
}

double relative_rms(const std::vector<float>& got, const std::vector<float>& want) {
  double error = 0, square = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    error += std::pow(static_cast<double>(got[i]) - want[i], 2);
    square += std::pow(static_cast<double>(want[i]), 2);
  }
  return square > 0 ? std::sqrt(error / square) : 0.0;
}

void compare(Dtype dtype, const BwdCase& test, const Gradients& got, const Gradients& want) {
  const auto bounds = bounds_of(dtype, test);
  const int64_t dim = test.attention.head.dim;
  expect_within("d_q", got.q, want.q, bounds.q, test.attention.query_index, dim);
  expect_within("d_k", got.k, want.k, bounds.k, test.attention.key_index, dim);
  expect_within("d_v", got.v, want.v, bounds.v, test.attention.key_index, dim);
}

class AttentionBwdTable : public testing::TestWithParam<size_t> {
 protected:
  void SetUp() override {
    if (entry().isa > detected_isa()) GTEST_SKIP() << entry().name << " needs " << isa_requirements(entry().isa);
  }
  const AttentionBwdEntry& entry() const { return attention_bwd_entries()[GetParam()]; }
  const AttentionBwdEntry& reference() const { return attention_bwd_at(entry().dtype, Isa::kReference); }
};

TEST_P(AttentionBwdTable, MatchesTheReferenceOnRandomShapes) {
  for (uint64_t seed = 1; seed <= 24; ++seed) {
    std::mt19937_64 random(seed * 7919);
    const int64_t dim = seed % 4 == 0 ? 64 : seed % 4 == 1 ? 128 : 8 + 8 * static_cast<int64_t>(random() % 32);
    const int64_t queries = 1 + static_cast<int64_t>(random() % 180), keys = 1 + static_cast<int64_t>(random() % 180);
    SCOPED_TRACE(join(entry().name, " seed ", seed, " queries ", queries, " keys ", keys, " dim ", dim));
    const BwdCase test(entry().dtype, seed, queries, keys, dim);
    bool clean = false, reference_clean = false;
    const int32_t shares = 1 + static_cast<int32_t>(random() % 3);
    const auto got = run_entry(entry().kernel, test, clean, shares);
    const auto want = run_entry(reference().kernel, test, reference_clean);
    EXPECT_TRUE(clean) << "wrote outside its rows";
    EXPECT_TRUE(reference_clean);
    compare(entry().dtype, test, got, want);
    if (HasFailure()) return;
  }
}

// Bounds add up magnitudes, so they would hide a rounding too many; signs cancel in the root mean square.
TEST_P(AttentionBwdTable, RoundsNoMoreThanTheContractSays) {
  const BwdCase test(entry().dtype, 3, 200, 300, 64, true);
  bool clean = false;
  const auto got = run_entry(entry().kernel, test, clean);
  EXPECT_TRUE(clean);
  const auto want = run_entry(reference().kernel, test, clean);
  EXPECT_TRUE(clean);
  const double allowed = entry().dtype == Dtype::kF32 ? tolerance::kComposedF32 : tolerance::kAttentionBwdRms;
  EXPECT_LE(relative_rms(got.q, want.q), allowed);
  EXPECT_LE(relative_rms(got.k, want.k), allowed);
  EXPECT_LE(relative_rms(got.v, want.v), allowed);
}

TEST_P(AttentionBwdTable, SharesChangeOnlyTheOrderOfTheSumOfDq) {
  const BwdCase test(entry().dtype, 4, 150, 400, 40, true);
  bool clean = false;
  const auto one = run_entry(entry().kernel, test, clean, 1), three = run_entry(entry().kernel, test, clean, 3);
  EXPECT_TRUE(clean);
  EXPECT_EQ(one.k, three.k);
  EXPECT_EQ(one.v, three.v);
  EXPECT_EQ(three.q, run_entry(entry().kernel, test, clean, 3).q);
  compare(entry().dtype, test, one, three);
}

TEST_P(AttentionBwdTable, WhatNothingSeesGetsZeros) {
  BwdCase test(entry().dtype, 7, 50, 70, 24);
  test.query_begin = {0, 20, 50};
  test.key_begin = {0, 33, 70};
  test.mask = pattern::from_matrix(std::vector<uint8_t>{0, 1, 0, 0}, 1, 2, 2);  // queries 0-19 see keys 33-69
  test.run_forward(attention_fwd_at(entry().dtype, Isa::kReference).kernel);
  EXPECT_EQ(test.lse[static_cast<size_t>(test.attention.query_index[40])], -std::numeric_limits<float>::infinity());
  bool clean = false;
  const auto got = run_entry(entry().kernel, test, clean);
  EXPECT_TRUE(clean);
  auto largest = [](const std::vector<float>& x, int32_t row) {
    float top = 0;
    for (size_t d = 0; d < 24; ++d)
      top = std::max(top, std::abs(x[static_cast<size_t>(row) * 24 + d]));
    return top;
  };
  for (size_t i = 0; i < 50; ++i)
    EXPECT_EQ(largest(got.q, test.attention.query_index[i]) > 0, i < 20) << "query " << i;
  for (size_t j = 0; j < 70; ++j) {
    EXPECT_EQ(largest(got.k, test.attention.key_index[j]) > 0, j >= 33) << "key " << j;
    EXPECT_EQ(largest(got.v, test.attention.key_index[j]) > 0, j >= 33) << "key " << j;
  }
}

TEST_P(AttentionBwdTable, Bf16GradientsAreTheRoundedF32Gradients) {
  const BwdCase test(entry().dtype, 9, 61, 75, 40);
  bool clean = false;
  const auto f32 = run_entry(entry().kernel, test, clean);
  const auto bf16 = run_entry(entry().kernel, test, clean, 1, Dtype::kBf16);
  EXPECT_TRUE(clean);
  auto rounded = [](std::vector<float> x) {
    for (float& value : x)
      value = numeric::f32_from_bf16(numeric::bf16_from_f32(value));
    return x;
  };
  EXPECT_EQ(bf16.q, rounded(f32.q));
  EXPECT_EQ(bf16.k, rounded(f32.k));
  EXPECT_EQ(bf16.v, rounded(f32.v));
}

INSTANTIATE_TEST_SUITE_P(Entries, AttentionBwdTable, testing::Range<size_t>(0, attention_bwd_entries().size()),
                         [](const auto& info) { return std::string(attention_bwd_entries()[info.param].name); });

// With unit vectors as values the output is the coded P, and with unit vectors as gradients so is d_v.
TEST(AttentionBwdE4m3, CodesAreThoseOfTheForwardOfTheSameIsa) {
  constexpr int64_t kTokens = 96;
  for (const auto& entry : attention_bwd_entries()) {
    if (entry.dtype != Dtype::kE4m3 || entry.isa > detected_isa()) continue;
    SCOPED_TRACE(entry.name);
    BwdCase test(Dtype::kE4m3, 8, kTokens, kTokens, kTokens, true);
    auto& x = test.attention;
    std::ranges::fill(test.d_out, 0.0f);
    std::ranges::fill(x.v_scale, 1.0f);
    for (size_t i = 0; i < kTokens; ++i) {
      test.d_out[static_cast<size_t>(x.query_index[i]) * kTokens + i] = 1.0f;
      for (size_t d = 0; d < kTokens; ++d)
        x.v[static_cast<size_t>(x.key_index[i] * x.stride) + d] = numeric::e4m3_from_f32(d == i ? 1.0f : 0.0f);
    }
    test.run_forward(attention_fwd_at(Dtype::kE4m3, entry.isa).kernel);
    bool clean = false;
    const auto got = run_entry(entry.kernel, test, clean);
    std::vector<int> forward, backward;
    for (size_t i = 0; i < kTokens; ++i) {
      const size_t row = static_cast<size_t>(x.query_index[i]);
      const double unit = 256 * std::exp(test.lse[row] - test.row_max[row] * std::numbers::ln2);
      for (size_t j = 0; j < kTokens; ++j) {
        const size_t key = static_cast<size_t>(x.key_index[j]);
        forward.push_back(numeric::e4m3_from_f32(static_cast<float>(test.coded_out[row * kTokens + j] * unit)));
        backward.push_back(numeric::e4m3_from_f32(static_cast<float>(got.v[key * kTokens + i] * unit)));
      }
    }
    EXPECT_EQ(forward, backward);
    EXPECT_GT(std::ranges::count_if(forward, [](int c) { return c != 0; }), kTokens * kTokens / 2);
  }
}

// The loss sum(d_out o out) of a direct softmax in F64.
double loss_of(const Reals& real, const BwdCase& test) {
  const AttentionHead& head = real.head;
  double loss = 0;
  for (int64_t i = 0; i < head.queries; ++i) {
    double sum = 0, weighted = 0;
    for (int64_t j = 0; j < head.keys; ++j) {
      if (!test.visible(i, j)) continue;
      const double weight = std::exp(dot(real.q, i, real.k, j, head.dim).value * head.softmax_scale);
      sum += weight;
      weighted += weight * dot(real.d_out, i, real.v, j, head.dim).value;
    }
    if (sum > 0) loss += weighted / sum;
  }
  return loss;
}

TEST(AttentionBwdReference, IsTheDerivativeOfADirectSoftmaxInF64) {
  const BwdCase test(Dtype::kF32, 2, 21, 34, 16);
  bool clean = false;
  const auto got = run_entry(attention_bwd_at(Dtype::kF32, Isa::kReference).kernel, test, clean);
  std::normal_distribution<double> normal;
  std::mt19937_64 random(5);
  for (int trial = 0; trial < 8; ++trial) {
    Reals plus(test), minus(test);
    double slope = 0;
    auto move = [&](std::vector<double>& up, std::vector<double>& down, const std::vector<float>& gradient,
                    const std::vector<int32_t>& index) {
      for (size_t i = 0; i < up.size(); ++i) {
        const double step = normal(random);
        up[i] += 1e-5 * step;
        down[i] -= 1e-5 * step;
        slope += step * gradient[static_cast<size_t>(index[i / 16]) * 16 + i % 16];
      }
    };
    move(plus.q, minus.q, got.q, test.attention.query_index);
    move(plus.k, minus.k, got.k, test.attention.key_index);
    move(plus.v, minus.v, got.v, test.attention.key_index);
    EXPECT_NEAR((loss_of(plus, test) - loss_of(minus, test)) / 2e-5, slope, tolerance::kAttentionBwdSlope);
  }
}

}  // namespace
}  // namespace fpsa::kernel
