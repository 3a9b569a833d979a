// The tile instructions of AMX, one function each. Internal linkage; for ISA files only.
//
// Inline assembly and not <immintrin.h>: GCC's macros take literal tile numbers only, and their loads do not say that
// they read memory, so that a store before one could move behind it.
#pragma once

#include <cstdint>

namespace fpsa::kernel {

/// What LDTILECFG reads (palette 1). A tile is valid when its rows and bytes per row are not 0.
struct alignas(64) TileConfig {
  uint8_t palette, start_row, reserved0[14];
  uint16_t row_bytes[8];
  uint8_t reserved1[16];
  uint8_t rows[8];
  uint8_t reserved2[8];
};
static_assert(sizeof(TileConfig) == 64);

namespace {

struct AmxTiles {
  static void configure(const TileConfig& config) { __asm__ volatile("ldtilecfg %0" ::"m"(config)); }
  static void release() { __asm__ volatile("tilerelease" ::: "memory"); }

  template <int kTile>
  static void zero() {
    __asm__ volatile("tilezero %%tmm%c0" ::"i"(kTile));
  }
  /// Rows of the tile at `rows`, `stride` bytes apart.
  template <int kTile>
  static void load(const void* rows, int64_t stride) {
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(rows), "r"(stride), "i"(kTile) : "memory");
  }
  template <int kTile>
  static void store(void* rows, int64_t stride) {
    __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(rows), "r"(stride), "i"(kTile) : "memory");
  }

  /// c += a b, F32, over pairs of BF16; a [rows][pairs], b [pairs][columns].
  template <int kC, int kA, int kB>
  static void dot_bf16() {
    __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kC), "i"(kA), "i"(kB));
  }
  /// c += a b, int32, over groups of four bytes; a and b signed.
  template <int kC, int kA, int kB>
  static void dot_s8s8() {
    __asm__ volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kC), "i"(kA), "i"(kB));
  }
  /// The same with unsigned bytes in a.
  template <int kC, int kA, int kB>
  static void dot_u8s8() {
    __asm__ volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kC), "i"(kA), "i"(kB));
  }
};

}  // namespace
}  // namespace fpsa::kernel
