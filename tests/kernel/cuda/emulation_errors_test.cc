// What the emulation must refuse, each fault in the smallest kernel that has it.
#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "fpsa/kernel/cuda/emulation/run.h"
#include "fpsa/kernel/cuda/ptx/barrier.h"
#include "fpsa/kernel/cuda/ptx/copy.h"
#include "fpsa/kernel/cuda/ptx/thread.h"
#include "fpsa/kernel/cuda/ptx/wgmma.h"
#include "tests/kernel/cuda/emulation_errors.h"

namespace fpsa::kernel::cuda {
namespace {

using emulation::Launch;
using testing_support::error_of;
using testing_support::expect_error;
using namespace ptx;

constexpr SharedAddress kBarrier = 0, kData = 1024;
alignas(16) const uint8_t kBytes[1024] = {};

void make_barrier(uint32_t arrivals) {
  if (thread_index() == 0) {
    mbarrier_init(kBarrier, arrivals);
    fence_barrier_init();
  }
  sync_block();
}
void load(uint32_t bytes) {
  mbarrier_arrive_expect_tx(kBarrier, bytes);
  copy_bytes(kData, kBytes, bytes, kBarrier);
}

TEST(EmulationErrors, AReadBeforeTheBytesHaveLanded) {
  expect_error(error_of([] {
                 make_barrier(1);
                 if (thread_index() != 0) return;
                 load(64);
                 load_shared<float>(kData);
               }),
               {"thread 0", "have not landed", "barrier 0", "emulation_errors_test.cc:"});
}

TEST(EmulationErrors, AReadByAThreadThatDidNotWait) {
  expect_error(error_of([] {
                 make_barrier(1);
                 if (thread_index() == 0) {
                   load(64);
                   mbarrier_wait(kBarrier, 0);
                 }
                 sync_block();
                 if (thread_index() == 40) load_shared<float>(kData);
               }),
               {"thread 40 (warp 1)", "has not waited for phase 0 of barrier 0"});
}

TEST(EmulationErrors, AMissingArrivalIsADeadlockThatNamesTheBarrier) {
  expect_error(error_of([] {
                 make_barrier(2);
                 if (thread_index() == 0) mbarrier_arrive(kBarrier);
                 mbarrier_wait(kBarrier, 0);
               }),
               {"deadlock", "thread 0 and 63 more", "parity 0 of barrier 0"});
}

TEST(EmulationErrors, TooManyArrivals) {
  expect_error(error_of([] {
                 make_barrier(1);
                 if (thread_index() != 0) return;
                 mbarrier_arrive_expect_tx(kBarrier, 16);
                 mbarrier_arrive(kBarrier);
               }),
               {"arrival 2 at barrier 0, whose phase 0 has 1"});
}

TEST(EmulationErrors, TheSameParityTwice) {
  expect_error(error_of([] {
                 make_barrier(1);
                 if (thread_index() != 0) return;
                 for (int i = 0; i < 2; ++i) {
                   load(32);
                   mbarrier_wait(kBarrier, 0);
                 }
               }),
               {"wrong phase", "parity 0 of barrier 0", "thread 0"});
}

TEST(EmulationErrors, MoreBytesThanExpected) {
  expect_error(error_of([] {
                 make_barrier(1);
                 if (thread_index() != 0) return;
                 mbarrier_arrive_expect_tx(kBarrier, 16);
                 copy_bytes(kData, kBytes, 48, kBarrier);
                 mbarrier_wait(kBarrier, 0);
               }),
               {"barrier 0 got", "bytes more than phase 0 expects"});
}

TEST(EmulationErrors, ABarrierWithoutItsFenceOrWithoutABarrierOfTheBlock) {
  expect_error(error_of([] {
                 if (thread_index() != 0) return;
                 mbarrier_init(kBarrier, 1);
                 load(32);
               }),
               {"without fence.mbarrier_init"});
  // The barrier of a warp orders the two threads, but is not one of the block.
  expect_error(error_of([] {
                 if (thread_index() == 0) mbarrier_init(kBarrier, 1);
                 sync_warp();
                 if (thread_index() == 1) mbarrier_wait(kBarrier, 0);
               }),
               {"thread 1 ", "which thread 0 made, is used without a barrier of the block"});
}

TEST(EmulationErrors, AccessesOutOfBoundsMisalignedOrUnwritten) {
  expect_error(error_of([] { store_shared(8192u, 1.0f); }), {"beyond the block's 8192 bytes"});
  expect_error(error_of([] { store_shared(6u, 1.0f); }), {"misaligned"});
  expect_error(error_of([] { load_shared<float>(64); }), {"nothing has written"});
  expect_error(error_of([] { store_shared(1020u, 1.0f); }, {.threads = 32, .shared_bytes = 64, .shared_base = 1024}),
               {"beyond the block's 64 bytes from 1024"});
  expect_error(error_of([] {
                 make_barrier(1);
                 store_shared(kBarrier, 1.0f);
               }),
               {"holds an mbarrier"});
}

TEST(EmulationErrors, ALoadOverStoresWithoutTheProxyFence) {
  expect_error(error_of([] {
                 make_barrier(1);
                 store_shared(kData + static_cast<uint32_t>(thread_index()) * 4, 1.0f);
                 sync_block();
                 if (thread_index() == 0) load(64);
               }),
               {"no fence.proxy.async since"});
}

TEST(EmulationErrors, TensorMapsThatTheDriverRefuses) {
  const auto error_with = [](const TensorMapSpec& spec) {
    return error_of([&] {
      make_barrier(1);
      if (thread_index() == 0) copy_box_2d(kData, {spec}, 0, 0, kBarrier);
    });
  };
  const TensorMapSpec right{kBytes, 2, 1, {32, 16}, {1, 32}, {32, 8}, Swizzle::k32};
  TensorMapSpec spec = right;
  spec.box[1] = 257;
  expect_error(error_with(spec), {"box of 257 elements in dimension 1"});
  spec = right;
  spec.stride[1] = 40;
  expect_error(error_with(spec), {"stride of 40 bytes in dimension 1"});
  spec = right;
  spec.size[1] = 0;
  expect_error(error_with(spec), {"0 elements in dimension 1"});
  spec = right;
  spec.box[0] = 16;
  expect_error(error_with(spec), {"box of 16 bytes along the innermost dimension does not fit its swizzle"});
}

TEST(EmulationErrors, NamedBarriersThatDoNotAgree) {
  expect_error(error_of([] { barrier_sync(1, thread_index() < 32 ? 64 : 32); }), {"named barrier 1"});
  expect_error(error_of([] {
                 if (thread_index() < 32) barrier_arrive(2, 64);
               }),
               {"named barrier 2 is left with 32 of 64"});
}

TEST(EmulationErrors, AWarpThatDiverges) {
  expect_error(error_of([] {
                 if (thread_index() % 2 == 0)
                   sync_warp();
                 else
                   shuffle_xor(1.0f, 1);
               }),
               {"the warp diverges"});
}

TEST(EmulationErrors, RegistersThatNobodyGivesUp) {
  expect_error(error_of([] { set_max_registers_raise<240>(); }, {.threads = 512, .registers = 128, .shared_bytes = 0}),
               {"deadlock", "registers 240 for warp"});
  expect_error(error_of([] { set_max_registers_raise<100>(); }), {"multiple of 8"});
  expect_error(error_of(
                   [] {
                     if (thread_index() < 32) set_max_registers_lower<24>();
                   },
                   {.threads = 128, .registers = 128, .shared_bytes = 0}),
               {"setmaxnreg left its warp with 128 registers", "the first warp of its warpgroup with 24"});
}

// A warpgroup with operands that have been written and fenced, and a fault.
std::string product_error(const std::function<void(float (&)[32], uint32_t (&)[4])>& body, bool fence = true) {
  return error_of(
      [&] {
        for (uint32_t at = 0; at < 4096; at += 512)
          store_shared(at + static_cast<uint32_t>(thread_index()) * 4, 0u);
        if (fence) fence_proxy_async();
        sync_block();
        float d[32] = {};
        uint32_t a[4] = {};
        body(d, a);
      },
      {.threads = 128, .shared_bytes = 8192});
}
const uint64_t kOperand = matrix_descriptor(0, Swizzle::k32, 256);

TEST(EmulationErrors, AProductOnStoresWithoutTheProxyFence) {
  expect_error(product_error(
                   [](auto& d, auto& a) {
                     wgmma_fence();
                     wgmma_e4m3(d, a, kOperand, false);
                   },
                   false),
               {"no fence.proxy.async since"});
}

TEST(EmulationErrors, AProductWithoutWgmmaFence) {
  expect_error(product_error([](auto& d, auto& a) { wgmma_e4m3(d, a, kOperand, false); }), {"without wgmma.fence"});
}

TEST(EmulationErrors, AnAccumulatorThatIsWrittenBeforeTheWait) {
  expect_error(product_error([](auto& d, auto& a) {
                 wgmma_fence();
                 wgmma_e4m3(d, a, kOperand, false);
                 wgmma_commit();
                 d[5] = 1;
                 wgmma_wait<0>();
               }),
               {"register 5 of an accumulator was written before the wait"});
}

TEST(EmulationErrors, RegistersOfAThatChangeBeforeTheWait) {
  expect_error(product_error([](auto& d, auto& a) {
                 wgmma_fence();
                 wgmma_e4m3(d, a, kOperand, false);
                 wgmma_commit();
                 sync_block();
                 a[2] = 1;
                 wgmma_wait<0>();
               }),
               {"a register of A changed"});
}

TEST(EmulationErrors, AnAccumulatorIsNotThereBeforeTheWait) {
  expect_error(product_error([](auto& d, auto& a) {
                 wgmma_fence();
                 wgmma_e4m3(d, a, kOperand, false);
                 wgmma_commit();
                 wgmma_wait<1>();  // of the groups before
                 if (d[0] != d[0]) throw emulation::Error("poisoned");
               }),
               {"poisoned"});
}

TEST(EmulationErrors, AThreadThatEndsWithProductsUnderWay) {
  expect_error(product_error([](auto& d, auto& a) {
                 wgmma_fence();
                 wgmma_e4m3(d, a, kOperand, false);
               }),
               {"ends before it has waited"});
}

TEST(EmulationErrors, AWarpgroupThatDiverges) {
  expect_error(product_error([](auto& d, auto& a) {
                 wgmma_fence();
                 wgmma_e4m3(d, a, kOperand + (thread_index() == 77 ? 16 : 0), false);
                 wgmma_commit();
                 wgmma_wait<0>();
               }),
               {"warpgroup diverges"});
}

TEST(EmulationErrors, LaunchesThatNoDeviceTakes) {
  EXPECT_THROW(emulation::run({.threads = 33}, {}, [] {}), std::invalid_argument);
  EXPECT_THROW(emulation::run({.threads = 1024, .registers = 128}, {}, [] {}), std::invalid_argument);
  EXPECT_THROW(emulation::run({.shared_bytes = 300000}, {}, [] {}), std::invalid_argument);
}

}  // namespace
}  // namespace fpsa::kernel::cuda
