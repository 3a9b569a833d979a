// The AMX kernels on the emulation of the tile instructions. They need AVX-512 BF16; only tests can reach them.
#pragma once

#include "fpsa/kernel/attention.h"

namespace fpsa::kernel {

AttentionFwd attention_fwd_bf16_amx_shim();
AttentionFwd attention_fwd_e4m3_amx_shim();
AttentionFwd attention_fwd_int8_amx_shim();

}  // namespace fpsa::kernel
