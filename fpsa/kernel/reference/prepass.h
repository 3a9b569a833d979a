// The plain body of the pre-pass: the specification that every other entry is tested against.
#pragma once

#include "fpsa/kernel/prepass.h"

namespace fpsa::kernel::reference {

Prepass prepass_e4m3();
Prepass prepass_int8();

}  // namespace fpsa::kernel::reference
