// Global memory: wide accesses, and what blocks of threads tell each other.
#pragma once

#include "fpsa/kernel/cuda/ptx/platform.h"

namespace fpsa::kernel::cuda::ptx::inline FPSA_TARGET {

struct alignas(8) Words2 {
  uint32_t at[2];
};
struct alignas(16) Words4 {
  uint32_t at[4];
};
struct alignas(16) Floats4 {
  float at[4];
};

/// ld.global.nc of 16 bytes at a multiple of 16 that nothing writes while the kernel runs and this thread needs once.
FPSA_PTX(Words4 load_once(const void* from), {
  Words4 y;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(y.at[0]), "=r"(y.at[1]), "=r"(y.at[2]), "=r"(y.at[3])
               : "l"(from));
  return y;
})
/// st.global.cs: 4 bytes at a multiple of 4 that this kernel does not read, so that they leave L2 first.
FPSA_PTX(void store_once(void* to, uint32_t value), {
  asm volatile("st.global.cs.u32 [%0], %1;" ::"l"(to), "r"(value) : "memory");
})

/// Raises *to to the value.
FPSA_PTX(void raise_global(uint32_t* to, uint32_t value FPSA_SITE), {
  asm volatile("red.relaxed.gpu.global.max.u32 [%0], %1;" ::"l"(to), "r"(value) : "memory");
})
/// Adds to *counter and returns what it was.
FPSA_PTX(uint32_t fetch_add(uint32_t* counter, uint32_t value FPSA_SITE), {
  uint32_t before;
  asm volatile("atom.relaxed.gpu.global.add.u32 %0, [%1], %2;" : "=r"(before) : "l"(counter), "r"(value) : "memory");
  return before;
})
/// Adds to *counter; whoever has seen the sum sees what this thread, and threads that met it in a barrier, did before.
FPSA_PTX(void add_release(uint32_t* counter, uint32_t value FPSA_SITE), {
  asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(counter), "r"(value) : "memory");
})
/// Waits until *counter is at least the value: the other side of add_release().
FPSA_PTX(void wait_at_least(const uint32_t* counter, uint32_t value FPSA_SITE), {
  uint32_t now;
  do {
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(now) : "l"(counter) : "memory");
  } while (now < value);
})
/// What other blocks may have written, past this multiprocessor's cache.
FPSA_PTX(uint32_t load_shared_by_blocks(const uint32_t* from), {
  uint32_t y;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(y) : "l"(from) : "memory");
  return y;
})

}  // namespace fpsa::kernel::cuda::ptx::inline FPSA_TARGET
