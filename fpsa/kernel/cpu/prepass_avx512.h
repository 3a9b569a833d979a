// The pre-pass of quantised attention with AVX-512.
#pragma once

#include "fpsa/kernel/prepass.h"

namespace fpsa::kernel::cpu {

Prepass prepass_e4m3_avx512();
Prepass prepass_int8_avx512();

}  // namespace fpsa::kernel::cpu
