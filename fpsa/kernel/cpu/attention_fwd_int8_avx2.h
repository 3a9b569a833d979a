// INT8 attention forward with AVX2.
#pragma once

#include "fpsa/kernel/attention.h"

namespace fpsa::kernel::cpu {

AttentionFwd attention_fwd_int8_avx2();

}  // namespace fpsa::kernel::cpu
