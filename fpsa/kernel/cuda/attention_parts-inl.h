// What attention kernels for sm_90a are made of beside their products: the ring of stages, its barriers, exp2.
#pragma once

#include "fpsa/kernel/cuda/ptx/barrier.h"
#include "fpsa/kernel/cuda/ptx/math.h"
#include "fpsa/kernel/cuda/tiling/attention_tiling.h"

namespace fpsa::kernel::cuda::inline FPSA_TARGET {

inline constexpr float kLowest = -__builtin_huge_valf();

/// The number of a block of keys since the kernel began gives its stage and the parity of its phase there. Who waits
/// for a filled stage waits for `parity`, who waits for a free one for the other.
template <int kStages>
FPSA_DEVICE int stage_of(int number) {
  static_assert((kStages & (kStages - 1)) == 0, "so that one counter in a register serves for both");
  return number & (kStages - 1);
}
template <int kStages>
FPSA_DEVICE uint32_t parity_of(int number) {
  return static_cast<uint32_t>(number / kStages) & 1;
}

/// Addresses of the barriers. "Full" ends a phase when bytes have landed, "free" when all readers are done.
struct Barriers {
  ptx::SharedAddress base;
  int stages;
  FPSA_DEVICE ptx::SharedAddress at(int index) const {
    return base + static_cast<uint32_t>(index) * ptx::kBarrierBytes;
  }
  FPSA_DEVICE ptx::SharedAddress keys_full(int stage) const { return at(stage); }
  FPSA_DEVICE ptx::SharedAddress keys_free(int stage) const { return at(stages + stage); }
  FPSA_DEVICE ptx::SharedAddress values_full(int stage) const { return at(2 * stages + stage); }
  FPSA_DEVICE ptx::SharedAddress values_free(int stage) const { return at(3 * stages + stage); }
  FPSA_DEVICE ptx::SharedAddress queries_full(int group) const { return at(4 * stages + group); }
  FPSA_DEVICE ptx::SharedAddress queries_free(int group) const { return at(4 * stages + kConsumers + group); }
};

/// 2^d for an integer d <= 0, exactly (ex2.approx does not promise that); 0 below -126, for -inf and NaN too.
FPSA_DEVICE float power_of_two(float d) {
  return d >= -126.0f ? ptx::float_of(static_cast<uint32_t>(static_cast<int>(d) + 127) << 23) : 0.0f;
}

/// 2^x on FMA units: x = n + f with |f| <= 1/2, a polynomial of degree 4 within 3e-6 of 2^f, times 2^n. NaN stays NaN.
FPSA_DEVICE float exp2_polynomial(float x) {
  constexpr float kRound = 12582912.0f;  // 1.5 2^23: adding it rounds to an integer, which its low bits then hold
  x = ptx::max_nan(x, -126.0f);
  const float shifted = x + kRound;
  const float f = x - (shifted - kRound);
  float y = ptx::fused_multiply_add(f, 0x1.3997d6p-7f, 0x1.ca1444p-5f);
  y = ptx::fused_multiply_add(f, y, 0x1.ec06dap-3f);
  y = ptx::fused_multiply_add(f, y, 0x1.62e0dcp-1f);
  y = ptx::fused_multiply_add(f, y, 0x1.ffffe8p-1f);
  return y * ptx::float_of((ptx::bits_of(shifted) << 23) + 0x3f800000u);
}

}  // namespace fpsa::kernel::cuda::inline FPSA_TARGET
