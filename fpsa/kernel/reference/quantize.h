// The plain body of quantisation: the specification that every other entry is tested against.
#pragma once

#include "fpsa/kernel/quantize.h"

namespace fpsa::kernel::reference {

Quantize quantize_e4m3();
Quantize quantize_int8();

}  // namespace fpsa::kernel::reference
