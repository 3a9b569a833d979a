// The descriptor of an array in global memory from which boxes are copied, and how boxes lie in shared memory.
#pragma once

#include "fpsa/kernel/cuda/ptx/platform.h"

namespace fpsa::kernel::cuda::ptx::inline FPSA_TARGET {

/// The order of 16-byte pieces in shared memory: the piece's number among the 8, 4 or 2 of its row is XORed with bits
/// of the address above. The patterns repeat every 1024, 512 and 256 bytes.
enum class Swizzle : int { kNone = 0, k128 = 1, k64 = 2, k32 = 3 };

FPSA_BOTH int swizzle_bytes(Swizzle swizzle) {
  return swizzle == Swizzle::k128 ? 128 : swizzle == Swizzle::k64 ? 64 : swizzle == Swizzle::k32 ? 32 : 16;
}
/// Where the byte that would lie at `address` without swizzle lies.
FPSA_BOTH SharedAddress swizzled(Swizzle swizzle, SharedAddress address) {
  return address ^ ((address >> 7 & static_cast<uint32_t>(swizzle_bytes(swizzle) / 16 - 1)) << 4);
}

/// An array of up to 3 dimensions, innermost first, and the box that one copy moves.
struct TensorMapSpec {
  const void* data = nullptr;  // a multiple of 16
  int rank = 2, element_bytes = 1;
  uint64_t size[3] = {};    // elements
  uint64_t stride[3] = {};  // bytes, a multiple of 16; stride[0] is element_bytes
  uint32_t box[3] = {};     // elements, at most 256 each; box[0] is swizzle_bytes(swizzle) wide if swizzled
  Swizzle swizzle = Swizzle::kNone;
};

#if FPSA_EMULATED
struct TensorMap {
  TensorMapSpec spec;
};
#else
/// What cuTensorMapEncodeTiled makes of a spec; CUDA 13 aligns its CUtensorMap to 128 bytes.
struct alignas(128) TensorMap {
  uint64_t opaque[16];
};
#endif

}  // namespace fpsa::kernel::cuda::ptx::inline FPSA_TARGET
