// Attention forward with AVX-512 F.
#pragma once

#include "fpsa/kernel/attention.h"

namespace fpsa::kernel::cpu {

AttentionFwd attention_fwd_f32_avx512();
AttentionFwd attention_fwd_bf16_avx512();
AttentionFwd attention_fwd_e4m3_avx512();

}  // namespace fpsa::kernel::cpu
