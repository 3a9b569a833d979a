// K smoothing against F64 attention on keys that have a large part in common.
#include "fpsa/kernel/smoothing.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "tests/kernel/attention_case.h"
#include "tests/tolerance.h"

namespace fpsa::kernel {
namespace {

using testing_support::Guarded;

constexpr int64_t kTokens = 200, kDim = 64;
constexpr size_t kElements = kTokens * kDim;

struct Result {
  std::vector<float> out, lse;
};

Result attend(Dtype dtype, AttentionHead head) {
  const auto& kernel = attention_fwd_at(dtype, detected_isa()).kernel;
  head.queries = head.keys = kTokens;
  head.dim = kDim;
  head.softmax_scale = 0.125f;
  Guarded packed(kernel.packed_bytes(kTokens, kDim)), scratch(kernel.scratch_bytes(kTokens, kDim));
  kernel.pack(head, 0, kTokens, packed.data());
  Result result{std::vector<float>(kElements), std::vector<float>(kTokens)};
  const auto all = Visibility::dense(kTokens, kTokens);
  for (const QueryBlock& block : all.blocks())
    kernel.run(head, packed.data(), block, {result.out.data(), kDim, Dtype::kF32, nullptr, result.lse.data(), nullptr},
               scratch.data());
  return result;
}

RowsView rows(const void* data) {
  return {data, kDim, nullptr};
}

class KSmoothing : public testing::Test {
 protected:
  KSmoothing() : q(kElements), k(kElements), v(kElements), mean(kDim) {
    std::mt19937_64 random(5);
    std::normal_distribution<float> normal(0.0f, 1.0f);
    float offset[kDim];
    for (float& x : offset)
      x = 24 * normal(random);
    for (size_t i = 0; i < kElements; ++i) {
      q[i] = normal(random);
      k[i] = normal(random) + offset[i % kDim];
      v[i] = normal(random);
    }
    key_means(input(k), mean.data());
    smooth = k;
    for (size_t i = 0; i < kElements; ++i)
      smooth[i] -= mean[i % kDim];
    shift.resize(kTokens);
    lse_shift(input(q), mean.data(), 0.125f, shift.data());
  }
  static QuantizeInput input(const std::vector<float>& x) {
    QuantizeInput in;
    in.x = rows(x.data());
    in.rows = kTokens;
    in.dim = kDim;
    return in;
  }
  Result exact(const std::vector<float>& keys) const {
    AttentionHead head;
    head.q = rows(q.data());
    head.k = rows(keys.data());
    head.v = rows(v.data());
    return attend(Dtype::kF32, head);
  }
  /// One scale per 50 tokens of Q and K, per channel of V.
  Result quantised(Dtype dtype, const float* k_mean) const {
    const auto& quantizer = quantize_at(dtype, detected_isa()).kernel;
    std::vector<int32_t> group(kTokens);
    for (size_t i = 0; i < group.size(); ++i)
      group[i] = static_cast<int32_t>(i / 50);
    std::vector<uint8_t> q_codes(kElements), k_codes(kElements), v_codes(kElements);
    std::vector<float> groups(4), q_scale(kTokens), k_scale(kTokens), v_scale(kDim);
    auto keys = input(k);
    keys.mean = k_mean;
    quantizer.tokens(input(q), group.data(), 4, q_codes.data(), groups.data(), q_scale.data());
    quantizer.tokens(keys, group.data(), 4, k_codes.data(), groups.data(), k_scale.data());
    quantizer.channels(input(v), v_codes.data(), v_scale.data());
    AttentionHead head;
    head.q = rows(q_codes.data());
    head.k = rows(k_codes.data());
    head.v = rows(v_codes.data());
    head.q_scale = q_scale.data();
    head.k_scale = k_scale.data();
    head.v_scale = v_scale.data();
    Result result = attend(dtype, head);
    for (size_t i = 0; k_mean && i < kTokens; ++i)
      result.lse[i] += shift[i];
    return result;
  }
  static double rms(const std::vector<float>& got, const std::vector<float>& want) {
    double squares = 0;
    for (size_t i = 0; i < got.size(); ++i)
      squares += (static_cast<double>(got[i]) - want[i]) * (static_cast<double>(got[i]) - want[i]);
    return std::sqrt(squares / static_cast<double>(got.size()));
  }

