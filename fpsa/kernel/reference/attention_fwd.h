// The plain bodies of attention forward: the specification that every other entry is tested against.
#pragma once

#include "fpsa/kernel/attention.h"

namespace fpsa::kernel::reference {

AttentionFwd attention_fwd_f32();
AttentionFwd attention_fwd_bf16();
AttentionFwd attention_fwd_e4m3();
AttentionFwd attention_fwd_int8();

}  // namespace fpsa::kernel::reference
