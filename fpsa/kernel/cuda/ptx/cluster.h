// Blocks of threads that run at the same time on neighbouring multiprocessors and reach each other's shared memory.
//
// A block may be reached from the first barrier of the cluster that its threads have met the others at, to its end.
#pragma once

#include "fpsa/kernel/cuda/ptx/platform.h"

namespace fpsa::kernel::cuda::ptx::inline FPSA_TARGET {

/// An address in the shared memory of some block of the cluster.
using ClusterAddress = uint32_t;

/// %cluster_ctarank: the block's number in its cluster; grid indices of a cluster's blocks follow each other.
FPSA_PTX(int cluster_rank(FPSA_SITE_ONLY), {
  uint32_t rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return static_cast<int>(rank);
})

/// Every thread of the cluster that has not ended arrives, and waits for the others. Threads of a warp need not do so
/// together.
FPSA_PTX(void cluster_arrive(FPSA_SITE_ONLY), { asm volatile("barrier.cluster.arrive.release;" ::: "memory"); })
FPSA_PTX(void cluster_wait(FPSA_SITE_ONLY), { asm volatile("barrier.cluster.wait.acquire;" ::: "memory"); })

/// mapa: what lies at this address of this block, in the block of that rank.
FPSA_PTX(ClusterAddress map_to_block(SharedAddress address, int rank), {
  uint32_t mapped;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(mapped) : "r"(address), "r"(rank));
  return mapped;
})

/// Arrives once at a barrier of any block of the cluster. Waiters there know that this thread's reads before it are
/// done: that takes no wider scope than the block's, for a read whose value has come is over for everyone. What it
/// wrote they need not see; with release.cluster they would, and nvcc 13.0 makes that a MEMBAR of the whole device.
FPSA_PTX(void mbarrier_arrive_cluster(ClusterAddress barrier FPSA_SITE), {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(barrier) : "memory");
})

}  // namespace fpsa::kernel::cuda::ptx::inline FPSA_TARGET
