// Attention forward with VDPBF16PS.
#pragma once

#include "fpsa/kernel/attention.h"

namespace fpsa::kernel::cpu {

AttentionFwd attention_fwd_bf16_avx512bf16();
AttentionFwd attention_fwd_e4m3_avx512bf16();

}  // namespace fpsa::kernel::cpu
