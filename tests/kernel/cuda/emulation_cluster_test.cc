// Clusters in emulation: what one block brings to another, and what must be refused, in the smallest kernels that do
// it.
#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "fpsa/kernel/cuda/ptx/barrier.h"
#include "fpsa/kernel/cuda/ptx/cluster.h"
#include "fpsa/kernel/cuda/ptx/copy.h"
#include "fpsa/kernel/cuda/ptx/thread.h"
#include "tests/kernel/cuda/emulation_errors.h"

namespace fpsa::kernel::cuda {
namespace {

using emulation::Launch;
using testing_support::error_of;
using testing_support::expect_error;
using namespace ptx;

constexpr SharedAddress kBarrier = 0, kData = 1024;
constexpr Launch kTwo = {.blocks = 2, .threads = 32, .registers = 32, .shared_bytes = 8192, .cluster = 2};
alignas(16) const uint32_t kWords[256] = {1, 2, 3, 4, 5};

void sync_cluster() {
  cluster_arrive();
  cluster_wait();
}
// A barrier in each block, and the blocks have met.
void make_barriers(uint32_t arrivals) {
  if (thread_index() == 0) {
    mbarrier_init(kBarrier, arrivals);
    fence_barrier_init();
  }
  sync_cluster();
}
bool first_of(int rank) {
  return thread_index() == 0 && cluster_rank() == rank;
}
// Long enough for the other block to come to its end.
void dawdle() {
  for (int i = 0; i < 2000; ++i)
    sync_warp();
}

TEST(EmulatedClusters, EachBlockBringsHalfToBothBeforeOrAfterTheyExpectIt) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    uint32_t got[2][2] = {};
    emulation::Options options;
    options.seed = seed;
    emulation::run(kTwo, options, [&] {
      make_barriers(1);
      const int rank = cluster_rank();
      if (thread_index() == 0) {
        const auto half = static_cast<uint32_t>(rank * 512);
        mbarrier_arrive_expect_tx(kBarrier, 1024);
        copy_bytes_multicast(kData + half, kWords + 4 * rank, 512, kBarrier, 3);
        mbarrier_wait(kBarrier, 0);
        got[rank][0] = load_shared<uint32_t>(kData);
        got[rank][1] = load_shared<uint32_t>(kData + 512);
      }
      sync_cluster();
    });
    for (const auto& words : got) {
      EXPECT_EQ(words[0], 1u);
      EXPECT_EQ(words[1], 5u);
    }
  }
}

TEST(EmulatedClusters, ArrivalsComeToTheBarrierOfTheBlockThatIsMeant) {
  int waited = 0;
  emulation::run(kTwo, {}, [&] {
    make_barriers(64);
    mbarrier_arrive_cluster(map_to_block(kBarrier, 0));
    if (cluster_rank() == 0) {
      mbarrier_wait(kBarrier, 0);
      ++waited;
    }
    sync_cluster();
  });
  EXPECT_EQ(waited, 32);
}

TEST(EmulatedClusters, AThreadThatHasEndedIsNotWaitedFor) {
  int met = 0;
  emulation::run(kTwo, {}, [&] {
    if (thread_index() % 2 == 1) return;
    sync_cluster();
    ++met;
  });
  EXPECT_EQ(met, 32);
}

// Thread 3 of block 0 stores to kData and fences; then `order`, and block 1 brings bytes over what was stored.
std::function<void()> bytes_over_a_store(void (*order)()) {
  return [order] {
    make_barriers(1);
    if (cluster_rank() == 0 && thread_index() == 3) {
      store_shared(kData, 1.0f);
      fence_proxy_async();
    }
    order();
    if (first_of(1)) copy_bytes_multicast(kData, kWords, 64, kBarrier, 1);
    if (first_of(0)) {
      mbarrier_arrive_expect_tx(kBarrier, 64);
      mbarrier_wait(kBarrier, 0);
      load_shared<uint32_t>(kData);
    }
    sync_cluster();
  };
}

