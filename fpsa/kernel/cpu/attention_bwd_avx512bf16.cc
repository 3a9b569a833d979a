// Attention backward with VDPBF16PS: register tiles 6 x 64, 24 of 32 registers.
#include "fpsa/kernel/cpu/attention_bwd_avx512bf16.h"

#include "fpsa/kernel/cpu/bf16_engine-inl.h"
#include "fpsa/kernel/cpu/flash_bwd-inl.h"

namespace fpsa::kernel::cpu {

AttentionBwd attention_bwd_bf16_avx512bf16() {
  return flash_bwd<Bf16Dot<uint16_t>>();
}
AttentionBwd attention_bwd_e4m3_avx512bf16() {
  return flash_bwd<Bf16Dot<uint8_t>>();
}

}  // namespace fpsa::kernel::cpu
