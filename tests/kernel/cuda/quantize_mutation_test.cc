// The tests of quantize_sm90a can fail: every line of it that synchronises or moves is dropped, one at a time.
#include <gtest/gtest.h>

#include <set>
#include <string>

#include "fpsa/base/check.h"
#include "tests/kernel/cuda/emulated_quantize.h"

namespace fpsa::kernel::cuda {
namespace {

using emulation::Call;
using emulation::Mutation;
using testing_support::EmulatedQuantize;
using testing_support::QuantizeProblem;
using testing_support::QuantizeResult;

// Every quad a unit, its codes the step after its magnitudes, and blocks that run together: codes come too early unless
// they wait, and magnitudes unless they are complete. More quads than stages, two warps to a row, ragged tiles.
QuantizeProblem small_problem() {
  QuantizeProblem problem;
  problem.grid = {1, 4, 10};
  problem.tile = {1, 4, 8};
  problem.granularity = {1, 1, 4};
  problem.heads = 7;
  problem.lag = 0;
  return problem;
}

class QuantizeMutations : public testing::Test {
 protected:
  QuantizeMutations() : x_(small_problem()) { right_ = x_.emulated_rows(3, 3, {}, &report_); }

  // Whether one of a few seeds ends in an error or in other bits than the kernel's.
  bool noticed(const Mutation& mutation) {
    for (uint64_t seed = 1; seed <= 12; ++seed) {
      emulation::Options options;
      options.seed = seed;
      options.mutation = mutation;
      try {
        const QuantizeResult got = x_.emulated_rows(3, 3, options);
        if (got.codes != right_.codes || got.scale != right_.scale) return true;
      } catch (const emulation::Error&) {
        return true;
      }
    }
    return false;
  }
  int all_noticed(Mutation::Kind kind, const std::set<std::string>& functions) {
    int count = 0;
    for (const Call& call : report_.calls) {
      if (!functions.contains(call.function)) continue;
      ++count;
      EXPECT_TRUE(noticed({kind, call})) << join(call.function, " in line ", call.line, " of ", call.file);
    }
    return count;
  }

  EmulatedQuantize x_;
  emulation::Report report_;
  QuantizeResult right_;
};

TEST_F(QuantizeMutations, NothingChangesWithoutOne) {
  EXPECT_FALSE(noticed({Mutation::Kind::kDrop, {"mbarrier_wait", "nowhere", 1}}));
}

TEST_F(QuantizeMutations, EveryDroppedBarrierAndFenceIsNoticed) {
  EXPECT_GE(all_noticed(Mutation::Kind::kDrop,
                        {"mbarrier_init", "mbarrier_arrive", "mbarrier_arrive_expect_tx", "mbarrier_wait",
                         "barrier_sync", "sync_block", "sync_warp", "fence_barrier_init"}),
            9);
}

TEST_F(QuantizeMutations, EveryFlippedPhaseIsNoticed) {
  EXPECT_EQ(all_noticed(Mutation::Kind::kFlip, {"mbarrier_wait"}), 2);
}

TEST_F(QuantizeMutations, EveryDroppedCopyAndWordBetweenBlocksIsNoticed) {
  EXPECT_GE(all_noticed(Mutation::Kind::kDrop, {"copy_bytes", "raise_global", "add_release", "wait_at_least"}), 5);
}

}  // namespace
}  // namespace fpsa::kernel::cuda
