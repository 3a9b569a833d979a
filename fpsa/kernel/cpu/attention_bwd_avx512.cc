// Attention backward with AVX-512 F: register tiles 6 x 64, 24 of 32 registers.
#include "fpsa/kernel/cpu/attention_bwd_avx512.h"

#include "fpsa/kernel/cpu/flash_bwd-inl.h"
#include "fpsa/kernel/cpu/fma_engine-inl.h"
#include "fpsa/kernel/cpu/vec_avx512-inl.h"

namespace fpsa::kernel::cpu {

AttentionBwd attention_bwd_f32_avx512() {
  return flash_bwd<Fma<Avx512, float, 4>>();
}
AttentionBwd attention_bwd_bf16_avx512() {
  return flash_bwd<Fma<Avx512, uint16_t, 4>>();
}
AttentionBwd attention_bwd_e4m3_avx512() {
  return flash_bwd<Fma<Avx512, uint8_t, 4>>();
}

}  // namespace fpsa::kernel::cpu
