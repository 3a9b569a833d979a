// The emulation of the tile instructions against small cases computed by hand, and its faults.
#include "tests/kernel/amx_shim.h"

#include <gtest/gtest.h>

#include <vector>

#include "fpsa/base/check.h"
#include "fpsa/kernel/table.h"
#include "fpsa/numeric/bf16.h"
#include "tests/kernel/amx_trap.h"
#include "tests/kernel/attention_case.h"
#include "tests/kernel/tested_entries.h"

namespace fpsa::kernel {
namespace {

using amx_shim::take_fault;

// Tiles 0 (rows x columns of 4 bytes), 1 (rows x depth) and 2 (depth x columns), the shapes of one product.
TileConfig product_config(int rows, int columns, int depth) {
  TileConfig config = {};
  config.palette = 1;
  const int tile_rows[3] = {rows, rows, depth}, tile_columns[3] = {columns, depth, columns};
  for (int t = 0; t < 3; ++t) {
    config.rows[t] = static_cast<uint8_t>(tile_rows[t]);
    config.row_bytes[t] = static_cast<uint16_t>(4 * tile_columns[t]);
  }
  return config;
}

class AmxShim : public testing::Test {
 protected:
  void SetUp() override {
    if (detected_isa() < Isa::kAvx512Bf16) GTEST_SKIP() << "the emulation is written in AVX-512";
    amx_shim::release();
    take_fault();
  }

