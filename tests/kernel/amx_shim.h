// The tile instructions of AMX, as the kernels use them, in software: so that their logic runs on any AVX-512 machine.
//
// State belongs to the thread, as in hardware. What hardware would answer with a fault (#GP, #UD) leaves the state
// alone and is remembered for the test to read. Semantics after Intel's Software Developer's Manual, volume 2.
#pragma once

#include <cstdint>

#include "fpsa/kernel/cpu/tiles_amx-inl.h"

namespace fpsa::kernel::amx_shim {

void configure(const TileConfig& config);
void release();
void zero(int tile);
void load(int tile, const void* rows, int64_t stride);
void store(int tile, void* rows, int64_t stride);
void dot_bf16(int c, int a, int b);
void dot_s8s8(int c, int a, int b);
void dot_u8s8(int c, int a, int b);

/// Whether the thread's tiles are configured.
bool configured();
/// The first fault of this thread since the last call, null when there was none.
const char* take_fault();

namespace {

/// The same in the form of AmxTiles, for the kernel's source.
struct ShimTiles {
  static void configure(const TileConfig& config) { amx_shim::configure(config); }
  static void release() { amx_shim::release(); }
  template <int kTile>
  static void zero() {
    amx_shim::zero(kTile);
  }
  template <int kTile>
  static void load(const void* rows, int64_t stride) {
    amx_shim::load(kTile, rows, stride);
  }
  template <int kTile>
  static void store(void* rows, int64_t stride) {
    amx_shim::store(kTile, rows, stride);
  }
  template <int kC, int kA, int kB>
  static void dot_bf16() {
    amx_shim::dot_bf16(kC, kA, kB);
  }
  template <int kC, int kA, int kB>
  static void dot_s8s8() {
    amx_shim::dot_s8s8(kC, kA, kB);
  }
  template <int kC, int kA, int kB>
  static void dot_u8s8() {
    amx_shim::dot_u8s8(kC, kA, kB);
  }
};

}  // namespace
}  // namespace fpsa::kernel::amx_shim
