// Copies that the tensor memory accelerator does by itself. One thread issues them.
//
// A load adds its bytes to the phase of an mbarrier, whose end says that they have come. Elements outside the array
// are zeros and count as bytes. Shared addresses of boxes are multiples of 128, of the swizzle's pattern where there is
// one; those of copy_bytes() of 16.
#pragma once

#include "fpsa/kernel/cuda/ptx/tensor_map.h"

namespace fpsa::kernel::cuda::ptx::inline FPSA_TARGET {

/// cp.async.bulk.tensor: the box whose first element is (x, y) or (x, y, z), innermost first.
FPSA_PTX(void copy_box_2d(SharedAddress to, const TensorMap& map, int x, int y, SharedAddress barrier FPSA_SITE), {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::
          "r"(to),
      "l"(&map), "r"(barrier), "r"(x), "r"(y)
      : "memory");
})
FPSA_PTX(
    void copy_box_3d(SharedAddress to, const TensorMap& map, int x, int y, int z, SharedAddress barrier FPSA_SITE), {
      asm volatile(
          "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], "
          "[%2];" ::"r"(to),
          "l"(&map), "r"(barrier), "r"(x), "r"(y), "r"(z)
          : "memory");
    })

/// cp.async.bulk: contiguous bytes, a multiple of 16, from a multiple of 16 to one.
FPSA_PTX(void copy_bytes(SharedAddress to, const void* from, uint32_t bytes, SharedAddress barrier FPSA_SITE), {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
               "l"(from), "r"(bytes), "r"(barrier)
               : "memory");
})

/// The same copies for several blocks of the cluster, a bit of `blocks` for each rank: the bytes come to the same
/// shared address in every one and count on the barrier at the same address there. A block may get them before it
/// expects them, within a phase that its own arrival has yet to end.
FPSA_PTX(void copy_box_2d_multicast(SharedAddress to, const TensorMap& map, int x, int y, SharedAddress barrier,
                                    uint16_t blocks FPSA_SITE),
         {
           asm volatile(
               "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster "
               "[%0], [%1, "
               "{%3, %4}], [%2], %5;" ::"r"(to),
               "l"(&map), "r"(barrier), "r"(x), "r"(y), "h"(blocks)
               : "memory");
         })
FPSA_PTX(void copy_box_3d_multicast(SharedAddress to, const TensorMap& map, int x, int y, int z, SharedAddress barrier,
                                    uint16_t blocks FPSA_SITE),
         {
           asm volatile(
               "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster "
               "[%0], [%1, "
               "{%3, %4, %5}], [%2], %6;" ::"r"(to),
               "l"(&map), "r"(barrier), "r"(x), "r"(y), "r"(z), "h"(blocks)
               : "memory");
         })
FPSA_PTX(
    void copy_bytes_multicast(SharedAddress to, const void* from, uint32_t bytes, SharedAddress barrier,
                              uint16_t blocks FPSA_SITE),
    {
      asm volatile(
          "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1], %2, [%3], "
          "%4;" ::"r"(to),
          "l"(from), "r"(bytes), "r"(barrier), "h"(blocks)
          : "memory");
    })

/// cp.async.bulk.tensor to global memory; elements outside the array are not written. The shared memory may be used
/// again after store_commit() and store_wait(); what ordinary stores wrote there needs fence_proxy_async() and a
/// barrier before.
FPSA_PTX(void store_box_2d(const TensorMap& map, int x, int y, SharedAddress from FPSA_SITE), {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%2, %3}], [%1];" ::"l"(&map),
               "r"(from), "r"(x), "r"(y)
               : "memory");
})
FPSA_PTX(void store_commit(FPSA_SITE_ONLY), { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); })
FPSA_PTX(void store_wait(FPSA_SITE_ONLY), { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); })

/// Brings the descriptor near before its first use.
FPSA_PTX(void prefetch_map(const TensorMap& map), { asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory"); })

}  // namespace fpsa::kernel::cuda::ptx::inline FPSA_TARGET
