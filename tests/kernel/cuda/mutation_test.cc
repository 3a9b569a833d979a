// The tests of the emulated kernels can fail: every line of one that synchronises is dropped, every wait gets the other
// parity, every product swaps two registers of its fragment, one at a time, and each fault must be noticed.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "fpsa/base/check.h"
#include "tests/kernel/cuda/emulated_attention.h"
#include "tests/kernel/cuda/emulated_bf16.h"

namespace fpsa::kernel::cuda {
namespace {

using emulation::Call;
using emulation::Mutation;
using testing_support::EmulatedAttention;
using testing_support::EmulatedBf16;
using testing_support::EmulatedProblem;
using testing_support::EmulatedResult;

// Small, yet: items of 5 blocks of keys, one more than there are stages, so that a producer can run over a stage in use
// before the item's queries stop it; several items for the one block of threads; ragged tiles; an item for one group.
EmulatedProblem small_problem() {
  EmulatedProblem problem;
  problem.grid = {2, 6, 55};
  problem.tile = {2, 4, 8};
  problem.granularity = problem.tile;
  problem.mask = pattern::sliding_tile(problem.grid, problem.tile, {1, 2, 6});
  problem.dim = 64;
  return problem;
}

// A pair of items with 8 blocks of keys, in the second of which a group stands by, then items without keys: threads of
// a warp that does not meet may be far apart.
EmulatedProblem standing_by() {
  EmulatedProblem problem;
  problem.grid = {1, 1, 1024};
  problem.tile = problem.granularity = {1, 1, 64};
  std::vector<uint8_t> visible(16 * 16);
  std::fill_n(visible.begin(), 3 * 16, uint8_t{1});
  problem.mask = pattern::from_matrix(visible, 1, 16, 16);
  problem.dim = 128;
  return problem;
}

// One run of a kernel on a problem, one block of threads, BF16 output: through the staging memory.
using RunKernel = std::function<EmulatedResult(const emulation::Options&, emulation::Report*)>;

RunKernel run_e4m3(const EmulatedProblem& problem) {
  return [attention = EmulatedAttention(problem)](const auto& options, auto* report) {
    EmulatedAttention::RunOptions run;
    run.blocks = 1;
    run.type = OutType::kBf16;
    return attention.emulated(run, options, report);
  };
}
RunKernel run_bf16(const EmulatedProblem& problem) {
  return [attention = EmulatedBf16(problem)](const auto& options, auto* report) {
    return attention.emulated({.type = OutType::kBf16, .blocks = 1}, options, report);
  };
}

RunKernel run_f16(EmulatedProblem problem) {
  problem.f16 = true;
  return [attention = EmulatedBf16(problem)](const auto& options, auto* report) {
    return attention.emulated({.type = OutType::kF16, .blocks = 1}, options, report);
  };
}

// Two blocks of threads as a cluster, which share the pairs and then take an item each.
RunKernel run_bf16_clusters(const EmulatedProblem& problem) {
  return [attention = EmulatedBf16(problem)](const auto& options, auto* report) {
    return attention.emulated({.type = OutType::kBf16, .blocks = 2, .cluster = 2}, options, report);
  };
}

RunKernel run_e4m3_clusters(const EmulatedProblem& problem) {
  return [attention = EmulatedAttention(problem)](const auto& options, auto* report) {
    EmulatedAttention::RunOptions run;
    run.cluster = 2;
    run.type = OutType::kBf16;
    return attention.emulated(run, options, report);
  };
}

struct Kernel {
  const char* name;
  std::function<RunKernel(const EmulatedProblem&)> make;
  const char* product;
  bool clusters = false, reads_stages = false;  // by ordinary loads
};

// Whether one of a few seeds ends in an error or in other bits than the kernel's.
bool noticed(const RunKernel& run, const EmulatedResult& right, const Mutation& mutation) {
  for (uint64_t seed = 1; seed <= 8; ++seed) {
    emulation::Options options;
    options.seed = seed;
    options.mutation = mutation;
    try {
      const EmulatedResult got = run(options, nullptr);
      if (got.out != right.out || got.lse != right.lse || got.row_max != right.row_max) return true;
    } catch (const emulation::Error&) {
      return true;
    }
  }
  return false;
}

std::string name_of(const Call& call) {
  return join(call.function, " in ", call.file.substr(call.file.rfind('/') + 1), ":", call.line);
}

class Mutations : public testing::TestWithParam<Kernel> {
 protected:
  Mutations() { use(small_problem()); }
  void use(const EmulatedProblem& problem) {
    run_ = GetParam().make(problem);
    right_ = run_({}, &report_);
  }

  std::vector<Call> calls_of(const std::set<std::string>& functions) const {
    std::vector<Call> calls;
    for (const Call& call : report_.calls)
      if (functions.contains(call.function)) calls.push_back(call);
    return calls;
  }

  // Every call of these functions, mutated, must be noticed; returns how many there were.
  int all_noticed(Mutation::Kind kind, const std::set<std::string>& functions) {
    const auto calls = calls_of(functions);
    for (const Call& call : calls)
      EXPECT_TRUE(noticed(run_, right_, {kind, call})) << name_of(call);
    return static_cast<int>(calls.size());
  }

