// The layouts of the emulated instructions against the tables of the PTX ISA document, each written here once more from
// the document and not by ptx/'s own formulas.
#include <gtest/gtest.h>

#include <cstring>
#include <optional>
#include <random>
#include <vector>

#include "fpsa/kernel/cuda/emulation/run.h"
#include "fpsa/kernel/cuda/ptx/barrier.h"
#include "fpsa/kernel/cuda/ptx/copy.h"
#include "fpsa/kernel/cuda/ptx/math.h"
#include "fpsa/kernel/cuda/ptx/thread.h"
#include "fpsa/kernel/cuda/ptx/wgmma.h"
#include "fpsa/numeric/e4m3.h"
#include "tests/kernel/cuda/emulated_memory.h"

namespace fpsa::kernel::cuda {
namespace {

using emulation::Launch;
using emulation::Options;
using testing_support::bits_of;
using namespace ptx;

Launch warpgroup_launch() {
  return {.blocks = 1, .threads = 128, .registers = 168, .shared_bytes = 64 * 1024};
}

// Bytes into shared memory by ordinary stores of thread 0, visible to products.
void fill_shared(SharedAddress to, const std::vector<uint8_t>& bytes) {
  if (thread_index() == 0)
    for (uint32_t i = 0; i + 4 <= bytes.size(); i += 4) {
      uint32_t word;
      std::memcpy(&word, bytes.data() + i, 4);
      store_shared(to + i, word);
    }
  fence_proxy_async();
  sync_block();
}

// Small values, so that sums are exact.
struct Matrix {
  Matrix(int rows, int columns, uint64_t seed) : columns(columns) {
    std::mt19937_64 random(seed);
    for (int i = 0; i < rows * columns; ++i)
      values.push_back(static_cast<float>(static_cast<int>(random() % 15) - 7));
  }
  float at(int row, int column) const { return values[static_cast<size_t>(row * columns + column)]; }
  int columns;
  std::vector<float> values;
};

// Table "Swizzle modes": which 16-byte piece of a row is found at which place, by row of the pattern.
constexpr int kPiece128[8][8] = {{0, 1, 2, 3, 4, 5, 6, 7}, {1, 0, 3, 2, 5, 4, 7, 6}, {2, 3, 0, 1, 6, 7, 4, 5},
                                 {3, 2, 1, 0, 7, 6, 5, 4}, {4, 5, 6, 7, 0, 1, 2, 3}, {5, 4, 7, 6, 1, 0, 3, 2},
                                 {6, 7, 4, 5, 2, 3, 0, 1}, {7, 6, 5, 4, 3, 2, 1, 0}};
constexpr int kPiece64[8][4] = {{0, 1, 2, 3}, {0, 1, 2, 3}, {1, 0, 3, 2}, {1, 0, 3, 2},
                                {2, 3, 0, 1}, {2, 3, 0, 1}, {3, 2, 1, 0}, {3, 2, 1, 0}};
constexpr int kPiece32[8][2] = {{0, 1}, {0, 1}, {0, 1}, {0, 1}, {1, 0}, {1, 0}, {1, 0}, {1, 0}};

int place_of(Swizzle swizzle, int row, int piece) {
  return swizzle == Swizzle::k128  ? kPiece128[row % 8][piece]
         : swizzle == Swizzle::k64 ? kPiece64[row % 8][piece]
                                   : kPiece32[row % 8][piece];
}

// Rows of `width` bytes, patterns of 8 rows one after the other.
std::vector<uint8_t> swizzle_rows(Swizzle swizzle, const std::vector<uint8_t>& rows) {
  const int width = swizzle_bytes(swizzle), count = static_cast<int>(rows.size()) / width;
  std::vector<uint8_t> out(rows.size());
  for (int r = 0; r < count; ++r)
    for (int piece = 0; piece < width / 16; ++piece)
      std::memcpy(out.data() + r * width + place_of(swizzle, r, piece) * 16, rows.data() + r * width + piece * 16, 16);
  return out;
}

// A matrix [rows, K] of 16-bit elements, or codes, as rows of one swizzle's width, of which only the columns from
// `first` hold it.
std::vector<uint8_t> k_major(const Matrix& matrix, Swizzle swizzle, int first, std::optional<Element> element) {
  const int width = swizzle_bytes(swizzle), size = element ? 2 : 1;
  const int rows = static_cast<int>(matrix.values.size()) / matrix.columns;
  std::vector<uint8_t> bytes(static_cast<size_t>(rows * width));
  for (int r = 0; r < rows; ++r) {
    for (int k = 0; k < matrix.columns; ++k) {
      uint8_t* to = bytes.data() + r * width + (first + k) * size;
      if (element) {
        const uint16_t bits = bits_of(*element, matrix.at(r, k));
        std::memcpy(to, &bits, 2);
      } else {
        *to = numeric::e4m3_from_f32(matrix.at(r, k));
      }
    }
  }
  return swizzle_rows(swizzle, bytes);
}

// "Register fragments" of D: i of d_i, by the document's groupID and threadID_in_group.
void expect_d(const float* d, int count, int thread, const Matrix& a, const Matrix& b) {
  const int warp = thread / 32, group_id = thread % 32 / 4, in_group = thread % 4;
  for (int i = 0; i < count; ++i) {
    const int row = warp * 16 + group_id + (i / 2 % 2 == 0 ? 0 : 8);
    const int column = i / 4 * 8 + in_group * 2 + (i & 1);
    float want = 0;
    for (int k = 0; k < a.columns; ++k)
      want += a.at(row, k) * b.at(column, k);
    ASSERT_EQ(d[i], want) << "thread " << thread << " d" << i;
  }
}

TEST(WgmmaFragments, E4m3FromSharedMemoryUnderEverySwizzle) {
  for (const Swizzle swizzle : {Swizzle::k128, Swizzle::k64, Swizzle::k32}) {
    const int width = swizzle_bytes(swizzle);
    for (int first = 0; first < width; first += 32) {
      const Matrix a(64, 32, 1), b(128, 32, 2);
      const auto a_bytes = k_major(a, swizzle, first, std::nullopt), b_bytes = k_major(b, swizzle, first, std::nullopt);
      std::vector<float> all(128 * 64);
      emulation::run(warpgroup_launch(), {}, [&] {
        fill_shared(0, a_bytes);
        fill_shared(16384, b_bytes);
        float d[64];
        wgmma_fence();
        wgmma_e4m3(d, matrix_descriptor(static_cast<uint32_t>(first), swizzle, static_cast<uint32_t>(8 * width)),
                   matrix_descriptor(static_cast<uint32_t>(16384 + first), swizzle, static_cast<uint32_t>(8 * width)),
                   false);
        wgmma_commit();
        wgmma_wait<0>();
        std::copy_n(d, 64, all.data() + thread_index() * 64);
      });
      for (int thread = 0; thread < 128; ++thread)
        expect_d(all.data() + thread * 64, 64, thread, a, b);
    }
  }
}

TEST(WgmmaFragments, E4m3FromRegisters) {
  const Matrix a(64, 32, 3), b(64, 32, 4);
  const auto b_bytes = k_major(b, Swizzle::k32, 0, std::nullopt);
  std::vector<float> all(128 * 32);
  emulation::run(warpgroup_launch(), {}, [&] {
    fill_shared(0, b_bytes);
    const int thread = thread_index(), group_id = thread % 32 / 4, in_group = thread % 4;
    // The document numbers the 16 codes of a thread a0 to a15, four in each register.
    uint32_t registers[4] = {};
    for (int i = 0; i < 16; ++i) {
      const int row = thread / 32 * 16 + group_id + ((i >= 0 && i < 4) || (i >= 8 && i < 12) ? 0 : 8);
      const int column = in_group * 4 + (i & 3) + (i < 8 ? 0 : 16);
      registers[i / 4] |= static_cast<uint32_t>(numeric::e4m3_from_f32(a.at(row, column))) << i % 4 * 8;
    }
    float d[32];
    wgmma_fence();
    wgmma_e4m3(d, registers, matrix_descriptor(0, Swizzle::k32, 256), false);
    wgmma_commit();
    wgmma_wait<0>();
    std::copy_n(d, 32, all.data() + thread * 32);
  });
  for (int thread = 0; thread < 128; ++thread)
    expect_d(all.data() + thread * 32, 32, thread, a, b);
}

// A matrix [rows, K] with K outermost: its columns one under the other, cut into strips of one swizzle's width.
std::vector<uint8_t> mn_major(const Matrix& matrix, Swizzle swizzle, Element element) {
  const int width = swizzle_bytes(swizzle), per_strip = width / 2;
  const int rows = static_cast<int>(matrix.values.size()) / matrix.columns;
  std::vector<uint8_t> bytes;
  for (int strip = 0; strip < rows / per_strip; ++strip) {
    std::vector<uint8_t> lines(static_cast<size_t>(matrix.columns * width));
    for (int k = 0; k < matrix.columns; ++k)
      for (int i = 0; i < per_strip; ++i) {
        const uint16_t bits = bits_of(element, matrix.at(strip * per_strip + i, k));
        std::memcpy(lines.data() + k * width + i * 2, &bits, 2);
      }
    const auto swizzled_lines = swizzle_rows(swizzle, lines);
    bytes.insert(bytes.end(), swizzled_lines.begin(), swizzled_lines.end());
  }
  return bytes;
}

// An operand [rows, 16] of 16-bit elements at `base` of shared memory: its bytes and descriptor, K-major from the column
// `first` of a row of the swizzle's width.
struct Operand {
  Operand(const Matrix& matrix, Element element, Major major, Swizzle swizzle, uint32_t base, int first)
      : base(base),
        bytes(major == Major::kK ? k_major(matrix, swizzle, first, element) : mn_major(matrix, swizzle, element)) {
    const auto width = static_cast<uint32_t>(swizzle_bytes(swizzle));
    descriptor = major == Major::kK
                     ? matrix_descriptor(base + 2 * static_cast<uint32_t>(first), swizzle, 8 * width)
                     : matrix_descriptor(base, swizzle, 8 * width, static_cast<uint32_t>(matrix.columns) * width);
  }
  uint32_t base;
  std::vector<uint8_t> bytes;
  uint64_t descriptor;
};

// Every thread's D = 1000 + A B, less 1000.
template <int kColumns, class Issue>
void check_16bit(const Matrix& a, const Matrix& b, const std::vector<const Operand*>& operands, Issue issue) {
  constexpr int kCount = kColumns / 2;
  std::vector<float> all(128 * kCount);
  emulation::run(warpgroup_launch(), {}, [&] {
    for (const Operand* operand : operands)
      fill_shared(operand->base, operand->bytes);
    float d[kCount];
    std::fill_n(d, kCount, 1000.0f);
    issue(d);
    for (int i = 0; i < kCount; ++i)
      all[static_cast<size_t>(thread_index() * kCount + i)] = d[i] - 1000;
  });
  for (int thread = 0; thread < 128; ++thread)
    expect_d(all.data() + thread * kCount, kCount, thread, a, b);
}

template <Element kElement, Major kA, Major kB, int kColumns>
void check_16bit_from_shared_memory() {
  const Matrix a(64, 16, 7), b(kColumns, 16, 8);
  for (const Swizzle swizzle : {Swizzle::k128, Swizzle::k64, Swizzle::k32}) {
    for (int first = 0; first < swizzle_bytes(swizzle) / 2; first += 16) {
      SCOPED_TRACE(testing::Message() << swizzle_bytes(swizzle) << " bytes, from " << first << ", N " << kColumns
                                      << ", majors " << static_cast<int>(kA) << static_cast<int>(kB));
      const Operand left(a, kElement, kA, swizzle, 0, first), right(b, kElement, kB, swizzle, 16384, first);
      check_16bit<kColumns>(a, b, {&left, &right}, [&](float(&d)[kColumns / 2]) {
        wgmma_fence();
        wgmma_16bit<kElement, kA, kB>(d, left.descriptor, right.descriptor, true);
        wgmma_commit();
        wgmma_wait<0>();
      });
    }
  }
}

TEST(WgmmaFragments, SixteenBitsFromSharedMemoryWithEitherIndexInnermost) {
  check_16bit_from_shared_memory<Element::kBf16, Major::kK, Major::kK, 64>();
  check_16bit_from_shared_memory<Element::kBf16, Major::kK, Major::kMn, 128>();
  check_16bit_from_shared_memory<Element::kBf16, Major::kMn, Major::kK, 128>();
  check_16bit_from_shared_memory<Element::kBf16, Major::kMn, Major::kMn, 64>();
  check_16bit_from_shared_memory<Element::kF16, Major::kK, Major::kK, 64>();
  check_16bit_from_shared_memory<Element::kF16, Major::kMn, Major::kMn, 128>();
}

template <Element kElement, Major kB, int kColumns>
void check_16bit_from_registers() {
  const Matrix a(64, 16, 5), b(kColumns, 16, 6);
  for (const Swizzle swizzle : {Swizzle::k128, Swizzle::k64, Swizzle::k32}) {
    const Operand right(b, kElement, kB, swizzle, 0, 0);
    check_16bit<kColumns>(a, b, {&right}, [&](float(&d)[kColumns / 2]) {
      // The document numbers the 8 elements of a thread a0 to a7, two in each register.
      const int thread = thread_index(), group_id = thread % 32 / 4, in_group = thread % 4;
      uint32_t registers[4] = {};
      for (int i = 0; i < 8; ++i) {
        const int row = thread / 32 * 16 + group_id + (i / 2 % 2 == 0 ? 0 : 8);
        const int column = in_group * 2 + (i & 1) + (i < 4 ? 0 : 8);
        registers[i / 2] |= static_cast<uint32_t>(bits_of(kElement, a.at(row, column))) << i % 2 * 16;
      }
      wgmma_fence();
      wgmma_16bit<kElement, kB>(d, registers, right.descriptor, true);
      wgmma_commit();
      wgmma_wait<0>();
    });
  }
}

TEST(WgmmaFragments, SixteenBitsFromRegistersWithEitherIndexOfBInnermost) {
  check_16bit_from_registers<Element::kBf16, Major::kK, 64>();
  check_16bit_from_registers<Element::kBf16, Major::kK, 128>();
  check_16bit_from_registers<Element::kBf16, Major::kMn, 64>();
  check_16bit_from_registers<Element::kBf16, Major::kMn, 128>();
  check_16bit_from_registers<Element::kF16, Major::kK, 64>();
  check_16bit_from_registers<Element::kF16, Major::kMn, 128>();
}

TEST(BoxCopies, LandInTheSwizzledPlaceWithZerosOutside) {
  for (const Swizzle swizzle : {Swizzle::k128, Swizzle::k64, Swizzle::k32}) {
    const int width = swizzle_bytes(swizzle), rows = 24, box_rows = 16;
    std::vector<uint8_t> array(static_cast<size_t>(rows * 256 + 16));
    std::mt19937_64 random(11);
    for (auto& byte : array)
      byte = static_cast<uint8_t>(random());
    uint8_t* data = array.data() + (16 - reinterpret_cast<uintptr_t>(array.data()) % 16) % 16;
    TensorMap map;
    map.spec = {data,     2,
                1,        {static_cast<uint64_t>(width), static_cast<uint64_t>(rows)},
                {1, 256}, {static_cast<uint32_t>(width), box_rows},
                swizzle};
    std::vector<uint8_t> got(static_cast<size_t>(width * box_rows)), want(got.size());
    emulation::run({.threads = 32, .registers = 32, .shared_bytes = 8192}, {}, [&] {
      if (thread_index() == 0) {
        mbarrier_init(4096, 1);
        fence_barrier_init();
        mbarrier_arrive_expect_tx(4096, static_cast<uint32_t>(width * box_rows));
        copy_box_2d(1024, map, 0, 12, 4096);
        mbarrier_wait(4096, 0);
        for (size_t i = 0; i < got.size(); i += 4) {
          const auto word = load_shared<uint32_t>(static_cast<uint32_t>(1024 + i));
          std::memcpy(got.data() + i, &word, 4);
        }
      }
    });
    for (int r = 0; r < box_rows; ++r)
      for (int piece = 0; piece < width / 16; ++piece)
        if (12 + r < rows)
          std::memcpy(want.data() + r * width + place_of(swizzle, r, piece) * 16, data + (12 + r) * 256 + piece * 16,
                      16);
    EXPECT_EQ(got, want) << "swizzle of " << width << " bytes";
  }
}

TEST(BoxCopies, StoreWritesInsideTheArrayOnly) {
  std::vector<uint32_t> array(8 * 8 + 4, 7);
  uint32_t* data = array.data() + (16 - reinterpret_cast<uintptr_t>(array.data()) % 16) % 16 / 4;
  TensorMap map;
  map.spec = {data, 2, 4, {8, 6}, {4, 32}, {8, 4}, Swizzle::kNone};
  emulation::run({.threads = 32, .registers = 32, .shared_bytes = 4096}, {}, [&] {
    store_shared(static_cast<uint32_t>(thread_index() * 4), 100u + static_cast<uint32_t>(thread_index()));
    fence_proxy_async();
    sync_warp();
    if (elect_one()) {
      store_box_2d(map, 0, 4, 0);
      store_commit();
      store_wait();
    }
  });
  for (int y = 0; y < 8; ++y)
    for (int x = 0; x < 8; ++x)
      EXPECT_EQ(data[y * 8 + x], y == 4 || y == 5 ? 100u + static_cast<uint32_t>((y - 4) * 8 + x) : 7u);
}

TEST(MatrixStores, FragmentsMeetInRowsAndComeBack) {
  std::vector<uint16_t> stored(4 * 64);
  emulation::run({.threads = 32, .registers = 32, .shared_bytes = 1024}, {}, [&] {
    const int lane = thread_index();
    uint32_t values[4], back[4];
    for (int matrix = 0; matrix < 4; ++matrix)
      values[matrix] = static_cast<uint32_t>(matrix * 64 + lane * 2) | static_cast<uint32_t>(matrix * 64 + lane * 2 + 1)
                                                                           << 16;
    store_matrix_x4(static_cast<uint32_t>(lane * 16), values);
    sync_warp();
    load_matrix_x4(static_cast<uint32_t>(lane * 16), back);
    for (int i = 0; i < 4; ++i)
      EXPECT_EQ(back[i], values[i]);
    for (int i = 0; i < 4; ++i) {
      const auto word = load_shared<uint32_t>(static_cast<uint32_t>(lane * 16 + i * 4));
      std::memcpy(stored.data() + lane * 8 + i * 2, &word, 4);
    }
  });
  // Lane l holds elements 2 (l % 4), + 1 of row l / 4: of a matrix stored row by row, elements 2 l and 2 l + 1.
  for (int i = 0; i < 256; ++i)
    EXPECT_EQ(stored[static_cast<size_t>(i)], i);
}

// numeric/f16_test has the rounding.
TEST(Conversions, F16PairsHaveTheFirstBelow) {
  EXPECT_EQ(f16x2(1.0f, -2.0f), 0xc0003c00u);
  EXPECT_EQ(value_of_f16(0x3c00), 1.0f);
}

TEST(Accumulators, TruncationKeepsTheBitsItSays) {
  // One term of 1 and 31 of 2^-14 lose all but the first with 13 bits.
  Matrix a(64, 32, 9), b(64, 32, 10);
  for (size_t i = 0; i < a.values.size(); ++i)
    a.values[i] = i % 32 == 0 ? 1.0f : 0x1p-7f;
  for (size_t i = 0; i < b.values.size(); ++i)
    b.values[i] = i % 32 == 0 ? 1.0f : 0x1p-7f;
  const auto a_bytes = k_major(a, Swizzle::k32, 0, std::nullopt), b_bytes = k_major(b, Swizzle::k32, 0, std::nullopt);
  for (const auto& [bits, want] :
       {std::pair(0, 1.0f + 31 * 0x1p-14f), std::pair(14, 1.0f + 31 * 0x1p-14f), std::pair(13, 1.0f)}) {
    float got = 0;
    Options options;
    options.accumulator_bits = bits;
    emulation::run(warpgroup_launch(), options, [&] {
      fill_shared(0, a_bytes);
      fill_shared(16384, b_bytes);
      float d[32];
      wgmma_fence();
      wgmma_e4m3(d, matrix_descriptor(0, Swizzle::k32, 256), matrix_descriptor(16384, Swizzle::k32, 256), false);
      wgmma_commit();
      wgmma_wait<0>();
      if (thread_index() == 0) got = d[0];
    });
    EXPECT_EQ(got, want) << bits << " bits";
  }
}

}  // namespace
}  // namespace fpsa::kernel::cuda
