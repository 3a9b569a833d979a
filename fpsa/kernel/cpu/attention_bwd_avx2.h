// Attention backward with AVX2 and FMA.
#pragma once

#include "fpsa/kernel/attention_bwd.h"

namespace fpsa::kernel::cpu {

AttentionBwd attention_bwd_f32_avx2();
AttentionBwd attention_bwd_bf16_avx2();
AttentionBwd attention_bwd_e4m3_avx2();

}  // namespace fpsa::kernel::cpu