  // Of how many of these calls it is noticed that they were dropped.
  int64_t noticed_when_dropped(const std::vector<Call>& calls) const {
    return std::ranges::count_if(
        calls, [&](const Call& call) { return noticed(run_, right_, {Mutation::Kind::kDrop, call}); });
  }

  RunKernel run_;
  emulation::Report report_;
  EmulatedResult right_;
};

TEST_P(Mutations, NothingChangesWithoutOne) {
  Call elsewhere{"mbarrier_wait", "nowhere", 1};
  EXPECT_FALSE(noticed(run_, right_, {Mutation::Kind::kDrop, elsewhere}));
}

TEST_P(Mutations, EveryDroppedBarrierAndArrivalIsNoticed) {
  EXPECT_GE(all_noticed(Mutation::Kind::kDrop,
                        {"mbarrier_init", "mbarrier_arrive", "mbarrier_arrive_expect_tx", "mbarrier_wait",
                         "barrier_arrive", "sync_block", "mbarrier_arrive_cluster", "cluster_arrive", "cluster_wait"}),
            15);
}

TEST_P(Mutations, EveryDroppedFenceAndWaitOfTheProductsIsNoticed) {
  EXPECT_GE(all_noticed(Mutation::Kind::kDrop,
                        {"fence_barrier_init", "fence_proxy_async", "wgmma_fence", "wgmma_commit", "wgmma_wait"}),
            7);
}

TEST_P(Mutations, EveryDroppedCopyOrProductIsNoticed) {
  EXPECT_GE(all_noticed(Mutation::Kind::kDrop,
                        {"copy_box_2d", "copy_box_3d", "copy_bytes", "copy_box_2d_multicast", "copy_box_3d_multicast",
                         "copy_bytes_multicast", GetParam().product, "store_matrix_x4"}),
            4);
}

TEST_P(Mutations, WhatGoesToTheWrongBlockOfAClusterIsNoticed) {
  const std::set<std::string> reaching = {"mbarrier_arrive_cluster", "copy_box_2d_multicast", "copy_box_3d_multicast",
                                          "copy_bytes_multicast"};
  EXPECT_GE(all_noticed(Mutation::Kind::kOwn, reaching), GetParam().clusters ? 2 : 0);
  EXPECT_GE(all_noticed(Mutation::Kind::kFlip, reaching), GetParam().clusters ? 2 : 0);
  EXPECT_GE(all_noticed(Mutation::Kind::kFlip, {"cluster_rank"}), GetParam().clusters ? 2 : 0);
}

TEST_P(Mutations, EveryFlippedPhaseIsNoticed) {
  EXPECT_GE(all_noticed(Mutation::Kind::kFlip, {"mbarrier_wait"}), 6);
}

TEST_P(Mutations, TwoSwappedRegistersOfAFragmentAreNoticed) {
  EXPECT_GE(all_noticed(Mutation::Kind::kSwap, {GetParam().product}), 2);
}

TEST_P(Mutations, AGroupThatDoesNotWaitForItsTurnIsNoticed) {
  EXPECT_GE(all_noticed(Mutation::Kind::kDrop, {"barrier_sync"}), 1);
}

// That a consumer never asks for more is for the test of the machine code to see: registers are not emulated.
TEST_P(Mutations, AProducerThatKeepsItsRegistersIsNoticed) {
  const auto calls = calls_of({"set_max_registers"});
  EXPECT_EQ(calls.size(), 2u);
  EXPECT_GE(noticed_when_dropped(calls), 1);
}

TEST_P(Mutations, TheWarpsMeetBeforeTheyLetGo) {
  const bool clusters = GetParam().clusters;
  if (clusters) use(standing_by());
  if (!clusters || GetParam().reads_stages) {
    EXPECT_GE(all_noticed(Mutation::Kind::kDrop, {"sync_warp"}), clusters ? 3 : 2);
    return;
  }
  // All threads of BF16's groups have issued their products by then, so only where a group stands by may one of them
  // still be at a stage that its warp lets go of, which these few seeds do not show. The line is E4M3's too.
  const auto calls = calls_of({"sync_warp"});
  EXPECT_EQ(calls.size(), 3u);
  EXPECT_GE(noticed_when_dropped(calls), 2);
}

INSTANTIATE_TEST_SUITE_P(
    Kernels, Mutations,
    testing::Values(Kernel{"AttentionFwdE4m3Sm90a", run_e4m3, "wgmma_e4m3", false, true},
                    Kernel{"AttentionFwdBf16Sm90a", run_bf16, "wgmma_bf16"},
                    Kernel{"AttentionFwdF16Sm90a", run_f16, "wgmma_f16"},
                    Kernel{"AttentionFwdBf16Sm90aInClusters", run_bf16_clusters, "wgmma_bf16", true},
                    Kernel{"AttentionFwdE4m3Sm90aInClusters", run_e4m3_clusters, "wgmma_e4m3", true, true}),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace fpsa::kernel::cuda
