// Walks the kernel table, and the AMX kernels on emulated tiles: every entry that this machine supports against the
// reference of its dtype.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
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
using testing_support::AttentionResult;
using testing_support::expect_known_codes;
using testing_support::KnownCodes;
using testing_support::run_entry;
using testing_support::tested_entries;

// Largest |value| of v, and the bound of a row's |S| error in natural-log units.
struct Magnitudes {
  double value = 0, score_error = 0;
};

Magnitudes magnitudes(const AttentionCase& test, const QueryBlock& block) {
  const AttentionHead& head = test.head;
  Magnitudes found;
  for (int32_t r = 0; r < block.range_count; ++r) {
    for (int64_t key = block.ranges[r].begin; key < block.ranges[r].end; ++key) {
      for (int64_t d = 0; d < head.dim; ++d)
        found.value = std::max(found.value, std::abs(test.value(head.v, nullptr, head.v_scale, key, d)));
      for (int64_t query = block.begin; query < block.end; ++query) {
        double sum = 0;
        for (int64_t d = 0; d < head.dim; ++d)
          sum += std::abs(test.value(head.q, head.q_scale, nullptr, query, d) *
                          test.value(head.k, head.k_scale, nullptr, key, d));
        // Two more roundings scale the dot product to log2 units.
        found.score_error = std::max(found.score_error,
                                     numeric::dot_bound(numeric::kF32Epsilon, head.dim + 2, sum) * head.softmax_scale);
      }
    }
  }
  return found;
}

// The largest visible score of a row in log2 units, in F64.
double largest_score(const AttentionCase& test, const QueryBlock& block, int64_t query) {
  const AttentionHead& head = test.head;
  double largest = -std::numeric_limits<double>::infinity();
  for (int32_t r = 0; r < block.range_count; ++r) {
    for (int64_t key = block.ranges[r].begin; key < block.ranges[r].end; ++key) {
      double dot = 0;
      for (int64_t d = 0; d < head.dim; ++d)
        dot += test.value(head.q, head.q_scale, nullptr, query, d) * test.value(head.k, head.k_scale, nullptr, key, d);
      largest = std::max(largest, dot * std::numbers::log2e * head.softmax_scale);
    }
  }
  return largest;
}

void compare(const AttentionFwdEntry& entry, const AttentionCase& test, const QueryBlock& block,
             const AttentionResult& got, const AttentionResult& want) {
  const auto [value, score_error] = magnitudes(test, block);
  int64_t keys = 0;
  for (int32_t r = 0; r < block.range_count; ++r)
    keys += block.ranges[r].end - block.ranges[r].begin;
  // exp2 is good to 3e-6 in the entries that round P anyway and to 3e-7 in F32; sums lose an epsilon per term.
  const double exp_error = entry.dtype == Dtype::kF32 ? 3e-7 : 3e-6;
  const double relative =
      tolerance::kAttentionF32 * (score_error + exp_error + static_cast<double>(keys + 2) * numeric::kF32Epsilon);
  double allowed = relative * value;
  if (entry.dtype == Dtype::kBf16) allowed += tolerance::kAttentionBf16 * value;
  if (entry.dtype == Dtype::kE4m3) allowed += tolerance::kAttentionE4m3 * value;
  double squares = 0, int8_squares = 0;
  int64_t elements = 0;
  for (int32_t i = block.begin; i < block.end; ++i) {
    const size_t row = static_cast<size_t>(test.head.q.index[i]);
    if (keys == 0) {
      EXPECT_EQ(got.lse[row], -std::numeric_limits<float>::infinity());
      EXPECT_EQ(got.row_max[row], -std::numeric_limits<float>::infinity());
    } else {
      EXPECT_NEAR(got.lse[row], want.lse[row], relative + 1e-6 * std::abs(want.lse[row])) << "row " << i;
      // The ceiling is open only where the largest score lies on an integer, within its error.
      const double top = largest_score(test, block, i);
      const double error = tolerance::kAttentionF32 * score_error * std::numbers::log2e;
      EXPECT_GE(got.row_max[row], std::ceil(top - error)) << "row " << i << " largest score " << top;
      EXPECT_LE(got.row_max[row], std::ceil(top + error)) << "row " << i << " largest score " << top;
    }
    // A code may differ by one, and the sum of P says what one code weighs.
    double code = 0;
    if (entry.dtype == Dtype::kInt8 && keys > 0) {
      EXPECT_EQ(got.row_max[row], want.row_max[row]) << "row " << i;
      code = 1 / (255 * std::exp2(want.lse[row] * std::numbers::log2e - want.row_max[row]));
      int8_squares += static_cast<double>(test.head.dim * keys) * code * code;
    }
    const double row_allowed = allowed + static_cast<double>(keys) * code * value;
    for (size_t d = 0; d < static_cast<size_t>(test.head.dim); ++d) {
      const size_t at = row * static_cast<size_t>(test.head.dim) + d;
      const double error = std::abs(static_cast<double>(got.out[at]) - want.out[at]);
      ASSERT_LE(error, row_allowed) << "row " << i << " channel " << d << ": expected " << want.out[at] << ", got "
                                    << got.out[at];
      squares += error * error;
      ++elements;
    }
  }
  if (entry.dtype == Dtype::kInt8 && elements > 0) {
    const double rms = std::sqrt(int8_squares / static_cast<double>(elements));
    EXPECT_LE(std::sqrt(squares / static_cast<double>(elements)),
              (tolerance::kAttentionInt8Rms * rms + relative) * value);
  }
  if (entry.dtype == Dtype::kE4m3 && elements > 0) {
    EXPECT_LE(std::sqrt(squares / static_cast<double>(elements)), (tolerance::kAttentionE4m3Rms + relative) * value);
  }
}

