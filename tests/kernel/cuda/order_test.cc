// What one thread stores in shared memory and another reads: some barrier must stand between them, and without it every
// seed ends in an error that names both threads and the address, even where the read comes after the write in time.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <optional>
#include <string>

#include "fpsa/kernel/cuda/emulation/order.h"
#include "fpsa/kernel/cuda/emulation/run.h"
#include "fpsa/kernel/cuda/ptx/barrier.h"
#include "fpsa/kernel/cuda/ptx/copy.h"
#include "fpsa/kernel/cuda/ptx/global.h"
#include "fpsa/kernel/cuda/ptx/thread.h"
#include "fpsa/kernel/cuda/ptx/wgmma.h"

namespace fpsa::kernel::cuda {
namespace {

using emulation::Launch;
using emulation::Mutation;
using emulation::Order;
using emulation::PhaseClocks;
using namespace ptx;

constexpr SharedAddress kBarrier = 0, kData = 1024;
constexpr int kWriter = 3;

TEST(Order, WhatIsReleasedIsKnownToWhoAcquiresItAndToThoseWhoHearOfIt) {
  Order order(3);
  const uint32_t first = order.now(0);
  EXPECT_TRUE(order.knows(0, 0, first));
  EXPECT_FALSE(order.knows(1, 0, first));
  Order::Clock barrier;
  order.release(0, barrier);
  EXPECT_FALSE(order.knows(1, 0, first));
  order.acquire(1, barrier);
  EXPECT_TRUE(order.knows(1, 0, first));
  EXPECT_FALSE(order.knows(1, 0, order.now(0)));  // what came after the release
  EXPECT_FALSE(order.knows(2, 0, first));
  order.meet(1, 2);
  EXPECT_TRUE(order.knows(2, 0, first));
}

TEST(Order, AWaitIsForThePhasesUpToItsOwn) {
  Order order(3);
  PhaseClocks barrier;
  const uint32_t first = order.now(0);
  barrier.arrive(order, 0);
  barrier.end(0);
  const uint32_t second = order.now(0);
  barrier.arrive(order, 0);
  barrier.wait(order, 1, 0);
  EXPECT_TRUE(order.knows(1, 0, first));
  EXPECT_FALSE(order.knows(1, 0, second));
  barrier.end(1);
  barrier.wait(order, 2, 1);
  EXPECT_TRUE(order.knows(2, 0, first));
  EXPECT_TRUE(order.knows(2, 0, second));
}

// A kernel in which thread kWriter writes kData and `reader` uses it after that in time; `drop` is the instruction that
// orders the two.
struct Case {
  const char* name;
  const char* drop;
  int reader;
  const char* what;
  void (*kernel)(const std::function<void()>& written, const std::function<void()>& after_the_write);
  int threads = 64;
};

void write() {
  if (thread_index() == kWriter) store_shared(kData, 1.0f);
}
void read(int thread) {
  if (thread_index() == thread) load_shared<float>(kData);
}
void make_barrier(uint32_t arrivals) {
  if (thread_index() == 0) {
    mbarrier_init(kBarrier, arrivals);
    fence_barrier_init();
  }
  sync_block();
}

const Case kCases[] = {
    {"TheBarrierOfTheBlock", "sync_block", 40, "read",
     [](const auto& written, const auto& after) {
       write();
       written();
       sync_block();
       after();
       read(40);
     }},
    {"ANamedBarrier", "barrier_sync", 40, "read",
     [](const auto& written, const auto& after) {
       write();
       written();
       barrier_sync(1, 64);
       after();
       read(40);
     }},
    {"AnArrivalAtANamedBarrier", "barrier_sync", 40, "read",
     [](const auto& written, const auto& after) {
       if (thread_index() < 32) {
         write();
         written();
         barrier_arrive(1, 64);
       } else {
         barrier_sync(1, 64);
         after();
         read(40);
       }
     }},
    {"ThePhaseOfAnMbarrier", "mbarrier_wait", 40, "read",
     [](const auto& written, const auto& after) {
       make_barrier(1);
       write();
       written();
       if (thread_index() == kWriter) mbarrier_arrive(kBarrier);
       if (thread_index() < 32) return;
       mbarrier_wait(kBarrier, 0);
       after();
       read(40);
     }},
    {"TheBarrierOfAWarp", "sync_warp", 7, "read",
     [](const auto& written, const auto& after) {
       write();
       written();
       sync_warp();
       after();
       read(7);
     }},
    {"TheBarrierOfAWarpBeforeOneThreadArrivesForAll", "sync_warp", 40, "read",
     [](const auto& written, const auto& after) {
       make_barrier(1);
       if (thread_index() < 32) {
         write();
         written();
         sync_warp();
         after();
         if (thread_index() == 0) mbarrier_arrive(kBarrier);
       } else {
         mbarrier_wait(kBarrier, 0);
         read(40);
       }
     }},
    {"AStoreOverAStore", "sync_block", 40, "write",
     [](const auto& written, const auto& after) {
       write();
       written();
       sync_block();
       after();
       if (thread_index() == 40) store_shared(kData, 2.0f);
     }},
    {"ACopyOutOfAFencedStore", "sync_block", 40, "product",
     [](const auto& written, const auto& after) {
       alignas(16) static float to[4];
       static const TensorMap map{{to, 2, 1, {16, 1}, {1, 16}, {16, 1}, Swizzle::kNone}};
       if (thread_index() == kWriter)
         for (uint32_t i = 0; i < 4; ++i)
           store_shared(kData + 4 * i, 1.0f);
       fence_proxy_async();
       written();
       sync_block();
       after();
       if (thread_index() != 40) return;
       store_box_2d(map, 0, 0, kData);
       store_commit();
       store_wait();
     }},
    {"AProductOfFencedStores", "sync_block", -1, "product",
     [](const auto& written, const auto& after) {
       if (thread_index() == kWriter)
         for (uint32_t at = 0; at < 2048; at += 4)
           store_shared(kData + at, 0u);
       fence_proxy_async();
       written();
       sync_block();
       after();
       float d[32] = {};
       uint32_t a[4] = {};
       wgmma_fence();
       wgmma_e4m3(d, a, matrix_descriptor(kData, Swizzle::k32, 256), false);
       wgmma_commit();
       wgmma_wait<0>();
     },
     128},
};

class Ordered : public testing::TestWithParam<Case> {
 protected:
  static emulation::Report run(uint64_t seed, const std::optional<Mutation>& mutation) {
    const Case& c = GetParam();
    bool is_written = false;
    uint32_t word = 0;
    const auto written = [&] { is_written = is_written || thread_index() == kWriter; };
    // By the host's memory, which orders nothing.
    const auto after = [&] {
      while (!is_written)
        raise_global(&word, 0);
    };
    emulation::Options options;
    options.seed = seed;
    options.mutation = mutation;
    return emulation::run({.threads = c.threads, .shared_bytes = 8192}, options, [&] { c.kernel(written, after); });
  }
};

TEST_P(Ordered, IsNoErrorAndWithoutItIsOneWithEverySeed) {
  const Case& c = GetParam();
  emulation::Report report;
  for (uint64_t seed = 1; seed <= 5; ++seed)
    ASSERT_NO_THROW(report = run(seed, {}));
  const auto call = std::ranges::find(report.calls, std::string(c.drop), &emulation::Call::function);
  ASSERT_NE(call, report.calls.end());
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    std::string message = "no error";
    try {
      run(seed, Mutation{Mutation::Kind::kDrop, *call});
    } catch (const emulation::Error& error) {
      message = error.what();
    }
    const std::string reader = c.reader < 0 ? "thread " : "thread " + std::to_string(c.reader) + " ";
    for (const std::string& part : {reader, std::string(c.what) + " of shared address 1024",
                                    "which thread " + std::to_string(kWriter) + " wrote",
                                    std::string("without a barrier between the two threads")})
      EXPECT_NE(message.find(part), std::string::npos) << "expected '" << part << "' in: " << message;
  }
}

INSTANTIATE_TEST_SUITE_P(By, Ordered, testing::ValuesIn(kCases), [](const auto& info) { return info.param.name; });

TEST(Order, AShuffleIsNoBarrier) {
  std::string message = "no error";
  try {
    emulation::run({.threads = 32, .shared_bytes = 8192}, {}, [] {
      write();
      shuffle_xor(1.0f, 1);
      read(7);
    });
  } catch (const emulation::Error& error) {
    message = error.what();
  }
  EXPECT_NE(message.find("thread 7 (warp 0): read of shared address 1024, which thread 3 wrote"), std::string::npos)
      << message;
}

}  // namespace
}  // namespace fpsa::kernel::cuda