  std::vector<float> q, k, v, mean, smooth, shift;
};

TEST_F(KSmoothing, LeavesExactAttentionAsItIsAndLseByTheShift) {
  const auto plain = exact(k), smoothed = exact(smooth);
  EXPECT_LT(rms(smoothed.out, plain.out), tolerance::kSmoothing);
  for (size_t i = 0; i < kTokens; ++i)
    EXPECT_NEAR(smoothed.lse[i] + shift[i], plain.lse[i], tolerance::kSmoothing);
}

TEST_F(KSmoothing, MakesCodedAttentionOnOffsetKeysSeveralTimesMoreExact) {
  const auto want = exact(k);
  for (const Dtype dtype : {Dtype::kInt8, Dtype::kE4m3}) {
    const auto plain = quantised(dtype, nullptr), smoothed = quantised(dtype, mean.data());
    EXPECT_LT(3 * rms(smoothed.out, want.out), rms(plain.out, want.out)) << dtype_name(dtype);
    EXPECT_LT(3 * rms(smoothed.lse, want.lse), rms(plain.lse, want.lse)) << dtype_name(dtype);
  }
}

TEST_F(KSmoothing, EntriesSubtractTheMeanBeforeTheScale) {
  for (const auto& entry : quantize_entries()) {
    if (entry.isa > detected_isa()) continue;
    const std::vector<int32_t> group(kTokens, 0);
    auto with_mean = input(k);
    with_mean.mean = mean.data();
    std::vector<uint8_t> got(kElements), want(kElements);
    std::vector<float> got_scale(kDim), want_scale(kDim);
    entry.kernel.tokens(with_mean, group.data(), 1, got.data(), got_scale.data(), nullptr);
    entry.kernel.tokens(input(smooth), group.data(), 1, want.data(), want_scale.data(), nullptr);
    EXPECT_EQ(got, want) << entry.name;
    EXPECT_EQ(got_scale[0], want_scale[0]) << entry.name;
    entry.kernel.channels(with_mean, got.data(), got_scale.data());
    entry.kernel.channels(input(smooth), want.data(), want_scale.data());
    EXPECT_EQ(got, want) << entry.name;
    EXPECT_EQ(got_scale, want_scale) << entry.name;
  }
}

TEST(KeyMeans, FollowTheIndexAndReadBf16) {
  const uint16_t x[] = {numeric::bf16_from_f32(1), numeric::bf16_from_f32(7), numeric::bf16_from_f32(2)};
  uint16_t wide[3 * 8] = {};
  for (size_t i = 0; i < 3; ++i)
    wide[i * 8 + 3] = x[i];
  const int32_t index[] = {2, 0};
  float mean[8], shift[2];
  const QuantizeInput in{{wide, 8, index}, Dtype::kBf16, 2, 8};
  key_means(in, mean);
  EXPECT_EQ(mean[3], 1.5f);
  EXPECT_EQ(mean[0], 0.0f);
  lse_shift(in, mean, 0.5f, shift);
  EXPECT_EQ(shift[0], 1.5f);
  EXPECT_EQ(shift[1], 0.75f);
}

TEST(KeyMeans, AreZeroWithoutRowsAndNanWhereAnElementIs) {
  float x[8] = {}, mean[8] = {5, 5, 5, 5, 5, 5, 5, 5};
  x[2] = std::numeric_limits<float>::quiet_NaN();
  key_means({{x, 8, nullptr}, Dtype::kF32, 0, 8}, mean);
  EXPECT_EQ(mean[2], 0.0f);
  key_means({{x, 8, nullptr}, Dtype::kF32, 1, 8}, mean);
  EXPECT_TRUE(std::isnan(mean[2]));
  EXPECT_EQ(mean[1], 0.0f);
}

}  // namespace
}  // namespace fpsa::kernel
