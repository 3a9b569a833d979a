// Attention backward with AVX2 and FMA: register tiles 6 x 16 (4 x 16 for dQ) of 16 registers.
#include "fpsa/kernel/cpu/attention_bwd_avx2.h"

#include "fpsa/kernel/cpu/flash_bwd-inl.h"
#include "fpsa/kernel/cpu/fma_engine-inl.h"
#include "fpsa/kernel/cpu/vec_avx2-inl.h"

namespace fpsa::kernel::cpu {

AttentionBwd attention_bwd_f32_avx2() {
  return flash_bwd<Fma<Avx2, float, 2>>();
}
AttentionBwd attention_bwd_bf16_avx2() {
  return flash_bwd<Fma<Avx2, uint16_t, 2>>();
}
AttentionBwd attention_bwd_e4m3_avx2() {
  return flash_bwd<Fma<Avx2, uint8_t, 2>>();
}

}  // namespace fpsa::kernel::cpu
