// The pre-pass of quantised attention with AVX2.
#pragma once

#include "fpsa/kernel/prepass.h"

namespace fpsa::kernel::cpu {

Prepass prepass_e4m3_avx2();
Prepass prepass_int8_avx2();

}  // namespace fpsa::kernel::cpu
