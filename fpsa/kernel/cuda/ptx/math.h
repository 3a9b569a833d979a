// Arithmetic that C++ has no word for.
#pragma once

#include "fpsa/kernel/cuda/ptx/platform.h"

namespace fpsa::kernel::cuda::ptx::inline FPSA_TARGET {

/// 2^x within 2^-22, relative; results below 2^-126 are 0.
FPSA_PTX(float exp2_approx(float x), {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
})
/// log2 x within 2^-22, absolute near 1 and relative elsewhere.
FPSA_PTX(float log2_approx(float x), {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
})
/// The larger one; the other where one is NaN.
FPSA_PTX(float max_number(float a, float b), { return fmaxf(a, b); })
/// The larger one; NaN if either is.
FPSA_PTX(float max_nan(float a, float b), {
  float y;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
  return y;
})
/// |x|: a modifier of an operand where the instruction has one.
FPSA_PTX(float magnitude(float x), { return fabsf(x); })
/// One rounding.
FPSA_PTX(float fused_multiply_add(float a, float b, float c), { return __fmaf_rn(a, b, c); })
FPSA_PTX(float ceiling(float x), { return ceilf(x); })
/// Rounded to nearest, and never part of a fused multiply-add.
FPSA_PTX(float multiply(float a, float b), { return __fmul_rn(a, b); })
FPSA_PTX(float add(float a, float b), { return __fadd_rn(a, b); })
FPSA_PTX(float subtract(float a, float b), { return __fsub_rn(a, b); })
FPSA_PTX(float square_root(float x), { return __fsqrt_rn(x); })
/// 1 / x rounded towards zero.
FPSA_PTX(float reciprocal_below(float x), { return __frcp_rz(x); })
/// a / b rounded to nearest.
FPSA_PTX(float divide(float a, float b), { return __fdiv_rn(a, b); })

/// x, of which the compiler does not know that it is x: what depends on it is computed here and not ahead of a loop,
/// where registers are scarcer than additions.
FPSA_PTX(uint32_t opaque(uint32_t x), {
  asm volatile("" : "+r"(x));
  return x;
})
FPSA_PTX(uint8_t* opaque(uint8_t* x), {
  asm volatile("" : "+l"(x));
  return x;
})

/// The larger ones of two pairs of unsigned 16-bit numbers.
FPSA_PTX(uint32_t max_u16x2(uint32_t a, uint32_t b), { return __vmaxu2(a, b); })

FPSA_PTX(uint32_t bits_of(float x), { return __float_as_uint(x); })
FPSA_PTX(float float_of(uint32_t bits), { return __uint_as_float(bits); })

/// Two E4M3 codes, `low` in bits 0 to 7: nearest even, +-448 beyond, NaN 0x7f.
FPSA_PTX(uint32_t e4m3x2(float low, float high), {
  uint16_t codes;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %2, %1;" : "=h"(codes) : "f"(low), "f"(high));
  return codes;
})
/// The values of two codes.
FPSA_PTX(void values_of_e4m3x2(uint32_t codes, float& low, float& high), {
  uint32_t halves;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(static_cast<uint16_t>(codes)));
  asm("{\n.reg .f16 a, b;\nmov.b32 {a, b}, %2;\ncvt.f32.f16 %0, a;\ncvt.f32.f16 %1, b;\n}"
      : "=f"(low), "=f"(high)
      : "r"(halves));
})
/// The type of 16-bit operands and what is rounded to become one.
enum class Element : int { kBf16, kF16 };
/// Two BF16 or F16 elements, `low` in bits 0 to 15, nearest even.
FPSA_PTX(uint32_t bf16x2(float low, float high), {
  uint32_t y;
  asm("cvt.rn.bf16x2.f32 %0, %2, %1;" : "=r"(y) : "f"(low), "f"(high));
  return y;
})
FPSA_PTX(uint32_t f16x2(float low, float high), {
  uint32_t y;
  asm("cvt.rn.f16x2.f32 %0, %2, %1;" : "=r"(y) : "f"(low), "f"(high));
  return y;
})
template <Element kElement>
FPSA_DEVICE uint32_t rounded_pair(float low, float high) {
  if constexpr (kElement == Element::kF16)
    return f16x2(low, high);
  else
    return bf16x2(low, high);
}
/// The value of an F16 element in bits 0 to 15.
FPSA_PTX(float value_of_f16(uint32_t bits), {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(static_cast<uint16_t>(bits)));
  return y;
})

}  // namespace fpsa::kernel::cuda::ptx::inline FPSA_TARGET