TEST(EmulatedClusters, ABarrierOfTheClusterOrdersBytesOfAnotherBlockAfterAStore) {
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    emulation::Options options;
    options.seed = seed;
    EXPECT_NO_THROW(emulation::run(kTwo, options, bytes_over_a_store(&sync_cluster)));
  }
}

TEST(EmulatedClusters, AnArrivalAtABarrierOfTheOwnBlockOrdersAsAnyOther) {
  int read = 0;
  emulation::run(kTwo, {}, [&] {
    make_barriers(1);
    if (thread_index() == 3) {
      store_shared(kData, 1.0f);
      mbarrier_arrive_cluster(map_to_block(kBarrier, cluster_rank()));
    } else if (thread_index() == 0) {
      mbarrier_wait(kBarrier, 0);
      read += static_cast<int>(load_shared<float>(kData));
    }
    sync_cluster();
  });
  EXPECT_EQ(read, 2);
}

// What the store's thread says comes in time, but without its writes: the scope of the arrival is its block.
TEST(EmulatedClusterErrors, AnArrivalAtAnotherBlocksBarrierDoesNotOrderAStore) {
  const auto kernel = bytes_over_a_store([] {
    constexpr SharedAddress kSaid = 8;
    if (thread_index() == 0) {
      mbarrier_init(kSaid, 1);
      fence_barrier_init();
    }
    // A store after this barrier of the cluster.
    sync_cluster();
    if (cluster_rank() == 0 && thread_index() == 3) {
      store_shared(kData, 2.0f);
      fence_proxy_async();
      mbarrier_arrive_cluster(map_to_block(kSaid, 1));
    }
    if (first_of(1)) mbarrier_wait(kSaid, 0);
  });
  expect_error(error_of(kernel, kTwo),
               {"block 1, thread 0 (warp 0): load over bytes of shared address 1024 of block 0, which thread 3 there "
                "wrote, without a barrier between the two threads"});
}

TEST(EmulatedClusterErrors, BytesOverAStoreWithoutItsFence) {
  const auto kernel = bytes_over_a_store([] {
    if (cluster_rank() == 0 && thread_index() == 3) store_shared(kData, 2.0f);
    sync_cluster();
  });
  expect_error(error_of(kernel, kTwo),
               {"block 1, thread 0",
                "shared address 1024 of block 0, which thread 3 there wrote with an ordinary store "
                "and no fence.proxy.async"});
}

TEST(EmulatedClusterErrors, AnArrivalBeforeTheBlocksHaveMet) {
  const std::string message = error_of(
      [] {
        sync_cluster();
        if (thread_index() == 0) mbarrier_init(kBarrier, 1);
        fence_barrier_init();
        sync_block();
        // Either there is no such barrier yet, or nothing says that it is seen.
        if (first_of(1)) mbarrier_arrive_cluster(map_to_block(kBarrier, 0));
        sync_cluster();
      },
      kTwo);
  expect_error(message, {"block 1, thread 0", "mbarrier at "});
}

TEST(EmulatedClusterErrors, AnArrivalAtABarrierWithoutItsFence) {
  expect_error(error_of(
                   [] {
                     if (thread_index() == 0) mbarrier_init(kBarrier, 1);
                     sync_cluster();
                     if (first_of(1)) mbarrier_arrive_cluster(map_to_block(kBarrier, 0));
                     sync_cluster();
                   },
                   kTwo),
               {"block 1, thread 0", "without fence.mbarrier_init"});
}

TEST(EmulatedClusterErrors, AnArrivalInABlockThatHasEnded) {
  expect_error(error_of(
                   [] {
                     make_barriers(1);
                     if (cluster_rank() == 1) return;
                     dawdle();
                     if (thread_index() == 0) mbarrier_arrive_cluster(map_to_block(kBarrier, 1));
                   },
                   kTwo),
               {"block 0, thread 0", "reaches into block 1 of its cluster, which has ended"});
}

TEST(EmulatedClusterErrors, ACopyIntoABlockThatHasEnded) {
  expect_error(error_of(
                   [] {
                     make_barriers(1);
                     if (cluster_rank() == 1) return;
                     dawdle();
                     if (thread_index() == 0) copy_bytes_multicast(kData, kWords, 64, kBarrier, 2);
                   },
                   kTwo),
               {"block 0, thread 0", "reaches into block 1 of its cluster, which has ended"});
}

