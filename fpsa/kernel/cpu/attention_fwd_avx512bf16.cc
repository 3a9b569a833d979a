// Attention forward with VDPBF16PS: register tile 6 rows x 64 keys (or channels), 24 accumulators.
#include "fpsa/kernel/cpu/attention_fwd_avx512bf16.h"

#include "fpsa/kernel/cpu/bf16_engine-inl.h"

namespace fpsa::kernel::cpu {

AttentionFwd attention_fwd_bf16_avx512bf16() {
  return flash_fwd<Bf16Dot<uint16_t>>();
}
AttentionFwd attention_fwd_e4m3_avx512bf16() {
  return flash_fwd<Bf16Dot<uint8_t>>();
}

}  // namespace fpsa::kernel::cpu
