// Walks the pre-pass table: every entry has the reference's bits, the reference those of the quantise kernel, and the
// norm and rotation inside are those of F64.
#include "fpsa/kernel/prepass.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <random>

#include "fpsa/kernel/table.h"
#include "fpsa/numeric/bf16.h"
#include "fpsa/numeric/bounds.h"
#include "fpsa/numeric/int8.h"
#include "fpsa/numeric/scales.h"

namespace fpsa::kernel {
namespace {

constexpr uint8_t kPoison = 0xa5;
constexpr float kUnwritten = -7.0f;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Shape {
  Dtype dtype;
  int64_t rows, heads, dim;
  bool norm = true, turn = true, centre = false;
};

// Random rows with gaps between them, a shuffled index, angles that are not those of any axis.
struct Case {
  Case(const Shape& shape, uint64_t seed) : width(shape.heads * shape.dim), stride(width + 24) {
    std::mt19937_64 random(seed);
    std::normal_distribution<float> normal(0.0f, 3.0f);
    for (int64_t i = 0; i < shape.rows * stride; ++i) {
      const float x = random() % 50 == 0 ? 0.0f : std::ldexp(normal(random), static_cast<int>(random() % 12) - 8);
      f32.push_back(x);
    }
    for (int64_t i = 0; i < width; ++i)
      weight.push_back(1.0f + 0.3f * normal(random));
    for (int64_t i = 0; i < width; ++i)
      mean.push_back(normal(random));
    for (int64_t i = 0; i < shape.rows * shape.dim / 2; ++i) {
      const float angle = 5.0f * normal(random);
      turns.push_back(std::cos(angle));
      turns.push_back(std::sin(angle));
    }
    for (int64_t i = 0; i < shape.rows; ++i)
      index.push_back(static_cast<int32_t>(i));
    std::shuffle(index.begin(), index.end(), random);
    in.dtype = shape.dtype;
    in.rows = shape.rows;
    in.heads = shape.heads;
    in.dim = shape.dim;
    in.eps = 1e-6f;
    in.weight = shape.norm ? weight.data() : nullptr;
    in.turns = shape.turn ? turns.data() : nullptr;
    in.mean = shape.centre ? mean.data() : nullptr;
    refresh();
  }
  // To be called after a change of f32: makes the BF16 copy, and the values equal to it.
  void refresh() {
    bf16.clear();
    for (float& x : f32) {
      bf16.push_back(numeric::bf16_from_f32(x));
      if (in.dtype == Dtype::kBf16) x = numeric::f32_from_bf16(bf16.back());
    }
    in.x = {in.dtype == Dtype::kF32 ? static_cast<const void*>(f32.data()) : bf16.data(), stride, index.data()};
  }
  float& at(int64_t position, int64_t i) {
    return f32[static_cast<size_t>(index[static_cast<size_t>(position)] * stride + i)];
  }
  // Value d of head h after norm and rotation, in F64.
  double exact(int64_t position, int64_t h, int64_t d) {
    double squares = 0;
    for (int64_t i = 0; i < width; ++i)
      squares += static_cast<double>(at(position, i)) * at(position, i);
    auto normed = [&](int64_t c) {
      const double x = at(position, h * in.dim + c);
      if (!in.weight) return x;
      return x / std::sqrt(squares / static_cast<double>(width) + in.eps) * in.weight[h * in.dim + c];
    };
    if (!in.turns) return normed(d);
    const float* turn = in.turns + index[static_cast<size_t>(position)] * in.dim + d / 2 * 2;
    return d % 2 == 0 ? normed(d) * turn[0] - normed(d + 1) * turn[1] : normed(d) * turn[0] + normed(d - 1) * turn[1];
  }
  int64_t width, stride;
  std::vector<float> f32, weight, mean, turns;
  std::vector<uint16_t> bf16;
  std::vector<int32_t> index;
  PrepassInput in;
};

struct Result {
  std::vector<float> absmax, scale, inverse_rms, token_scale;
  std::vector<uint8_t> codes;
};

// Codes of positions [begin, end) as one group; everything else keeps its poison.
Result run_tokens(const Prepass& kernel, const PrepassInput& in, int64_t begin, int64_t end) {
  Result r;
  r.absmax.assign(static_cast<size_t>(in.heads) + 1, kUnwritten);
  r.inverse_rms.assign(static_cast<size_t>(in.rows), kUnwritten);
  r.token_scale.assign(static_cast<size_t>(in.heads * in.rows), kUnwritten);
  r.codes.assign(static_cast<size_t>(in.heads * in.rows * in.dim) + 64, kPoison);
  kernel.absmax(in, begin, end, r.inverse_rms.data(), r.absmax.data());
  EXPECT_EQ(r.absmax.back(), kUnwritten);
  for (int64_t h = 0; h < in.heads; ++h)
    r.scale.push_back(kernel.scale(r.absmax[static_cast<size_t>(h)]));
  kernel.codes(in, begin, end, r.inverse_rms.data(), r.scale.data(), r.codes.data(), r.token_scale.data());
  return r;
}

Result run_channels(const Prepass& kernel, const PrepassInput& in) {
  Result r;
  r.absmax.assign(static_cast<size_t>(in.heads * in.dim), 0.0f);
  r.codes.assign(static_cast<size_t>(in.heads * in.rows * in.dim) + 64, kPoison);
  const int64_t middle = in.rows / 2;
  if (middle > 0) kernel.channel_absmax(in, 0, middle, r.absmax.data());
  kernel.channel_absmax(in, middle, in.rows, r.absmax.data());
  for (const float absmax : r.absmax)
    r.scale.push_back(kernel.scale(absmax));
  kernel.channel_codes(in, 0, in.rows, r.scale.data(), r.codes.data());
  return r;
}

// Bits equal, but for the payload of a NaN.
void expect_same(const std::vector<float>& got, const std::vector<float>& expected, const std::string& what) {
  ASSERT_EQ(got.size(), expected.size());
  for (size_t i = 0; i < got.size(); ++i)
    if (!(std::isnan(got[i]) && std::isnan(expected[i]))) {
      ASSERT_EQ(std::bit_cast<uint32_t>(got[i]), std::bit_cast<uint32_t>(expected[i]))
          << what << " at " << i << ": got " << got[i] << ", expected " << expected[i];
    }
}

void expect_same(const Result& got, const Result& expected, const std::string& what) {
  expect_same(got.absmax, expected.absmax, what + ": absmax");
  expect_same(got.scale, expected.scale, what + ": scale");
  expect_same(got.inverse_rms, expected.inverse_rms, what + ": inverse_rms");
  expect_same(got.token_scale, expected.token_scale, what + ": token_scale");
  ASSERT_EQ(got.codes.size(), expected.codes.size());
  for (size_t i = 0; i < got.codes.size(); ++i)
    ASSERT_EQ(got.codes[i], expected.codes[i]) << what << ": code at " << i;
}

std::vector<Shape> shapes(std::initializer_list<bool> centres = {false, true}) {
  std::vector<Shape> shapes;
  for (const Dtype dtype : {Dtype::kF32, Dtype::kBf16})
    for (const bool norm : {true, false})
      for (const bool turn : {true, false})
        for (const auto& [rows, heads, dim] :
             {std::tuple(1, 1, 8), {3, 3, 8}, {9, 2, 24}, {7, 5, 40}, {13, 2, 64}, {6, 3, 128}, {5, 1, 256}})
          for (const bool centre : centres)
            shapes.push_back({dtype, rows, heads, dim, norm, turn, centre});
  return shapes;
}

std::string name_of(const Shape& s) {
  return std::string(dtype_name(s.dtype)) + " " + std::to_string(s.rows) + " rows " + std::to_string(s.heads) +
         " heads of " + std::to_string(s.dim) + (s.norm ? " norm" : "") + (s.turn ? " turn" : "") +
         (s.centre ? " mean" : "");
}

class PrepassTable : public testing::TestWithParam<size_t> {
 protected:
  void SetUp() override {
    if (entry().isa > detected_isa()) GTEST_SKIP() << entry().name << " needs " << isa_requirements(entry().isa);
  }
  const PrepassEntry& entry() const { return prepass_entries()[GetParam()]; }
  const Prepass& kernel() const { return entry().kernel; }
  bool e4m3() const { return entry().codes == Dtype::kE4m3; }
  double value(uint8_t code) const {
    return e4m3() ? numeric::f32_from_e4m3(code) : static_cast<double>(static_cast<int8_t>(code));
  }
  const Prepass& reference() const { return prepass_at(entry().codes, Isa::kReference).kernel; }
};

TEST_P(PrepassTable, HasTheReferencesBitsAndWritesItsRowsOnly) {
  uint64_t seed = 0;
  for (const Shape& shape : shapes()) {
    Case x(shape, ++seed);
    for (const auto& [begin, end] :
         {std::pair<int64_t, int64_t>(0, shape.rows), {shape.rows / 3, shape.rows}, {0, shape.rows - shape.rows / 2}})
      expect_same(run_tokens(kernel(), x.in, begin, end), run_tokens(reference(), x.in, begin, end),
                  name_of(shape) + " seed " + std::to_string(seed));
    expect_same(run_channels(kernel(), x.in), run_channels(reference(), x.in), name_of(shape) + " channels");
    const Result part = run_tokens(kernel(), x.in, 0, 1);
    for (int64_t h = 0; h < shape.heads; ++h)
      for (int64_t i = 1; i < shape.rows; ++i) {
        const auto row = static_cast<size_t>(h * shape.rows + i);
        ASSERT_EQ(part.token_scale[row], kUnwritten);
        ASSERT_EQ(std::count(part.codes.begin() + static_cast<int64_t>(row) * shape.dim,
                             part.codes.begin() + static_cast<int64_t>(row + 1) * shape.dim, kPoison),
                  shape.dim);
      }
    EXPECT_EQ(std::count(part.codes.end() - 64, part.codes.end(), kPoison), 64);
  }
}

// F32: sum and root 16 eps at most, then one rounding each of x * r, * weight, two products and a sum, on terms of up
// to |y0| + |y1|. The value then has the error of its dtype and of its code.
TEST_P(PrepassTable, CodesAreThoseOfTheNormedAndRotatedValues) {
  uint64_t seed = 100;
  for (const Shape& shape : shapes({false})) {
    Case x(shape, ++seed);
    const Result got = run_tokens(kernel(), x.in, 0, shape.rows);
    for (int64_t h = 0; h < shape.heads; ++h) {
      double most = 0;
      for (int64_t i = 0; i < shape.rows; ++i)
        for (int64_t d = 0; d < shape.dim; ++d)
          most = std::max(most, std::abs(x.exact(i, h, d)));
      const double storage = shape.dtype == Dtype::kBf16 ? numeric::kBf16Epsilon : 0.0;
      const double computed = 2.0 * most * (24 * numeric::kF32Epsilon);
      const double absmax = got.absmax[static_cast<size_t>(h)];
      EXPECT_NEAR(absmax, most, computed + most * storage) << name_of(shape);
      const double scale = got.scale[static_cast<size_t>(h)];
      for (int64_t i = 0; i < shape.rows; ++i)
        for (int64_t d = 0; d < shape.dim; ++d) {
          const double expected = x.exact(i, h, d);
          const auto at = static_cast<size_t>((h * shape.rows + i) * shape.dim + d);
          const double error = computed + std::abs(expected) * storage;
          const double rounding = e4m3() ? numeric::e4m3_rounding_bound((std::abs(expected) + error) / scale) : 0.5;
          ASSERT_NEAR(value(got.codes[at]) * scale, expected, error + scale * rounding)
              << name_of(shape) << " row " << i << " head " << h << " channel " << d;
        }
    }
  }
}

// Quantising what prepare() writes gives the codes of the two fused steps, and of every entry the same.
TEST_P(PrepassTable, CodesAreThoseOfThePreparedRows) {
  uint64_t seed = 200;
  for (const Shape& shape : shapes()) {
    Case x(shape, ++seed);
    const bool f32 = shape.dtype == Dtype::kF32;
    const size_t bytes = static_cast<size_t>(shape.rows * x.width * (f32 ? 4 : 2));
    std::vector<uint8_t> rows(bytes + 64, kPoison), expected(bytes + 64, kPoison);
    kernel().prepare(x.in, 0, shape.rows, rows.data());
    reference().prepare(x.in, 0, shape.rows, expected.data());
    ASSERT_EQ(rows, expected) << name_of(shape);
    PrepassInput prepared = x.in;
    prepared.x = {rows.data(), x.width, nullptr};
    prepared.weight = prepared.turns = nullptr;
    const Result fused = run_tokens(kernel(), x.in, 0, shape.rows),
                 after = run_tokens(kernel(), prepared, 0, shape.rows);
    EXPECT_EQ(fused.codes, after.codes) << name_of(shape);
    EXPECT_EQ(fused.scale, after.scale) << name_of(shape);
    std::fill(rows.begin(), rows.end(), kPoison);
    kernel().prepare(x.in, shape.rows - 1, shape.rows, rows.data());
    EXPECT_EQ(std::count(rows.begin(), rows.begin() + (shape.rows - 1) * x.width * (f32 ? 4 : 2), kPoison),
              (shape.rows - 1) * x.width * (f32 ? 4 : 2));
  }
}

TEST_P(PrepassTable, PreparedNanStaysNan) {
  Case x({Dtype::kBf16, 5, 1, 24, true, false}, 4);
  x.weight[3] = std::bit_cast<float>(0x7fffffffu);  // rounding as a number would carry into the sign
  std::vector<uint16_t> rows(5 * 24);
  kernel().prepare(x.in, 0, 5, rows.data());
  for (size_t i = 0; i < rows.size(); ++i)
    EXPECT_EQ(std::isnan(numeric::f32_from_bf16(rows[i])), i % 24 == 3) << i;
  EXPECT_TRUE(std::isnan(run_tokens(kernel(), x.in, 0, 5).scale[0]));
}

// Without norm and rotation the pre-pass is the quantise kernel with all heads at once.
TEST_P(PrepassTable, PlainRowsGetTheQuantiseKernelsBits) {
  const Quantize& quantize = quantize_at(entry().codes, Isa::kReference).kernel;
  for (const Shape& shape : {Shape{Dtype::kF32, 37, 3, 40, false, false, false},
                             {Dtype::kF32, 37, 3, 40, false, false, true},
                             {Dtype::kBf16, 37, 3, 40, false, false, false},
                             {Dtype::kBf16, 37, 3, 40, false, false, true}}) {
    Case x(shape, 7);
    x.at(3, 5) = -0.0f;
    x.at(4, 6) = 0x1p-140f;
    x.refresh();
    const Result tokens = run_tokens(kernel(), x.in, 0, shape.rows), channels = run_channels(kernel(), x.in);
    const std::vector<int32_t> group(static_cast<size_t>(shape.rows), 0);
    for (int64_t h = 0; h < shape.heads; ++h) {
      const auto* data = static_cast<const char*>(x.in.x.data) + h * shape.dim * (shape.dtype == Dtype::kF32 ? 4 : 2);
      QuantizeInput head{{data, x.stride, x.index.data()}, shape.dtype, shape.rows, shape.dim};
      if (x.in.mean) head.mean = x.in.mean + h * shape.dim;
      std::vector<uint8_t> codes(static_cast<size_t>(shape.rows * shape.dim));
      std::vector<float> scale(static_cast<size_t>(shape.dim));
      const auto* got = &tokens.codes[static_cast<size_t>(h * shape.rows * shape.dim)];
      quantize.tokens(head, group.data(), 1, codes.data(), scale.data(), nullptr);
      EXPECT_EQ(tokens.scale[static_cast<size_t>(h)], scale[0]);
      EXPECT_TRUE(std::equal(codes.begin(), codes.end(), got));
      head.mean = nullptr;
      quantize.channels(head, codes.data(), scale.data());
      EXPECT_TRUE(std::equal(scale.begin(), scale.end(), channels.scale.begin() + h * shape.dim));
      EXPECT_TRUE(std::equal(codes.begin(), codes.end(), channels.codes.begin() + h * shape.rows * shape.dim));
    }
  }
}

TEST_P(PrepassTable, ZerosGetScaleOneAndBadValuesShowInTheScale) {
  for (const Dtype dtype : {Dtype::kF32, Dtype::kBf16})
    for (const bool turn : {true, false}) {
      Case x({dtype, 5, 3, 40, true, turn}, 5);
      std::fill(x.f32.begin(), x.f32.end(), 0.0f);
      x.refresh();
      const Result zeros = run_tokens(kernel(), x.in, 0, 5);
      EXPECT_EQ(zeros.scale, std::vector<float>(3, 1.0f));
      EXPECT_EQ(zeros.inverse_rms[0], 1.0f / std::sqrt(1e-6f));
      for (const float bad : {kNan, kInfinity, -kInfinity}) {
        x.at(2, 41) = bad;  // the norm carries it to every head
        x.refresh();
        const Result got = run_tokens(kernel(), x.in, 0, 5), expected = run_tokens(reference(), x.in, 0, 5);
        expect_same(got, expected, "bad value");
        EXPECT_TRUE(std::isnan(got.scale[1]));
        EXPECT_EQ(std::count(got.codes.begin() + 200, got.codes.begin() + 400, e4m3() ? 0x7f : 0), 200) << bad;
        x.in.weight = nullptr;
        expect_same(run_tokens(kernel(), x.in, 0, 5), run_tokens(reference(), x.in, 0, 5), "bad value without norm");
        EXPECT_EQ(run_tokens(kernel(), x.in, 0, 5).scale[0], 1.0f);
        const Result channels = run_channels(kernel(), x.in);
        expect_same(channels, run_channels(reference(), x.in), "bad value in a channel");
        EXPECT_FALSE(std::isfinite(channels.scale[41]));
        EXPECT_EQ(channels.scale[40], 1.0f);
        x.in.weight = x.weight.data();
      }
    }
}

TEST_P(PrepassTable, ABadMeanOrValueShowsInTheScaleOfItsHeadWhereKeysAreCentred) {
  for (const Dtype dtype : {Dtype::kF32, Dtype::kBf16})
    for (const float bad : {kNan, kInfinity}) {
      Case x({dtype, 5, 3, 40, true, true, true}, 6);
      x.mean[45] = bad;
      const Result got = run_tokens(kernel(), x.in, 0, 5);
      expect_same(got, run_tokens(reference(), x.in, 0, 5), "bad mean");
      EXPECT_TRUE(std::isfinite(got.scale[0]));
      EXPECT_FALSE(std::isfinite(got.scale[1]));
      Case y({dtype, 5, 3, 40, false, true, true}, 6);
      y.at(2, 85) = bad;
      y.refresh();
      const Result value = run_tokens(kernel(), y.in, 0, 5);
      expect_same(value, run_tokens(reference(), y.in, 0, 5), "bad value");
      EXPECT_TRUE(std::isfinite(value.scale[1]));
      EXPECT_FALSE(std::isfinite(value.scale[2]));
    }
}

// BF16 ties and neighbours, which the rounding after the norm must take to even.
TEST_P(PrepassTable, RoundsToBf16BeforeTheCodes) {
  Shape shape{Dtype::kBf16, 2, 1, 64, true, false};
  Case x(shape, 3);
  std::mt19937 random(9);
  for (int64_t i = 0; i < 2; ++i)
    for (int64_t d = 0; d < 64; ++d)
      x.at(i, d) = d % 2 ? 1.0f : -1.0f;  // r is 1 - 2^-21 or so
  x.in.eps = 0;
  for (int64_t d = 0; d < 64; ++d)  // 1.0 to 2.0 in half steps of BF16, then other exponents
    x.weight[static_cast<size_t>(d)] =
        std::ldexp(1.0f + static_cast<float>(random() % 257) / 256, static_cast<int>(d % 7) - 3);
  x.refresh();
  const Result got = run_tokens(kernel(), x.in, 0, 2);
  EXPECT_EQ(got.inverse_rms[0], 1.0f);
  for (int64_t d = 0; d < 64; ++d) {
    const float y = numeric::f32_from_bf16(numeric::bf16_from_f32(x.at(0, d) * x.weight[static_cast<size_t>(d)]));
    const uint8_t code = e4m3() ? numeric::quantize_e4m3(y, got.scale[0])
                                : static_cast<uint8_t>(numeric::quantize_int8(y, got.scale[0]));
    EXPECT_EQ(got.codes[static_cast<size_t>(d)], code) << d;
  }
}

// Scale 1: every code's value, the midpoints between codes and their neighbours.
TEST_P(PrepassTable, RoundsEveryMidpointAndNeighbourAsTheScalarDoes) {
  std::vector<float> x = {e4m3() ? 448.0f : 127.0f};
  for (int code = 0; code < (e4m3() ? 0x7e : 127); ++code) {
    const float low = static_cast<float>(value(static_cast<uint8_t>(code)));
    const float middle = 0.5f * (low + static_cast<float>(value(static_cast<uint8_t>(code + 1))));
    for (const float value : {low, middle, std::nextafter(middle, 0.0f), std::nextafter(middle, 500.0f)}) {
      x.push_back(value);
      x.push_back(-value);
    }
  }
  for (const float value : {0x1p-149f, -0x1p-149f, -0.0f})
    x.push_back(value);
  x.resize((x.size() + 63) / 64 * 64, 0.0f);
  PrepassInput in;
  in.x = {x.data(), 64, nullptr};
  in.rows = static_cast<int64_t>(x.size()) / 64;
  in.heads = 1;
  in.dim = 64;
  const Result got = run_tokens(kernel(), in, 0, in.rows);
  ASSERT_EQ(got.scale[0], 1.0f);
  for (size_t i = 0; i < x.size(); ++i)
    EXPECT_EQ(got.codes[i],
              e4m3() ? numeric::e4m3_from_f32(x[i]) : static_cast<uint8_t>(numeric::quantize_int8(x[i], 1.0f)))
        << x[i];
}

INSTANTIATE_TEST_SUITE_P(Entries, PrepassTable, testing::Range<size_t>(0, prepass_entries().size()),
                         [](const auto& info) { return std::string(prepass_entries()[info.param].name); });

}  // namespace
}  // namespace fpsa::kernel