class AttentionFwdTable : public testing::TestWithParam<size_t> {
 protected:
  void SetUp() override {
    if (entry().isa > detected_isa()) GTEST_SKIP() << entry().name << " needs " << isa_requirements(entry().isa);
  }
  const AttentionFwdEntry& entry() const { return tested_entries()[GetParam()]; }
  const AttentionFwdEntry& reference() const { return attention_fwd_at(entry().dtype, Isa::kReference); }
};

TEST_P(AttentionFwdTable, MatchesTheReferenceOnRandomShapes) {
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    std::mt19937_64 random(seed * 7919);
    const int64_t dim = seed % 4 == 0 ? 64 : seed % 4 == 1 ? 128 : 8 + 8 * static_cast<int64_t>(random() % 32);
    const int64_t queries = 1 + static_cast<int64_t>(random() % 120), keys = 1 + static_cast<int64_t>(random() % 300);
    SCOPED_TRACE(join(entry().name, " seed ", seed, " queries ", queries, " keys ", keys, " dim ", dim));
    AttentionCase test(entry().dtype, seed, queries, keys, dim, seed % 5 == 0 ? 4.0 : 1.0);
    const auto ranges = test.random_ranges();
    QueryBlock block;
    block.begin = static_cast<int32_t>(random() % static_cast<uint64_t>(queries));
    block.end = static_cast<int32_t>(
        std::min<int64_t>(queries, block.begin + 1 + static_cast<int64_t>(random() % kMaxQueryRows)));
    block.ranges = ranges.data();
    block.range_count = static_cast<int32_t>(ranges.size());
    bool clean = false, reference_clean = false;
    const auto got = run_entry(entry().kernel, test, block, clean);
    const auto want = run_entry(reference().kernel, test, block, reference_clean);
    EXPECT_TRUE(clean) << "wrote outside its rows";
    EXPECT_TRUE(reference_clean);
    compare(entry(), test, block, got, want);
    if (HasFailure()) return;
  }
}

TEST_P(AttentionFwdTable, ARowDoesNotDependOnItsBlock) {
  AttentionCase test(entry().dtype, 5, 97, 211, 72);
  const auto ranges = test.random_ranges();
  auto run = [&](int32_t begin, int32_t end) {
    bool clean = false;
    return run_entry(entry().kernel, test, {begin, end, ranges.data(), static_cast<int32_t>(ranges.size())}, clean);
  };
  const auto whole = run(0, 96);
  for (const auto& [begin, end] : {std::pair{0, 1}, {7, 20}, {95, 96}, {40, 96}}) {
    const auto part = run(begin, end);
    for (int32_t i = begin; i < end; ++i) {
      const size_t row = static_cast<size_t>(test.head.q.index[i]) * 72;
      EXPECT_EQ(0, std::memcmp(&whole.out[row], &part.out[row], 72 * sizeof(float))) << "row " << i;
    }
  }
}

