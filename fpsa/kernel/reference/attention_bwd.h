// The plain bodies of attention backward: the specification that every other entry is tested against.
#pragma once

#include "fpsa/kernel/attention_bwd.h"

namespace fpsa::kernel::reference {

AttentionBwd attention_bwd_f32();
AttentionBwd attention_bwd_bf16();
AttentionBwd attention_bwd_e4m3();

}  // namespace fpsa::kernel::reference
