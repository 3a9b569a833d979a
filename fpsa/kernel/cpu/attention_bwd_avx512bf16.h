// Attention backward with VDPBF16PS.
#pragma once

#include "fpsa/kernel/attention_bwd.h"

namespace fpsa::kernel::cpu {

AttentionBwd attention_bwd_bf16_avx512bf16();
AttentionBwd attention_bwd_e4m3_avx512bf16();

}  // namespace fpsa::kernel::cpu