TEST_P(AttentionFwdTable, CutsBetweenTouchingRangesChangeNothing) {
  AttentionCase test(entry().dtype, 8, 40, 333, 48);
  const std::vector<KeyRange> whole = {{5, 290}, {300, 333}};
  const std::vector<KeyRange> cut = {{5, 6}, {6, 64}, {64, 71}, {71, 200}, {200, 290}, {300, 320}, {320, 333}};
  bool clean = false;
  const auto want = run_entry(entry().kernel, test, {0, 40, whole.data(), 2}, clean);
  const auto got = run_entry(entry().kernel, test, {0, 40, cut.data(), 7}, clean);
  EXPECT_EQ(got.out, want.out);
  EXPECT_EQ(got.lse, want.lse);
}

TEST_P(AttentionFwdTable, Bf16OutputIsTheRoundedF32Output) {
  AttentionCase test(entry().dtype, 9, 30, 100, 40);
  const KeyRange all{0, 100};
  bool clean = false;
  const auto f32 = run_entry(entry().kernel, test, {3, 25, &all, 1}, clean);
  const auto bf16 = run_entry(entry().kernel, test, {3, 25, &all, 1}, clean, Dtype::kBf16);
  EXPECT_TRUE(clean);
  for (int32_t i = 3; i < 25; ++i)
    for (size_t d = 0; d < 40; ++d) {
      const size_t at = static_cast<size_t>(test.head.q.index[i]) * 40 + d;
      EXPECT_EQ(bf16.out[at], numeric::f32_from_bf16(numeric::bf16_from_f32(f32.out[at])));
    }
}

// Runs keys [0, keys) of a case over all queries; `exact` may be null.
void run_dense(const AttentionFwd& kernel, const AttentionCase& test, float* out, float* exact) {
  const AttentionHead& head = test.head;
  testing_support::Guarded packed(kernel.packed_bytes(head.keys, head.dim));
  testing_support::Guarded scratch(kernel.scratch_bytes(head.keys, head.dim));
  kernel.pack(head, 0, head.keys, packed.data());
  const Visibility all = Visibility::dense(head.queries, head.keys);
  for (const auto& block : all.blocks())
    kernel.run(head, packed.data(), block,
               {out, head.dim, Dtype::kF32, head.q.index, nullptr, nullptr, exact, head.dim}, scratch.data());
  EXPECT_TRUE(packed.intact() && scratch.intact());
}

// The exact output is what the reference makes of unrounded P; asking for it changes nothing else.
TEST_P(AttentionFwdTable, ExactOutputHasUnroundedProbabilities) {
  if (entry().dtype == Dtype::kInt8) GTEST_SKIP() << "INT8 entries have no backward, so no exact output";
  for (const int64_t dim : {128, 40}) {
    AttentionCase test(entry().dtype, 12, 101, 333, dim);
    const size_t count = static_cast<size_t>(101 * dim);
    std::vector<float> out(count), exact(count), alone(count), want_out(count), want(count);
    run_dense(entry().kernel, test, alone.data(), nullptr);
    run_dense(entry().kernel, test, out.data(), exact.data());
    run_dense(reference().kernel, test, want_out.data(), want.data());
    EXPECT_EQ(out, alone);
    if (entry().dtype != Dtype::kE4m3) {
      EXPECT_EQ(exact, out);
      continue;
    }
    const KeyRange all{0, 333};
    const auto [value, score_error] = magnitudes(test, {0, 96, &all, 1});
    double largest = 0, coded = 0;
    for (size_t i = 0; i < count; ++i) {
      largest = std::max(largest, std::abs(static_cast<double>(exact[i]) - want[i]));
      coded = std::max(coded, std::abs(static_cast<double>(out[i]) - want[i]));
    }
    // P as BF16 twice rounded at most; the coded output is further off than that.
    EXPECT_LT(largest, tolerance::kAttentionExact * value);
    EXPECT_GT(coded, tolerance::kAttentionExact * value);
  }
}

