// Row loops of rms_norm_act: plain C++ that the compiler vectorises, one clone per ISA chosen at load time.
#pragma once

#include <cstdint>

#include "fpsa/models/wan/bf16_bits.h"

namespace fpsa::models::wan {

/// y = act(x * sqrt(C) / max(|x|, 1e-12) * gamma) for each of `rows` rows of C = `channels` contiguous values.
void norm_act_rows(const float* x, const float* gamma, float* y, int64_t rows, int64_t channels, bool silu) noexcept;
void norm_act_rows(const rows::Bf16* x, const float* gamma, rows::Bf16* y, int64_t rows, int64_t channels,
                   bool silu) noexcept;

/// dx from x and dy; adds this range's share to dgamma [C]. scratch: C floats, rounded up to 16.
void norm_act_rows_backward(const float* x, const float* gamma, const float* dy, float* dx, float* dgamma,
                            float* scratch, int64_t rows, int64_t channels, bool silu) noexcept;
void norm_act_rows_backward(const rows::Bf16* x, const float* gamma, const rows::Bf16* dy, rows::Bf16* dx,
                            float* dgamma, float* scratch, int64_t rows, int64_t channels, bool silu) noexcept;

}  // namespace fpsa::models::wan
