// Attention forward on AMX tiles.
#pragma once

#include "fpsa/kernel/attention.h"

namespace fpsa::kernel::cpu {

AttentionFwd attention_fwd_bf16_amx();
AttentionFwd attention_fwd_e4m3_amx();
AttentionFwd attention_fwd_int8_amx();

}  // namespace fpsa::kernel::cpu