  template <class T>
  static std::vector<T> stored(int tile, int64_t count, int64_t stride) {
    std::vector<T> values(static_cast<size_t>(count));
    amx_shim::store(tile, values.data(), stride);
    return values;
  }
};

AttentionFwd shim_of(Dtype dtype) {
  for (const auto& entry : testing_support::tested_entries())
    if (entry.dtype == dtype && entry.name.ends_with("_amx_shim")) return entry.kernel;
  return {};
}

uint16_t bf16(float x) {
  return numeric::bf16_from_f32(x);
}

TEST_F(AmxShim, LoadFillsTheConfiguredPartAndClearsTheRest) {
  TileConfig config = product_config(2, 1, 1);
  amx_shim::configure(config);
  const uint8_t rows[] = {1, 2, 3, 4, 99, 99, 5, 6, 7, 8, 99, 99};  // 4 bytes every 6
  amx_shim::load(0, rows, 6);
  EXPECT_EQ(stored<uint8_t>(0, 8, 4), (std::vector<uint8_t>{1, 2, 3, 4, 5, 6, 7, 8}));
  amx_shim::zero(0);
  EXPECT_EQ(stored<uint8_t>(0, 8, 4), std::vector<uint8_t>(8, 0));
  EXPECT_EQ(take_fault(), nullptr);
}

TEST_F(AmxShim, Bf16ProductOfTwoByTwo) {
  amx_shim::configure(product_config(2, 2, 2));
  // c[m][n] += sum over pairs k of a[m][2k] b[k][2n] + a[m][2k+1] b[k][2n+1]
  const uint16_t a[] = {bf16(1), bf16(2), bf16(3), bf16(4), bf16(-1), bf16(0.5f), bf16(0), bf16(8)};
  const uint16_t b[] = {bf16(10), bf16(20), bf16(1), bf16(0), bf16(30), bf16(40), bf16(0), bf16(1)};
  const float c[] = {100, 200, 300, 400};
  amx_shim::load(0, c, 8);
  amx_shim::load(1, a, 8);
  amx_shim::load(2, b, 8);
  amx_shim::dot_bf16(0, 1, 2);
  // 100 + 10 + 40 + 90 + 160;  200 + 1 + 0 + 0 + 4;  300 - 10 + 10 + 0 + 320;  400 - 1 + 0 + 0 + 8
  EXPECT_EQ(stored<float>(0, 4, 8), (std::vector<float>{400, 205, 620, 407}));
  EXPECT_EQ(take_fault(), nullptr);
}

TEST_F(AmxShim, Bf16SumsEvenAndOddElementsApart) {
  amx_shim::configure(product_config(1, 1, 2));
  // Even: 2^24, then + 1 is lost. Odd: -2^24 + 1 exactly. In any other order the 1s would meet.
  const uint16_t a[] = {bf16(0x1p24f), bf16(-0x1p24f), bf16(1), bf16(1)}, b[] = {bf16(1), bf16(1), bf16(1), bf16(1)};
  amx_shim::load(1, a, 8);
  amx_shim::load(2, b, 4);
  amx_shim::dot_bf16(0, 1, 2);
  EXPECT_EQ(stored<float>(0, 1, 4)[0], 1.0f);
  // c joins last: 1 + (2^24 - 2^24 + 1) and not (1 + 2^24) - ...
  const float c = 0.5f;
  amx_shim::load(0, &c, 4);
  amx_shim::dot_bf16(0, 1, 2);
  EXPECT_EQ(stored<float>(0, 1, 4)[0], 1.5f);
}

TEST_F(AmxShim, Bf16CountsDenormalsAsZero) {
  amx_shim::configure(product_config(1, 1, 1));
  auto product = [&](float left, float right, float c) {
    const uint16_t a[] = {bf16(left), 0}, b[] = {bf16(right), 0};
    amx_shim::load(0, &c, 4);
    amx_shim::load(1, a, 4);
    amx_shim::load(2, b, 4);
    amx_shim::dot_bf16(0, 1, 2);
    return stored<float>(0, 1, 4)[0];
  };
  EXPECT_EQ(product(0x1p-126f, 1.0f, 0.0f), 0x1p-126f);
  EXPECT_EQ(product(0x1p-127f, 0x1p100f, 0.0f), 0.0f) << "a denormal input";
  EXPECT_EQ(product(0x1p-100f, 0x1p-30f, 0.0f), 0.0f) << "a denormal result";
  EXPECT_EQ(product(0.0f, 1.0f, 0x1p-130f), 0.0f) << "a denormal accumulator";
}

TEST_F(AmxShim, ByteProductsKeepTheSignsOfTheirOperands) {
  amx_shim::configure(product_config(1, 2, 1));
  const uint8_t a[] = {255, 128, 1, 2};
  const int8_t b[] = {1, 1, 1, 1, -128, 127, 0, 3};
  const int32_t c[] = {1000, -1};
  auto product = [&](void (*dot)(int, int, int)) {
    amx_shim::load(0, c, 8);
    amx_shim::load(1, a, 4);
    amx_shim::load(2, b, 8);
    dot(0, 1, 2);
    return stored<int32_t>(0, 2, 8);
  };
  // unsigned: 255 + 128 + 1 + 2 = 386;  255 * -128 + 128 * 127 + 6 = -16378
  EXPECT_EQ(product(amx_shim::dot_u8s8), (std::vector<int32_t>{1386, -16379}));
  // signed: -1 - 128 + 1 + 2 = -126;  128 - 128 * 127 + 6 = -16122
  EXPECT_EQ(product(amx_shim::dot_s8s8), (std::vector<int32_t>{874, -16123}));
  EXPECT_EQ(take_fault(), nullptr);
}

TEST_F(AmxShim, ByteProductsWrapAround) {
  amx_shim::configure(product_config(1, 1, 1));
  const uint8_t a[] = {255, 0, 0, 0}, b[] = {127, 0, 0, 0};
  const int32_t c = INT32_MAX;
  amx_shim::load(0, &c, 4);
  amx_shim::load(1, a, 4);
  amx_shim::load(2, b, 4);
  amx_shim::dot_u8s8(0, 1, 2);
  EXPECT_EQ(stored<int32_t>(0, 1, 4)[0], INT32_MIN + 255 * 127 - 1);
}

TEST_F(AmxShim, UseWithoutConfigurationIsAFault) {
  uint8_t memory[64] = {};
  EXPECT_FALSE(amx_shim::configured());
  amx_shim::load(0, memory, 64);
  EXPECT_NE(take_fault(), nullptr);
  amx_shim::zero(0);
  EXPECT_NE(take_fault(), nullptr);
  amx_shim::configure(product_config(1, 1, 1));
  EXPECT_TRUE(amx_shim::configured());
  amx_shim::zero(0);
  EXPECT_EQ(take_fault(), nullptr);
  amx_shim::zero(3);
  EXPECT_NE(take_fault(), nullptr) << "a tile without rows";
  amx_shim::configure(TileConfig{});
  EXPECT_FALSE(amx_shim::configured()) << "palette 0 releases";
}

TEST_F(AmxShim, IllegalConfigurationsAreFaults) {
  auto faults = [](auto change) {
    TileConfig config = product_config(16, 16, 16);
    change(config);
    amx_shim::configure(config);
    return take_fault() != nullptr;
  };
  EXPECT_FALSE(faults([](TileConfig&) {}));
  EXPECT_TRUE(faults([](TileConfig& c) { c.palette = 2; }));
  EXPECT_TRUE(faults([](TileConfig& c) { c.start_row = 1; }));
  EXPECT_TRUE(faults([](TileConfig& c) { c.rows[1] = 17; }));
  EXPECT_TRUE(faults([](TileConfig& c) { c.row_bytes[1] = 65; }));
  EXPECT_TRUE(faults([](TileConfig& c) { c.rows[1] = 0; }));
  EXPECT_TRUE(faults([](TileConfig& c) { c.row_bytes[7] = 4; }));
  EXPECT_TRUE(faults([](TileConfig& c) { c.reserved0[13] = 1; }));
  EXPECT_TRUE(faults([](TileConfig& c) { c.reserved1[0] = 1; }));
  EXPECT_TRUE(faults([](TileConfig& c) { c.reserved2[7] = 1; }));
}

TEST_F(AmxShim, ProductsOfTilesThatDoNotFitAreFaults) {
  auto faults = [](int c, int a, int b, auto change) {
    TileConfig config = product_config(4, 8, 2);
    change(config);
    amx_shim::configure(config);
    amx_shim::dot_bf16(c, a, b);
    const bool bf16_faults = take_fault() != nullptr;
    amx_shim::dot_u8s8(c, a, b);
    EXPECT_EQ(take_fault() != nullptr, bf16_faults);
    return bf16_faults;
  };
  EXPECT_FALSE(faults(0, 1, 2, [](TileConfig&) {}));
  EXPECT_TRUE(faults(0, 2, 1, [](TileConfig&) {}));
  EXPECT_TRUE(faults(0, 0, 2, [](TileConfig&) {}));
  EXPECT_TRUE(faults(0, 1, 1, [](TileConfig&) {}));
  EXPECT_TRUE(faults(0, 1, 2, [](TileConfig& c) { c.rows[0] = 3; }));
  EXPECT_TRUE(faults(0, 1, 2, [](TileConfig& c) { c.rows[2] = 3; }));
  EXPECT_TRUE(faults(0, 1, 2, [](TileConfig& c) { c.row_bytes[2] = 28; }));
  EXPECT_TRUE(faults(0, 1, 2, [](TileConfig& c) { c.row_bytes[0] = c.row_bytes[2] = 30; }));
}

// Other libraries on the thread configure tiles as well.
TEST_F(AmxShim, KernelsReleaseTheTilesAndFaultNowhere) {
  for (const Dtype dtype : {Dtype::kBf16, Dtype::kE4m3, Dtype::kInt8}) {
    testing_support::AttentionCase test(dtype, 2, 50, 100, 72);
    const KeyRange all{0, 100};
    bool clean = false;
    for (const auto& block : {QueryBlock{0, 50, &all, 1}, QueryBlock{3, 9, &all, 1}, QueryBlock{0, 50, nullptr, 0},
                              QueryBlock{7, 7, &all, 1}}) {
      testing_support::run_entry(shim_of(dtype), test, block, clean);
      EXPECT_FALSE(amx_shim::configured());
      EXPECT_STREQ(take_fault(), nullptr);
    }
  }
}

// The object code for AMX, its instructions emulated one by one, against the same source on the emulation.
TEST_F(AmxShim, TheMachineCodeForAmxGivesTheSameBits) {
  if (detected_isa() >= Isa::kAmx) GTEST_SKIP() << "the tile instructions do not trap on this machine";
  for (const auto& entry : attention_fwd_entries()) {
    if (entry.isa != Isa::kAmx) continue;
    for (const auto& [rows, dim] : {std::pair{96, 128}, {33, 72}, {16, 8}, {50, 256}}) {
      SCOPED_TRACE(join(entry.name, " rows ", rows, " dim ", dim));
      testing_support::AttentionCase test(entry.dtype, 3, rows, 230, dim);
      const auto ranges = test.random_ranges();
      const QueryBlock block{0, rows, ranges.data(), static_cast<int32_t>(ranges.size())};
      bool clean = false, shim_clean = false;
      const auto want = testing_support::run_entry(shim_of(entry.dtype), test, block, shim_clean);
      const amx_trap::Trap trap;
      const long before = amx_trap::emulated();
      const auto got = testing_support::run_entry(entry.kernel, test, block, clean);
      EXPECT_GT(amx_trap::emulated(), before);
      EXPECT_TRUE(clean && shim_clean);
      EXPECT_EQ(got.out, want.out);
      EXPECT_EQ(got.lse, want.lse);
      EXPECT_EQ(got.row_max, want.row_max);
      EXPECT_FALSE(amx_shim::configured());
      EXPECT_STREQ(take_fault(), nullptr);
    }
  }
}

}  // namespace
}  // namespace fpsa::kernel
