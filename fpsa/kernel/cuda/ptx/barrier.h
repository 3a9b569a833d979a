// Barriers in shared memory (mbarrier), named barriers, and the fence between the two ways into shared memory.
//
// An mbarrier counts arrivals and bytes of asynchronous copies. When both have come, its phase ends and the next
// begins. Phases alternate in parity, 0 first; a wait for parity p returns when the latest phase of that parity has
// ended, so a wait for 1 on a fresh barrier returns at once.
#pragma once

#include "fpsa/kernel/cuda/ptx/platform.h"

namespace fpsa::kernel::cuda::ptx::inline FPSA_TARGET {

inline constexpr int kBarrierBytes = 8;

/// Makes a barrier of 8 bytes at a multiple of 8. Others may use it after fence_barrier_init() of this thread and a
/// barrier of the block.
FPSA_PTX(void mbarrier_init(SharedAddress barrier, uint32_t arrivals FPSA_SITE), {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
})
FPSA_PTX(void fence_barrier_init(FPSA_SITE_ONLY), {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
})

/// Arrives once and adds to the bytes that the phase expects.
FPSA_PTX(void mbarrier_arrive_expect_tx(SharedAddress barrier, uint32_t bytes FPSA_SITE), {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
})
FPSA_PTX(void mbarrier_arrive(SharedAddress barrier FPSA_SITE), {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
})

/// Waits for the end of the phase of this parity.
FPSA_PTX(void mbarrier_wait(SharedAddress barrier, uint32_t parity FPSA_SITE), {
  asm volatile(
      "{\n.reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n}" ::"r"(barrier),
      "r"(parity)
      : "memory");
})

/// Named barrier 1 to 15 among `threads` threads, a multiple of 32 that counts both kinds of arrival: one waits for
/// the others, one does not.
FPSA_PTX(void barrier_sync(int barrier, int threads FPSA_SITE), {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
})
FPSA_PTX(void barrier_arrive(int barrier, int threads FPSA_SITE), {
  asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
})

/// Makes this thread's ordinary writes to shared memory visible to WGMMA and to bulk copies that are issued after a
/// barrier that follows.
FPSA_PTX(void fence_proxy_async(FPSA_SITE_ONLY), { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); })

}  // namespace fpsa::kernel::cuda::ptx::inline FPSA_TARGET
