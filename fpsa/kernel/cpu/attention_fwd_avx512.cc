// Attention forward with AVX-512 F: register tile 6 rows x 64 keys (or channels): 24 of 32 registers.
#include "fpsa/kernel/cpu/attention_fwd_avx512.h"

#include "fpsa/kernel/cpu/fma_engine-inl.h"
#include "fpsa/kernel/cpu/vec_avx512-inl.h"

namespace fpsa::kernel::cpu {

AttentionFwd attention_fwd_f32_avx512() {
  return flash_fwd<Fma<Avx512, float, 4>>();
}
AttentionFwd attention_fwd_bf16_avx512() {
  return flash_fwd<Fma<Avx512, uint16_t, 4>>();
}
AttentionFwd attention_fwd_e4m3_avx512() {
  return flash_fwd<Fma<Avx512, uint8_t, 4>>();
}

}  // namespace fpsa::kernel::cpu
