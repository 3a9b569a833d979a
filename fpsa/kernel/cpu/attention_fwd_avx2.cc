// Attention forward with AVX2 and FMA: register tile 6 rows x 16 keys (or channels): 12 of 16 registers.
#include "fpsa/kernel/cpu/attention_fwd_avx2.h"

#include "fpsa/kernel/cpu/fma_engine-inl.h"
#include "fpsa/kernel/cpu/vec_avx2-inl.h"

namespace fpsa::kernel::cpu {

AttentionFwd attention_fwd_f32_avx2() {
  return flash_fwd<Fma<Avx2, float, 2>>();
}
AttentionFwd attention_fwd_bf16_avx2() {
  return flash_fwd<Fma<Avx2, uint16_t, 2>>();
}
AttentionFwd attention_fwd_e4m3_avx2() {
  return flash_fwd<Fma<Avx2, uint8_t, 2>>();
}

}  // namespace fpsa::kernel::cpu
