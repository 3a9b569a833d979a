// The tests of the emulated backward can fail: in every pass, with and without codes, every line that synchronises is
// dropped, every wait gets the other parity, every product swaps two registers of its fragment, one at a time, and
// each fault must be noticed.
#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>

#include "fpsa/base/check.h"
#include "tests/kernel/cuda/emulated_backward.h"

namespace fpsa::kernel::cuda {
namespace {

using emulation::Call;
using emulation::Mutation;
using testing_support::BackwardProblem;
using testing_support::BackwardResult;
using testing_support::EmulatedBackward;

struct Pass {
  bool of_keys, coded, f16 = false;
};

// Small, yet: rows of three tiles, two of them ragged, make an item for both groups and one for one, and their lists
// have more blocks of columns than there are stages, so that a producer can run over a stage in use before the next
// item's rows stop it. The other rows' items have empty lists.
BackwardProblem small_problem(const Pass& pass) {
  BackwardProblem problem;
  problem.grid = {2, 6, 55};
  problem.tile = {2, 4, 8};
  problem.granularity = problem.tile;
  problem.coded = pass.coded;
  problem.f16 = pass.f16;
  constexpr int64_t kTiles = 14;
  std::vector<uint8_t> visible(kTiles * kTiles);
  for (const size_t row : {0, 6, 13})
    std::fill_n(visible.begin() + static_cast<int64_t>(row) * kTiles, kTiles, uint8_t{1});
  problem.mask = pattern::from_matrix(visible, 1, kTiles, kTiles);
  if (pass.of_keys) problem.mask = exchanged(problem.mask);
  return problem;
}

class BackwardMutations : public testing::TestWithParam<Pass> {
 protected:
  BackwardMutations() : backward_(small_problem(GetParam())) { right_ = run({}, &report_); }

  BackwardResult run(const emulation::Options& options, emulation::Report* report = nullptr) const {
    EmulatedBackward::RunOptions run;
    run.blocks = 1;
    run.of_keys = GetParam().of_keys;
    run.of_queries = !run.of_keys;
    return backward_.emulated(run, options, report);
  }

  // Whether one of a few seeds ends in an error or in other bits than the kernel's.
  bool noticed(const Mutation& mutation) const {
    for (uint64_t seed = 1; seed <= 8; ++seed) {
      emulation::Options options;
      options.seed = seed;
      options.mutation = mutation;
      try {
        const BackwardResult got = run(options);
        if (got.q != right_.q || got.k != right_.k || got.v != right_.v) return true;
      } catch (const emulation::Error&) {
        return true;
      }
    }
    return false;
  }

  // Every call of these functions, mutated, must be noticed; returns how many there were.
  int all_noticed(Mutation::Kind kind, const std::set<std::string>& functions) const {
    int count = 0;
    for (const Call& call : report_.calls) {
      if (!functions.contains(call.function)) continue;
      ++count;
      EXPECT_TRUE(noticed({kind, call})) << call.function << " in " << call.file.substr(call.file.rfind('/') + 1) << ":"
                                         << call.line;
    }
    return count;
  }

  EmulatedBackward backward_;
  emulation::Report report_;
  BackwardResult right_;
};

TEST_P(BackwardMutations, NothingChangesWithoutOne) {
  Call elsewhere{"mbarrier_wait", "nowhere", 1};
  EXPECT_FALSE(noticed({Mutation::Kind::kDrop, elsewhere}));
}

TEST_P(BackwardMutations, EveryDroppedBarrierAndArrivalIsNoticed) {
  EXPECT_GE(all_noticed(Mutation::Kind::kDrop, {"mbarrier_init", "mbarrier_arrive", "mbarrier_arrive_expect_tx",
                                                "mbarrier_wait", "sync_block", "sync_warp"}),
            13);
}

TEST_P(BackwardMutations, EveryDroppedFenceAndWaitOfTheProductsIsNoticed) {
  EXPECT_GE(all_noticed(Mutation::Kind::kDrop, {"fence_barrier_init", "wgmma_fence", "wgmma_commit", "wgmma_wait"}),
            11);
}

TEST_P(BackwardMutations, EveryDroppedCopyOrProductIsNoticed) {
  EXPECT_GE(all_noticed(Mutation::Kind::kDrop, {"copy_box_2d", "copy_bytes", "wgmma_e4m3", "wgmma_bf16"}),
            GetParam().of_keys ? 5 : 4);
}

TEST_P(BackwardMutations, EveryFlippedPhaseIsNoticed) {
  EXPECT_GE(all_noticed(Mutation::Kind::kFlip, {"mbarrier_wait"}), 4);
}

TEST_P(BackwardMutations, TwoSwappedRegistersOfAFragmentAreNoticed) {
  EXPECT_GE(all_noticed(Mutation::Kind::kSwap, {"wgmma_e4m3", "wgmma_bf16"}), GetParam().of_keys ? 4 : 3);
}

// F16 is the same body but for its products, so these alone are mutated.
class F16BackwardMutations : public BackwardMutations {};

TEST_P(F16BackwardMutations, EveryDroppedProductAndEverySwapIsNoticed) {
  const int products = GetParam().of_keys ? 4 : 3;
  EXPECT_EQ(all_noticed(Mutation::Kind::kDrop, {"wgmma_f16"}), products);
  EXPECT_EQ(all_noticed(Mutation::Kind::kSwap, {"wgmma_f16"}), products);
  EXPECT_EQ(all_noticed(Mutation::Kind::kDrop, {"wgmma_bf16", "wgmma_e4m3"}), 0);
}

INSTANTIATE_TEST_SUITE_P(F16, F16BackwardMutations, testing::Values(Pass{true, false, true}, Pass{false, false, true}),
                         [](const auto& info) { return info.param.of_keys ? "OfKeys" : "OfQueries"; });

INSTANTIATE_TEST_SUITE_P(Passes, BackwardMutations,
                         testing::Values(Pass{true, false}, Pass{false, false}, Pass{true, true}, Pass{false, true}),
                         [](const auto& info) {
                           return std::string(info.param.of_keys ? "OfKeys" : "OfQueries") +
                                  (info.param.coded ? "Coded" : "");
                         });

}  // namespace
}  // namespace fpsa::kernel::cuda
