// Matrix products of a warpgroup (wgmma): 128 threads, the first a multiple of 128, together compute D = A B or
// D += A B for A of 64 rows. They run beside the threads that issued them.
//
// Fragments. Of D, thread i holds d[4 j + 2 h + e] = D[16 (i / 32) + (i % 32) / 4 + 8 h][8 j + 2 (i % 4) + e]. Of A in
// registers it holds the same rows: a[2 g + h] has, of row h, the elements of bytes 16 g + 4 (i % 4) to + 3 of the
// 32 bytes along K.
//
// Order. wgmma_fence() before the first product and after any other access to registers that a product uses;
// wgmma_commit() closes a group; wgmma_wait<n>() until all but the last n groups are done. Until then neither
// accumulators nor A's registers may be touched and A and B in shared memory must stay.
#pragma once

#include "fpsa/kernel/cuda/ptx/math.h"
#include "fpsa/kernel/cuda/ptx/tensor_map.h"

namespace fpsa::kernel::cuda::ptx::inline FPSA_TARGET {

/// The descriptor of an operand in shared memory. K-major: rows of swizzle_bytes(swizzle) bytes, 8 rows a pattern,
/// patterns `stride_bytes` apart along rows; `leading_bytes` is not used. MN-major (16-bit elements only): rows along
/// K, patterns of 8 rows `stride_bytes` apart along K and `leading_bytes` along M or N.
FPSA_BOTH uint64_t matrix_descriptor(SharedAddress address, Swizzle swizzle, uint32_t stride_bytes,
                                     uint32_t leading_bytes = 16) {
  return static_cast<uint64_t>((address & 0x3ffff) >> 4) | static_cast<uint64_t>((leading_bytes & 0x3ffff) >> 4) << 16 |
         static_cast<uint64_t>((stride_bytes & 0x3ffff) >> 4) << 32 | static_cast<uint64_t>(swizzle) << 62;
}

/// The descriptor of the same operand `bytes` further on: one addition, where making it anew takes several.
FPSA_BOTH uint64_t advance_descriptor(uint64_t descriptor, uint32_t bytes) {
  // The address cannot carry out of its bits.
  return (descriptor & 0xffffffff00000000u) | (static_cast<uint32_t>(descriptor) + (bytes >> 4));
}

/// Which index of an operand in shared memory runs within a row: K, or the other one (A's M, B's N).
enum class Major : int { kK = 0, kMn = 1 };

FPSA_PTX(void wgmma_fence(FPSA_SITE_ONLY), { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); })
FPSA_PTX(void wgmma_commit(FPSA_SITE_ONLY), { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); })
#if FPSA_EMULATED
void wgmma_wait_groups(int groups, emulation::Site site);
template <int kGroups>
void wgmma_wait(FPSA_SITE_ONLY) {
  wgmma_wait_groups(kGroups, site);
}
/// Keeps the compiler from moving accesses to these registers over this point: it does not know what a wait means.
template <class T, int kCount>
void pin(T (&)[kCount]) {}
#else
template <int kGroups>
FPSA_DEVICE void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kGroups) : "memory");
}
template <int kCount>
FPSA_DEVICE void pin(float (&registers)[kCount]) {
  FPSA_UNROLL
  for (int i = 0; i < kCount; ++i)
    asm volatile("" : "+f"(registers[i])::"memory");
}
template <int kCount>
FPSA_DEVICE void pin(uint32_t (&registers)[kCount]) {
  FPSA_UNROLL
  for (int i = 0; i < kCount; ++i)
    asm volatile("" : "+r"(registers[i])::"memory");
}
#endif

// Operand lists of the instructions below.
#define FPSA_D4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define FPSA_D16(i) FPSA_D4(i), FPSA_D4(i + 4), FPSA_D4(i + 8), FPSA_D4(i + 12)
#define FPSA_D32 FPSA_D16(0), FPSA_D16(16)
#define FPSA_D64 FPSA_D32, FPSA_D16(32), FPSA_D16(48)
#define FPSA_R32                                                                                                   \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, " \
  "%24, %25, %26, %27, %28, %29, %30, %31"
#define FPSA_R64                                                                                                     \
  FPSA_R32                                                                                                           \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, " \
  "%54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define FPSA_WGMMA_SS(shape, regs, outputs, a_at, b_at, p_at, tail, ...)                                      \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " p_at ", 0;\nwgmma.mma_async.sync.aligned." shape " {" regs \
               "}, " a_at ", " b_at ", p, 1, 1" tail ";\n}"                                                   \
               : outputs                                                                                      \
               : "l"(a), "l"(b), "r"(static_cast<int>(accumulate))__VA_OPT__(, ) __VA_ARGS__)
#define FPSA_WGMMA_RS(shape, regs, outputs, a_at, b_at, p_at, tail, ...)                                      \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " p_at ", 0;\nwgmma.mma_async.sync.aligned." shape " {" regs \
               "}, {" a_at "}, " b_at ", p, 1, 1" tail ";\n}"                                                 \
               : outputs                                                                                      \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b),                                          \
                 "r"(static_cast<int>(accumulate))__VA_OPT__(, ) __VA_ARGS__)

/// D [64, N] (+)= A [64, 32] B [32, N] of E4M3, N = 64 or 128, A from shared memory or registers; both K-major.
FPSA_PTX(void wgmma_e4m3(float (&d)[32], uint64_t a, uint64_t b, bool accumulate FPSA_SITE),
         { FPSA_WGMMA_SS("m64n64k32.f32.e4m3.e4m3", FPSA_R32, FPSA_D32, "%32", "%33", "%34", ""); })
