// Problems and checks that the tests of all emulated attention kernels share.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "fpsa/kernel/cuda/attention_params.h"
#include "fpsa/kernel/cuda/emulation/run.h"
#include "fpsa/numeric/bounds.h"
#include "fpsa/pattern/mask.h"
#include "tests/kernel/cuda/attention_problem.h"

namespace fpsa::kernel::cuda::testing_support {

inline emulation::Options seeded(int seed) {
  emulation::Options options;
  options.seed = static_cast<uint64_t>(seed);
  return options;
}

/// Tiles of 2x4x8 = 64 tokens with remainders: rows and columns straddle tiles, and some tiles are ragged.
template <class Problem = CodeProblem>
Problem ragged(int64_t dim) {
  Problem problem;
  problem.grid = {3, 7, 18};
  problem.tile = {2, 4, 8};
  problem.granularity = problem.tile;
  problem.mask = pattern::sliding_tile(problem.grid, problem.tile, {2, 1, 2});
  problem.dim = dim;
  return problem;
}

/// Which of two heads' tiles see which, when query tile 2 of head 0 sees nothing: [2, tiles, tiles].
inline std::vector<uint8_t> visible_by_head(int64_t tiles) {
  std::vector<uint8_t> visible(static_cast<size_t>(2 * tiles * tiles));
  for (size_t i = 0; i < visible.size(); ++i)
    visible[i] = i % 3 == 0 || i % 7 == 2;
  std::fill_n(visible.begin() + 2 * tiles, tiles, uint8_t{0});
  return visible;
}

/// `narrow` are the values of `wide`, rounded to a type of 16 bits.
inline void expect_rounded(const std::vector<float>& narrow, const std::vector<float>& wide, OutType type) {
  const double unit = type == OutType::kBf16 ? numeric::kBf16Epsilon : 0x1p-11;
  ASSERT_EQ(narrow.size(), wide.size());
  for (size_t i = 0; i < wide.size(); ++i)
    ASSERT_NEAR(narrow[i], wide[i], std::abs(wide[i]) * unit + 0x1p-25) << i;
}

template <class Emulated>
void expect_half_precision_is_rounded() {
  const Emulated attention(ragged(128));
  const AttentionRows wide = attention.emulated({}, {});
  for (const OutType type : {OutType::kBf16, OutType::kF16}) {
    const AttentionRows narrow = attention.emulated({.type = type}, {});
    EXPECT_EQ(narrow.lse, wide.lse);
    expect_rounded(narrow.out, wide.out, type);
  }
}

template <class Emulated>
void expect_the_same_bits_always(bool f16 = false) {
  CodeProblem problem = ragged(64);
  problem.f16 = f16;
  problem.heads = 2;
  const Emulated attention(problem);
  const AttentionRows first = attention.emulated({.blocks = 1}, seeded(1));
  for (int blocks = 2; blocks <= 5; ++blocks) {
    const AttentionRows again = attention.emulated({.blocks = blocks}, seeded(blocks));
    EXPECT_EQ(again.out, first.out);
    EXPECT_EQ(again.lse, first.lse);
  }
}

/// Problems with pairs of items, and with items left over: all tiles; windows, batches and heads; a mask by head with
/// pairs that see nothing.
inline std::vector<CodeProblem> problems_with_pairs() {
  std::vector<CodeProblem> problems;
  for (const int64_t dim : {64, 128}) {
    problems.push_back(ragged(dim));
    problems.back().mask = pattern::dense(problems.back().grid, problems.back().tile);
  }
  problems.push_back(ragged(64));
  problems.back().batch = 2;
  problems.back().heads = 3;
  CodeProblem by_head;
  by_head.grid = {2, 16, 16};  // 8 tiles of 64
  by_head.tile = by_head.granularity = {2, 4, 8};
  by_head.heads = 2;
  std::vector<uint8_t> visible(2 * 8 * 8);
  for (size_t i = 0; i < visible.size(); ++i) {
    const size_t row = i / 8 % 8, col = i % 8;
    visible[i] = i < 64 ? row >= 4 && col % 2 == 0 : row < 4 || (row < 6 ? col < 3 : col > 1);
  }
  by_head.mask = pattern::from_matrix(visible, 2, 8, 8);
  problems.push_back(by_head);
  return problems;
}

/// A row's bits are those of a single block of threads, whoever brought its keys.
template <class Emulated>
void expect_the_bits_of_single_blocks() {
  bool left_over = false;
  for (const CodeProblem& problem : problems_with_pairs()) {
    const Emulated attention(problem);
    const WorkList& work = attention.work();
    EXPECT_GT(work.paired, 0);
    left_over = left_over || work.paired < static_cast<int64_t>(work.items.size());
    const AttentionRows single = attention.emulated({}, {});
    // 12 blocks: some clusters have nothing to do.
    for (const int blocks : {2, 4, 12}) {
      const AttentionRows got = attention.emulated({.blocks = blocks, .cluster = 2}, seeded(blocks));
      EXPECT_EQ(got.out, single.out) << blocks << " blocks";
      EXPECT_EQ(got.lse, single.lse) << blocks << " blocks";
      EXPECT_EQ(got.row_max, single.row_max) << blocks << " blocks";
    }
  }
  EXPECT_TRUE(left_over);
}

}  // namespace fpsa::kernel::cuda::testing_support
