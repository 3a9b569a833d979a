// Walks the quantise table: exact codes and scales.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "fpsa/kernel/table.h"
#include "fpsa/numeric/bf16.h"
#include "fpsa/numeric/int8.h"
#include "fpsa/numeric/scales.h"

namespace fpsa::kernel {
namespace {

class QuantizeTable : public testing::TestWithParam<size_t> {
 protected:
  void SetUp() override {
    if (entry().isa > detected_isa()) GTEST_SKIP() << entry().name << " needs " << isa_requirements(entry().isa);
  }
  const QuantizeEntry& entry() const { return quantize_entries()[GetParam()]; }
  bool int8() const { return entry().dtype == Dtype::kInt8; }
  float scale_of(float absmax) const {
    return int8() ? numeric::int8_scale_from_absmax(absmax) : numeric::scale_from_absmax(absmax);
  }
  // Rows of 8 as one group, whose largest magnitude gives scale 1.
  std::vector<uint8_t> codes_at_scale_one(const std::vector<float>& x) const {
    const int64_t rows = static_cast<int64_t>(x.size()) / 8;
    const std::vector<int32_t> group(static_cast<size_t>(rows), 0);
    std::vector<uint8_t> codes(x.size());
    float scale = 0;
    entry().kernel.tokens({{x.data(), 8, nullptr}, Dtype::kF32, rows, 8}, group.data(), 1, codes.data(), &scale,
                          nullptr);
    EXPECT_EQ(scale, 1.0f);
    return codes;
  }
  uint8_t code_of(float x, float scale) const {
    return int8() ? static_cast<uint8_t>(numeric::quantize_int8(x, scale)) : numeric::quantize_e4m3(x, scale);
  }
};

struct Rows {
  Rows(Dtype dtype, int64_t rows, int64_t dim, uint64_t seed) : dim(dim), stride(dim + 16) {
    std::mt19937_64 random(seed);
    std::normal_distribution<float> normal(0.0f, 3.0f);
    for (int64_t i = 0; i < rows * stride; ++i) {
      const float x = random() % 50 == 0 ? 0.0f : std::ldexp(normal(random), static_cast<int>(random() % 12) - 8);
      bf16.push_back(numeric::bf16_from_f32(x));
      f32.push_back(dtype == Dtype::kF32 ? x : numeric::f32_from_bf16(bf16.back()));
    }
    for (int64_t i = 0; i < rows; ++i)
      index.push_back(static_cast<int32_t>(i));
    std::shuffle(index.begin(), index.end(), random);
    in.x = {dtype == Dtype::kF32 ? static_cast<const void*>(f32.data()) : bf16.data(), stride, index.data()};
    in.dtype = dtype;
    in.rows = rows;
    in.dim = dim;
  }
  float at(int64_t position, int64_t d) const {
    return f32[static_cast<size_t>(index[static_cast<size_t>(position)] * stride + d)];
  }
  int64_t dim, stride;
  std::vector<float> f32;
  std::vector<uint16_t> bf16;
  std::vector<int32_t> index;
  QuantizeInput in;
};

TEST_P(QuantizeTable, TokenGroupsGetAbsmaxScalesAndExactCodes) {
  for (uint64_t seed = 1; seed <= 12; ++seed) {
    const int64_t rows = 1 + static_cast<int64_t>(seed * 37 % 101), dim = 8 * static_cast<int64_t>(1 + seed % 20);
    const Rows x(seed % 2 ? Dtype::kF32 : Dtype::kBf16, rows, dim, seed);
    const int64_t groups = 1 + rows / 7;
    std::vector<int32_t> group(static_cast<size_t>(rows));
    for (size_t i = 0; i < group.size(); ++i)
      group[i] = static_cast<int32_t>(static_cast<int64_t>(i * i) % groups);
    std::vector<uint8_t> codes(static_cast<size_t>(rows * dim) + 64, 0xa5);
    std::vector<float> scale(static_cast<size_t>(groups)), token_scale(static_cast<size_t>(rows));
    entry().kernel.tokens(x.in, group.data(), groups, codes.data(), scale.data(), token_scale.data());
    for (int64_t g = 0; g < groups; ++g) {
      float top = 0;
      for (int64_t i = 0; i < rows; ++i)
        for (int64_t d = 0; d < dim && group[static_cast<size_t>(i)] == g; ++d)
          top = std::max(top, std::abs(x.at(i, d)));
      EXPECT_EQ(scale[static_cast<size_t>(g)], scale_of(top));
    }
    for (int64_t i = 0; i < rows; ++i) {
      EXPECT_EQ(token_scale[static_cast<size_t>(i)], scale[static_cast<size_t>(group[static_cast<size_t>(i)])]);
      for (int64_t d = 0; d < dim; ++d)
        ASSERT_EQ(codes[static_cast<size_t>(i * dim + d)], code_of(x.at(i, d), token_scale[static_cast<size_t>(i)]))
            << entry().name << " seed " << seed << " row " << i << " channel " << d << " value " << x.at(i, d);
    }
    EXPECT_EQ(std::count(codes.end() - 64, codes.end(), 0xa5), 64) << "wrote past the codes";
  }
}

TEST_P(QuantizeTable, ChannelsGetAbsmaxScalesAndExactCodes) {
  for (uint64_t seed = 1; seed <= 8; ++seed) {
    const int64_t rows = 1 + static_cast<int64_t>(seed * 53 % 131), dim = 8 * static_cast<int64_t>(1 + seed % 17);
    const Rows x(seed % 2 ? Dtype::kBf16 : Dtype::kF32, rows, dim, seed);
    std::vector<uint8_t> codes(static_cast<size_t>(rows * dim) + 64, 0xa5);
    std::vector<float> scale(static_cast<size_t>(dim));
    entry().kernel.channels(x.in, codes.data(), scale.data());
    for (int64_t d = 0; d < dim; ++d) {
      float top = 0;
      for (int64_t i = 0; i < rows; ++i)
        top = std::max(top, std::abs(x.at(i, d)));
      EXPECT_EQ(scale[static_cast<size_t>(d)], scale_of(top));
      for (int64_t i = 0; i < rows; ++i)
        ASSERT_EQ(codes[static_cast<size_t>(i * dim + d)], code_of(x.at(i, d), scale[static_cast<size_t>(d)]));
    }
    EXPECT_EQ(std::count(codes.end() - 64, codes.end(), 0xa5), 64) << "wrote past the codes";
  }
}

TEST_P(QuantizeTable, ZerosGetScaleOneAndNanShowsInTheScale) {
  std::vector<float> x(3 * 8, 0.0f);
  x[8] = std::numeric_limits<float>::quiet_NaN();
  x[16] = 5.0f;
  const int32_t group[3] = {0, 1, 2};
  uint8_t codes[24];
  float scale[4];
  entry().kernel.tokens({{x.data(), 8, nullptr}, Dtype::kF32, 3, 8}, group, 4, codes, scale, nullptr);
  EXPECT_EQ(scale[0], 1.0f);
  EXPECT_TRUE(std::isnan(scale[1]));
  EXPECT_EQ(scale[2], 5.0f / (int8() ? 127.0f : 448.0f));
  EXPECT_EQ(scale[3], 1.0f);  // no row
  EXPECT_EQ(codes[0], 0);
  EXPECT_EQ(codes[16], int8() ? 127 : 0x7e);
}

// A group of scale 1 whose elements are every code's value, its neighbours and the midpoints between codes.
TEST_P(QuantizeTable, RoundsEveryMidpointAndNeighbourAsTheScalarDoes) {
  if (int8()) return;  // the next test
  std::vector<float> x = {448.0f};
  for (int code = 0; code < 0x7e; ++code) {
    const float low = numeric::f32_from_e4m3(static_cast<uint8_t>(code));
    const float middle = 0.5f * (low + numeric::f32_from_e4m3(static_cast<uint8_t>(code + 1)));
    for (const float value : {low, middle, std::nextafter(middle, 0.0f), std::nextafter(middle, 500.0f)}) {
      x.push_back(value);
      x.push_back(-value);
    }
  }
  x.push_back(0x1p-149f);
  x.push_back(-0.0f);
  while (x.size() % 8 != 0)
    x.push_back(0.0f);
  const auto codes = codes_at_scale_one(x);
  for (size_t i = 0; i < x.size(); ++i)
    EXPECT_EQ(codes[i], numeric::e4m3_from_f32(x[i])) << x[i];
}

TEST_P(QuantizeTable, Int8RoundsEveryMidpointToEvenAndItsNeighboursToTheNearest) {
  if (!int8()) return;
  std::vector<float> x = {127.0f};
  std::vector<int> want = {127};
  for (int code = 0; code < 127; ++code) {
    const float middle = static_cast<float>(code) + 0.5f;
    const int even = code + code % 2;
    const std::pair<float, int> cases[] = {{static_cast<float>(code), code},
                                           {middle, even},
                                           {std::nextafter(middle, 0.0f), code},
                                           {std::nextafter(middle, 200.0f), code + 1}};
    for (const auto& [value, rounded] : cases) {
      x.insert(x.end(), {value, -value});
      want.insert(want.end(), {rounded, -rounded});
    }
  }
  while (x.size() % 8 != 0) {
    x.push_back(-0x1p-149f);
    want.push_back(0);
  }
  const auto codes = codes_at_scale_one(x);
  for (size_t i = 0; i < x.size(); ++i)
    EXPECT_EQ(static_cast<int8_t>(codes[i]), want[i]) << x[i];
}

// Tiny and huge groups: the scale has a floor, and no quotient leaves the codes.
TEST_P(QuantizeTable, ExtremeGroupsGetTheScalarsCodes) {
  const float top = std::numeric_limits<float>::max(), infinity = std::numeric_limits<float>::infinity();
  for (const float largest : {top, 0x1p-120f, 0x1p-126f, 0x1p-149f, infinity}) {
    const float x[8] = {largest, -largest, largest / 3, 0.0f, -largest / 7, largest / 2, largest / 127, -0.0f};
    const int32_t group = 0;
    uint8_t codes[8];
    float scale = 0;
    entry().kernel.tokens({{x, 8, nullptr}, Dtype::kF32, 1, 8}, &group, 1, codes, &scale, nullptr);
    EXPECT_EQ(scale, scale_of(largest));
    for (size_t i = 0; i < 8; ++i)
      EXPECT_EQ(codes[i], code_of(x[i], scale)) << entry().name << ' ' << x[i] << " of " << largest;
    if (largest == infinity && int8()) {
      EXPECT_EQ(std::count(codes, codes + 8, 0), 8);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Entries, QuantizeTable, testing::Range<size_t>(0, quantize_entries().size()),
                         [](const auto& info) { return std::string(quantize_entries()[info.param].name); });

}  // namespace
}  // namespace fpsa::kernel