TEST_P(AttentionFwdTable, EmptyMaskRowGivesZero) {
  AttentionCase test(entry().dtype, 3, 10, 20, 16);
  bool clean = false;
  const auto got = run_entry(entry().kernel, test, {0, 10, nullptr, 0}, clean);
  EXPECT_TRUE(clean);
  EXPECT_EQ(got.out, std::vector<float>(160, 0.0f));
  EXPECT_EQ(got.lse, std::vector<float>(10, -std::numeric_limits<float>::infinity()));
}

TEST_P(AttentionFwdTable, LargeScoresDoNotOverflow) {
  AttentionCase test(entry().dtype, 4, 12, 70, 64, 60.0);
  const KeyRange all{0, 70};
  bool clean = false;
  const auto got = run_entry(entry().kernel, test, {0, 12, &all, 1}, clean);
  for (const float x : got.out)
    EXPECT_TRUE(std::isfinite(x));
  for (const float x : got.lse)
    EXPECT_TRUE(std::isfinite(x));
}

// Payloads too: a NaN with low bits set must not become a number where 2^x works on bits.
TEST_P(AttentionFwdTable, ANanScoreMakesItsRowNan) {
  for (const uint32_t nan : {0x7fc00000u, 0x7fc00001u, 0xffc00001u, 0x7f800001u, 0x7fc10000u, 0x7fffffffu}) {
    SCOPED_TRACE(join("bits ", nan));
    AttentionCase test(entry().dtype, 6, 7, 90, 24);
    const size_t at = static_cast<size_t>(test.query_index[2] * test.stride + 5);
    // The upper half of 0x7f800001 would be infinity.
    const uint16_t bf16 = static_cast<uint16_t>(nan >> 16 | (nan & 1));
    if (entry().dtype == Dtype::kF32)
      std::memcpy(test.q.data() + at * 4, &nan, 4);
    else if (entry().dtype == Dtype::kBf16)
      std::memcpy(test.q.data() + at * 2, &bf16, 2);
    else if (entry().dtype == Dtype::kE4m3)
      test.q[at] = nan >> 31 ? 0x80 | numeric::kE4m3Nan : numeric::kE4m3Nan;
    else
      test.q_scale[2] = std::bit_cast<float>(nan);
    const KeyRange all{0, 90};
    bool clean = false;
    const auto got = run_entry(entry().kernel, test, {0, 7, &all, 1}, clean);
    for (int32_t i = 0; i < 7; ++i)
      for (size_t d = 0; d < 24; ++d)
        EXPECT_EQ(std::isnan(got.out[static_cast<size_t>(test.query_index[static_cast<size_t>(i)]) * 24 + d]), i == 2);
  }
}

// What a bad group or channel leaves in its scale shows where it is used, and only there.
TEST_P(AttentionFwdTable, ANanOrInfiniteScaleShowsInTheRowsThatUseIt) {
  if (entry().dtype != Dtype::kE4m3 && entry().dtype != Dtype::kInt8) return;
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    AttentionCase test(entry().dtype, 12, 9, 200, 32);
    test.k_scale[150] = bad;
    for (size_t d = 0; d < 32; ++d)
      test.k[static_cast<size_t>(test.key_index[150] * test.stride) + d] = 0;
    const KeyRange without{0, 140}, with{100, 200};
    bool clean = false;
    for (const float x : run_entry(entry().kernel, test, {0, 9, &without, 1}, clean).out)
      EXPECT_TRUE(std::isfinite(x));
    for (const float x : run_entry(entry().kernel, test, {0, 9, &with, 1}, clean).out)
      EXPECT_TRUE(std::isnan(x));
    test.v_scale[7] = std::numeric_limits<float>::quiet_NaN();
    const auto got = run_entry(entry().kernel, test, {0, 9, &without, 1}, clean);
    for (size_t i = 0; i < got.out.size(); ++i)
      EXPECT_EQ(std::isnan(got.out[i]), i % 32 == 7);
  }
}

