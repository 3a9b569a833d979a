// Attention forward with AVX2 and FMA.
#pragma once

#include "fpsa/kernel/attention.h"

namespace fpsa::kernel::cpu {

AttentionFwd attention_fwd_f32_avx2();
AttentionFwd attention_fwd_bf16_avx2();
AttentionFwd attention_fwd_e4m3_avx2();

}  // namespace fpsa::kernel::cpu