FPSA_PTX(void wgmma_e4m3(float (&d)[64], uint64_t a, uint64_t b, bool accumulate FPSA_SITE),
         { FPSA_WGMMA_SS("m64n128k32.f32.e4m3.e4m3", FPSA_R64, FPSA_D64, "%64", "%65", "%66", ""); })
FPSA_PTX(void wgmma_e4m3(float (&d)[32], const uint32_t (&a)[4], uint64_t b, bool accumulate FPSA_SITE),
         { FPSA_WGMMA_RS("m64n64k32.f32.e4m3.e4m3", FPSA_R32, FPSA_D32, "%32, %33, %34, %35", "%36", "%37", ""); })
FPSA_PTX(void wgmma_e4m3(float (&d)[64], const uint32_t (&a)[4], uint64_t b, bool accumulate FPSA_SITE),
         { FPSA_WGMMA_RS("m64n128k32.f32.e4m3.e4m3", FPSA_R64, FPSA_D64, "%64, %65, %66, %67", "%68", "%69", ""); })

/// D [64, N] (+)= A [64, 16] B [16, N] of BF16 or F16, N = 64 or 128, A from shared memory or registers.
#if FPSA_EMULATED
void wgmma_16bit_issue(Element element, float* d, int columns, Major a_major, uint64_t a, Major b_major, uint64_t b,
                       bool accumulate, emulation::Site site);
void wgmma_16bit_issue(Element element, float* d, int columns, const uint32_t* a, Major b_major, uint64_t b,
                       bool accumulate, emulation::Site site);
template <Element kElement, Major kA, Major kB, int kCount>
void wgmma_16bit(float (&d)[kCount], uint64_t a, uint64_t b, bool accumulate FPSA_SITE) {
  static_assert(kCount == 32 || kCount == 64, "the device has instructions for these");
  wgmma_16bit_issue(kElement, d, 2 * kCount, kA, a, kB, b, accumulate, site);
}
template <Element kElement, Major kB, int kCount>
void wgmma_16bit(float (&d)[kCount], const uint32_t (&a)[4], uint64_t b, bool accumulate FPSA_SITE) {
  static_assert(kCount == 32 || kCount == 64, "the device has instructions for these");
  wgmma_16bit_issue(kElement, d, 2 * kCount, a, kB, b, accumulate, site);
}
#else
template <Element kElement, Major kA, Major kB>
FPSA_DEVICE void wgmma_16bit(float (&d)[32], uint64_t a, uint64_t b, bool accumulate) {
  if constexpr (kElement == Element::kF16)
    FPSA_WGMMA_SS("m64n64k16.f32.f16.f16", FPSA_R32, FPSA_D32, "%32", "%33", "%34", ", %35, %36",
                  "n"(static_cast<int>(kA)), "n"(static_cast<int>(kB)));
  else
    FPSA_WGMMA_SS("m64n64k16.f32.bf16.bf16", FPSA_R32, FPSA_D32, "%32", "%33", "%34", ", %35, %36",
                  "n"(static_cast<int>(kA)), "n"(static_cast<int>(kB)));
}
template <Element kElement, Major kA, Major kB>
FPSA_DEVICE void wgmma_16bit(float (&d)[64], uint64_t a, uint64_t b, bool accumulate) {
  if constexpr (kElement == Element::kF16)
    FPSA_WGMMA_SS("m64n128k16.f32.f16.f16", FPSA_R64, FPSA_D64, "%64", "%65", "%66", ", %67, %68",
                  "n"(static_cast<int>(kA)), "n"(static_cast<int>(kB)));
  else
    FPSA_WGMMA_SS("m64n128k16.f32.bf16.bf16", FPSA_R64, FPSA_D64, "%64", "%65", "%66", ", %67, %68",
                  "n"(static_cast<int>(kA)), "n"(static_cast<int>(kB)));
}
template <Element kElement, Major kB>
FPSA_DEVICE void wgmma_16bit(float (&d)[32], const uint32_t (&a)[4], uint64_t b, bool accumulate) {
  if constexpr (kElement == Element::kF16)
    FPSA_WGMMA_RS("m64n64k16.f32.f16.f16", FPSA_R32, FPSA_D32, "%32, %33, %34, %35", "%36", "%37", ", %38",
                  "n"(static_cast<int>(kB)));
  else
    FPSA_WGMMA_RS("m64n64k16.f32.bf16.bf16", FPSA_R32, FPSA_D32, "%32, %33, %34, %35", "%36", "%37", ", %38",
                  "n"(static_cast<int>(kB)));
}
template <Element kElement, Major kB>
FPSA_DEVICE void wgmma_16bit(float (&d)[64], const uint32_t (&a)[4], uint64_t b, bool accumulate) {
  if constexpr (kElement == Element::kF16)
    FPSA_WGMMA_RS("m64n128k16.f32.f16.f16", FPSA_R64, FPSA_D64, "%64, %65, %66, %67", "%68", "%69", ", %70",
                  "n"(static_cast<int>(kB)));
  else
    FPSA_WGMMA_RS("m64n128k16.f32.bf16.bf16", FPSA_R64, FPSA_D64, "%64, %65, %66, %67", "%68", "%69", ", %70",
                  "n"(static_cast<int>(kB)));
}
#endif

#undef FPSA_WGMMA_RS
#undef FPSA_WGMMA_SS

}  // namespace fpsa::kernel::cuda::ptx::inline FPSA_TARGET