INSTANTIATE_TEST_SUITE_P(Entries, AttentionFwdTable, testing::Range<size_t>(0, tested_entries().size()),
                         [](const auto& info) { return std::string(tested_entries()[info.param].name); });

// One query whose keys have those scores. Values are multiples of 1/4 in [-1, 1]; scales of v are 1.
void set_scores(AttentionCase& test, const std::vector<double>& s2) {
  constexpr float kQuery[8] = {2, 1, -1, 0.5f, 0, 0, 0, 0}, kKey[8] = {1, 0.5f, 2, 4, 7, -3, 5, 6};
  constexpr double kDot = 2.5;
  test.head.softmax_scale = std::numbers::ln2_v<float>;
  test.q_scale = {1.0f};
  test.v_scale.assign(8, 1.0f);
  test.head.q_scale = test.q_scale.data();
  for (size_t d = 0; d < 8; ++d)
    test.q[d] = numeric::e4m3_from_f32(kQuery[d]);
  for (size_t j = 0; j < s2.size(); ++j) {
    test.k_scale[j] = static_cast<float>(std::abs(s2[j]) / kDot);
    const size_t row = static_cast<size_t>(test.key_index[j] * test.stride);
    for (size_t d = 0; d < 8; ++d) {
      test.k[row + d] = numeric::e4m3_from_f32(s2[j] < 0 ? -kKey[d] : kKey[d]);
      test.v[row + d] = numeric::e4m3_from_f32(0.25f * static_cast<float>((3 * j + 5 * d) % 9) - 1.0f);
    }
  }
}

TEST(AttentionFwdE4m3, ProbabilitiesHaveTheCodesOfTheRule) {
  // E4M3(256 P), by value.
  const std::vector<KnownCodes> cases = {
      {{-0.3}, {208}},                                             // m 0, 256 P 207.9
      {{2.6, 1.1}, {192, 72}},                                     // m 3, 194.0 and 68.6
      {{0.7, -3.2, -0.9}, {208, 14, 72}},                          // m 1, 207.9, 13.9 and 68.6
      {{5.5, 4.2, -4.6, -9.4}, {176, 72, 11.0 / 64, 3 * 0x1p-9}},  // m 6, 181.0, 73.5, 0.165 and a subnormal 0.00592
  };
  for (const auto& entry : tested_entries()) {
    if (entry.dtype != Dtype::kE4m3 || entry.isa > detected_isa()) continue;
    for (const auto& known : cases) {
      SCOPED_TRACE(join(entry.name, " keys ", known.s2.size()));
      AttentionCase test(Dtype::kE4m3, 1, 1, static_cast<int64_t>(known.s2.size()), 8);
      set_scores(test, known.s2);
      expect_known_codes(entry.kernel, test, known, 256, tolerance::kAttentionE4m3Codes);
    }
  }
}

TEST(AttentionFwdReference, MatchesADirectSoftmaxInF64) {
  AttentionCase test(Dtype::kF32, 11, 9, 33, 16);
  const KeyRange all{0, 33};
  bool clean = false;
  const auto got = run_entry(attention_fwd_at(Dtype::kF32, Isa::kReference).kernel, test, {0, 9, &all, 1}, clean);
  for (int64_t i = 0; i < 9; ++i) {
    double weights[33], sum = 0;
    for (int64_t j = 0; j < 33; ++j) {
      double dot = 0;
      for (int64_t d = 0; d < 16; ++d)
        dot += test.value(test.head.q, nullptr, nullptr, i, d) * test.value(test.head.k, nullptr, nullptr, j, d);
      sum += weights[j] = std::exp(dot * test.head.softmax_scale);
    }
    const size_t row = static_cast<size_t>(test.query_index[static_cast<size_t>(i)]);
    EXPECT_NEAR(got.lse[row], std::log(sum), 1e-6);
    for (int64_t d = 0; d < 16; ++d) {
      double value = 0;
      for (int64_t j = 0; j < 33; ++j)
        value += weights[j] / sum * test.value(test.head.v, nullptr, nullptr, j, d);
      EXPECT_NEAR(got.out[row * 16 + static_cast<size_t>(d)], value, 2e-6);
    }
  }
}

}  // namespace
}  // namespace fpsa::kernel
