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

// Every quad a unit, its codes the task after its magnitudes, and blocks that run together: codes come too early unless
// they wait, and magnitudes unless they are complete. More quads than stages, two warps to a row
// of whole spans, ragged tiles.
QuantizeProblem small_problem() {
  QuantizeProblem problem;
  problem.grid = {1, 4, 10};
  problem.tile = {1, 4, 8};
  problem.granularity = {1, 1, 4};
  problem.heads = 8;
  problem.lag = 0;
  return problem;
}

class QuantizeMutations : public testing::Test {
 protected:
  explicit QuantizeMutations(const QuantizeProblem& problem = small_problem()) : x_(problem) {
    right_ = x_.emulated_rows(3, 3, {}, &report_);
  }

  // Whether one of some seeds ends in an error that has the words, or, without any, in other bits than the kernel's.
  bool noticed(const Mutation& mutation, uint64_t seeds = 12, const std::string& words = "") {
    for (uint64_t seed = 1; seed <= seeds; ++seed) {
      emulation::Options options;
      options.seed = seed;
      options.mutation = mutation;
      try {
        const QuantizeResult got = x_.emulated_rows(3, 3, options);
        if (words.empty() && (got.codes != right_.codes || got.scale != right_.scale)) return true;
      } catch (const emulation::Error& error) {
        if (std::string(error.what()).find(words) != std::string::npos) return true;
      }
    }
    return false;
  }
  int all_noticed(Mutation::Kind kind, const std::set<std::string>& functions, uint64_t seeds = 12) {
    int count = 0;
    for (const Call& call : report_.calls) {
      if (!functions.contains(call.function)) continue;
      ++count;
      EXPECT_TRUE(noticed({kind, call}, seeds)) << join(call.function, " in line ", call.line, " of ", call.file);
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
                         "sync_block", "fence_barrier_init"}),
            12);
}

// Whatever the bits are: what a warp makes ready for others stands unordered where that warp does not meet first. The
// other meeting, of the warps that compute, is QuantizeOneWarp's.
TEST_F(QuantizeMutations, ADroppedMeetingOfTheWarpThatMakesReadyLeavesAccessesUnordered) {
  int count = 0;
  for (const Call& call : report_.calls) {
    if (call.function != "sync_warp" || !call.file.ends_with("quantize_ready-inl.h")) continue;
    ++count;
    EXPECT_TRUE(noticed({Mutation::Kind::kDrop, call}, 12, "without a barrier between the two threads"))
        << "sync_warp in line " << call.line;
  }
  EXPECT_EQ(count, 1);
}

TEST_F(QuantizeMutations, EveryFlippedPhaseIsNoticed) {
  EXPECT_EQ(all_noticed(Mutation::Kind::kFlip, {"mbarrier_wait"}), 4);
}

TEST_F(QuantizeMutations, EveryDroppedCopyAndWordBetweenBlocksIsNoticed) {
  EXPECT_GE(all_noticed(Mutation::Kind::kDrop, {"copy_bytes", "raise_global", "add_release", "wait_at_least"}), 5);
}

// One warp to a row, of which two lanes raise magnitudes and one says that they are complete: the other must be the
// thread that the emulation keeps back, which takes more seeds.
class QuantizeOneWarp : public QuantizeMutations {
 protected:
  static QuantizeProblem problem() {
    QuantizeProblem problem = small_problem();
    problem.heads = 2;
    problem.norm = problem.turn = false;
    return problem;
  }
  QuantizeOneWarp() : QuantizeMutations(problem()) {}
};

TEST_F(QuantizeOneWarp, MeetsBeforeItSaysThatItIsDone) {
  EXPECT_EQ(all_noticed(Mutation::Kind::kDrop, {"sync_warp"}, 400), 2);
}

}  // namespace
}  // namespace fpsa::kernel::cuda
