// Attention backward with AVX-512 F.
#pragma once

#include "fpsa/kernel/attention_bwd.h"

namespace fpsa::kernel::cpu {

AttentionBwd attention_bwd_f32_avx512();
AttentionBwd attention_bwd_bf16_avx512();
AttentionBwd attention_bwd_e4m3_avx512();

}  // namespace fpsa::kernel::cpu