TEST(EmulatedClusterErrors, ABlockThatDoesNotWaitForTheBytesThatAnotherBrings) {
  const std::string message = error_of(
      [] {
        make_barriers(1);
        if (first_of(0)) copy_bytes_multicast(kData, kWords, 1024, kBarrier, 2);
      },
      kTwo);
  // The bytes come before its end or after.
  EXPECT_TRUE(message.find("barrier 0 is left with") != std::string::npos ||
              message.find("a copy lands in block 1 of the cluster, which has ended") != std::string::npos ||
              message.find("reaches into block 1") != std::string::npos)
      << message;
}

TEST(EmulatedClusterErrors, MoreBytesThanTheOtherBlockExpects) {
  expect_error(error_of(
                   [] {
                     make_barriers(1);
                     if (first_of(0)) copy_bytes_multicast(kData, kWords, 128, kBarrier, 2);
                     if (first_of(1)) {
                       mbarrier_arrive_expect_tx(kBarrier, 64);
                       mbarrier_wait(kBarrier, 0);
                       mbarrier_wait(kBarrier, 1);
                     }
                     sync_cluster();
                   },
                   kTwo),
               {"barrier 0 got 64 bytes more than phase 0 expects"});
}

TEST(EmulatedClusterErrors, BytesOverBytesThatTheOtherBlockReads) {
  expect_error(error_of(
                   [] {
                     make_barriers(1);
                     if (first_of(0)) {
                       mbarrier_arrive_expect_tx(kBarrier, 64);
                       copy_bytes(kData, kWords, 64, kBarrier);
                       mbarrier_wait(kBarrier, 0);
                     }
                     sync_cluster();
                     if (first_of(1)) copy_bytes_multicast(kData, kWords, 64, kBarrier, 1);
                     sync_cluster();
                     if (first_of(0)) load_shared<float>(kData);
                     sync_cluster();
                   },
                   kTwo),
               {"block 0, thread 0", "read of shared address 1024, whose bytes have not landed"});
}

TEST(EmulatedClusterErrors, ACopyThatNoBlockGetsAndABlockThatIsNotThere) {
  expect_error(error_of(
                   [] {
                     make_barriers(1);
                     if (thread_index() == 0) copy_bytes_multicast(kData, kWords, 64, kBarrier, 0);
                   },
                   kTwo),
               {"thread 0", "copy to no block"});
  expect_error(error_of(
                   [] {
                     make_barriers(1);
                     if (thread_index() == 0) mbarrier_arrive_cluster(map_to_block(kBarrier, 2));
                   },
                   kTwo),
               {"thread 0", "reaches for block 2 of a cluster of 2"});
}

TEST(EmulatedClusterErrors, AWaitForTheClusterWithoutAnArrival) {
  expect_error(error_of([] { cluster_wait(); }, kTwo), {"without having arrived"});
  expect_error(error_of(
                   [] {
                     cluster_arrive();
                     cluster_arrive();
                   },
                   kTwo),
               {"arrives twice at the cluster's barrier"});
}

TEST(EmulatedClusterErrors, ADeadlockNamesTheThreadsOfEachBlock) {
  expect_error(error_of(
                   [] {
                     make_barriers(2);
                     if (thread_index() != 0) return;
                     mbarrier_arrive_cluster(map_to_block(kBarrier, 1 - cluster_rank()));
                     mbarrier_wait(kBarrier, 0);
                   },
                   kTwo),
               {"deadlock", "block 0:", "block 1:", "thread 0: waits for parity 0 of barrier 0"});
}

TEST(EmulatedClusterErrors, AGridThatIsNotOfWholeClusters) {
  EXPECT_THROW(emulation::run({.blocks = 3, .cluster = 2}, {}, [] {}), std::invalid_argument);
  EXPECT_THROW(emulation::run({.blocks = 9, .cluster = 9}, {}, [] {}), std::invalid_argument);
}

}  // namespace
}  // namespace fpsa::kernel::cuda
