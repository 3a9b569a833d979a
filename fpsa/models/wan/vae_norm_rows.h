// Row loops of rms_norm_act: plain C++ that the compiler vectorises, one clone per ISA chosen at load time.
#pragma once

#include <cstdint>

namespace fpsa::models::wan {

/// A BF16 value as stored; a distinct type so that overloads tell it from integers.
enum class bfloat16_bits : uint16_t {};

/// y = act(x * sqrt(C) / max(|x|, 1e-12) * gamma) for each of `rows` rows of C = `channels` contiguous values.
void norm_act_rows(const float* x, const float* gamma, float* y, int64_t rows, int64_t channels, bool silu) noexcept;
void norm_act_rows(const bfloat16_bits* x, const float* gamma, bfloat16_bits* y, int64_t rows, int64_t channels,
                   bool silu) noexcept;

/// dx from x and dy; adds this range's share to dgamma [C]. scratch: C floats, rounded up to 16.
void norm_act_rows_backward(const float* x, const float* gamma, const float* dy, float* dx, float* dgamma,
                            float* scratch, int64_t rows, int64_t channels, bool silu) noexcept;
void norm_act_rows_backward(const bfloat16_bits* x, const float* gamma, const bfloat16_bits* dy, bfloat16_bits* dx,
                            float* dgamma, float* scratch, int64_t rows, int64_t channels, bool silu) noexcept;

}  // namespace fpsa::models::wan
