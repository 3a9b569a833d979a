// INT8 attention forward with AVX-512 BW.
#pragma once

#include "fpsa/kernel/attention.h"

namespace fpsa::kernel::cpu {

AttentionFwd attention_fwd_int8_avx512();

}  // namespace fpsa::kernel::cpu
