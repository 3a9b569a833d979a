// E4M3 and INT8 quantisation with AVX2.
#pragma once

#include "fpsa/kernel/quantize.h"

namespace fpsa::kernel::cpu {

Quantize quantize_e4m3_avx2();
Quantize quantize_int8_avx2();

}  // namespace fpsa::kernel::cpu
