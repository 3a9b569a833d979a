// INT8 attention forward with VPDPBUSD.
#pragma once

#include "fpsa/kernel/attention.h"

namespace fpsa::kernel::cpu {

AttentionFwd attention_fwd_int8_avx512bf16();

}  // namespace fpsa::kernel::cpu
