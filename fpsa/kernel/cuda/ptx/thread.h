// Where a thread is, its shared memory, and the exchanges among the threads of a warp.
#pragma once

#include "fpsa/kernel/cuda/ptx/platform.h"

namespace fpsa::kernel::cuda::ptx::inline FPSA_TARGET {

/// Index in the block, threads of the block, index of the block in the grid, number of blocks: one dimension each.
FPSA_PTX(int thread_index(), { return static_cast<int>(threadIdx.x); })
FPSA_PTX(int block_threads(), { return static_cast<int>(blockDim.x); })
FPSA_PTX(int block_index(), { return static_cast<int>(blockIdx.x); })
FPSA_PTX(int grid_blocks(), { return static_cast<int>(gridDim.x); })

/// Address of the dynamic shared memory, which begins at a multiple of 1024 bytes.
FPSA_PTX(SharedAddress shared_memory(), {
  extern __shared__ __align__(1024) unsigned char memory[];
  return static_cast<SharedAddress>(__cvta_generic_to_shared(memory));
})

/// ld.shared, st.shared: T of 2, 4, 8 or 16 bytes, at a multiple of its size.
#if FPSA_EMULATED
void shared_read(SharedAddress address, void* into, int bytes, emulation::Site site);
void shared_write(SharedAddress address, const void* from, int bytes, emulation::Site site);
template <class T>
T load_shared(SharedAddress address FPSA_SITE) {
  T value;
  shared_read(address, &value, sizeof(T), site);
  return value;
}
template <class T>
void store_shared(SharedAddress address, const T& value FPSA_SITE) {
  shared_write(address, &value, sizeof(T), site);
}
#else
template <class T>
FPSA_DEVICE T load_shared(SharedAddress address) {
  return *static_cast<const T*>(__cvta_shared_to_generic(address));
}
template <class T>
FPSA_DEVICE void store_shared(SharedAddress address, const T& value) {
  *static_cast<T*>(__cvta_shared_to_generic(address)) = value;
}
#endif

/// Every thread of the block: bar.sync 0.
FPSA_PTX(void sync_block(FPSA_SITE_ONLY), { asm volatile("bar.sync 0;" ::: "memory"); })

// The rest is for all 32 threads of a warp at once.

FPSA_PTX(void sync_warp(FPSA_SITE_ONLY), { __syncwarp(); })

/// True in one thread of the warp.
FPSA_PTX(bool elect_one(FPSA_SITE_ONLY), {
  uint32_t chosen;
  asm volatile(
      "{\n.reg .pred p;\n"
      "elect.sync _|p, 0xffffffff;\n"
      "selp.u32 %0, 1, 0, p;\n}"
      : "=r"(chosen));
  return chosen != 0;
})

/// The value of the thread whose lane differs by the bits of `mask`.
FPSA_PTX(float shuffle_xor(float value, int mask FPSA_SITE), { return __shfl_xor_sync(0xffffffffu, value, mask); })

FPSA_PTX(uint32_t shuffle_xor(uint32_t value, int mask FPSA_SITE), {
  return __shfl_xor_sync(0xffffffffu, value, mask);
})

/// Whether the condition holds in any thread of the warp.
FPSA_PTX(bool any_in_warp(bool condition FPSA_SITE), { return __any_sync(0xffffffffu, condition) != 0; })

/// redux.sync: the largest value of the warp, in all its threads.
FPSA_PTX(uint32_t max_in_warp(uint32_t value FPSA_SITE), { return __reduce_max_sync(0xffffffffu, value); })

/// stmatrix: four 8x8 matrices of 16-bit elements. Lane l gives the address of row l % 8 of matrix l / 8 (16 bytes, a
/// multiple of 16); values[i] of lane l are elements 2 (l % 4), 2 (l % 4) + 1 of row l / 4 of matrix i.
FPSA_PTX(void store_matrix_x4(SharedAddress row, const uint32_t (&values)[4] FPSA_SITE), {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row), "r"(values[0]),
               "r"(values[1]), "r"(values[2]), "r"(values[3])
               : "memory");
})

/// ldmatrix: the inverse of store_matrix_x4.
FPSA_PTX(void load_matrix_x4(SharedAddress row, uint32_t (&values)[4] FPSA_SITE), {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(values[0]), "=r"(values[1]), "=r"(values[2]), "=r"(values[3])
               : "r"(row)
               : "memory");
})

/// Changes the registers that each thread of the warp may use: a multiple of 8 from 24 to 256. To raise waits until
/// others have given up as many.
template <int kRegisters>
FPSA_DEVICE void set_max_registers_lower(FPSA_SITE_ONLY);
template <int kRegisters>
FPSA_DEVICE void set_max_registers_raise(FPSA_SITE_ONLY);

#if FPSA_EMULATED
void set_max_registers(int registers, bool raise, emulation::Site site);
template <int kRegisters>
void set_max_registers_lower(emulation::Site site) {
  set_max_registers(kRegisters, false, site);
}
template <int kRegisters>
void set_max_registers_raise(emulation::Site site) {
  set_max_registers(kRegisters, true, site);
}
#else
template <int kRegisters>
FPSA_DEVICE void set_max_registers_lower() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
FPSA_DEVICE void set_max_registers_raise() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
#endif

}  // namespace fpsa::kernel::cuda::ptx::inline FPSA_TARGET
