#include "tests/kernel/attention_fwd_amx_shim.h"

#include "fpsa/kernel/cpu/attention_fwd_amx-inl.h"
#include "tests/kernel/amx_shim.h"

namespace fpsa::kernel {

AttentionFwd attention_fwd_bf16_amx_shim() {
  return tile_flash_fwd<Bf16Tiles<amx_shim::ShimTiles, uint16_t>>();
}
AttentionFwd attention_fwd_e4m3_amx_shim() {
  return tile_flash_fwd<Bf16Tiles<amx_shim::ShimTiles, uint8_t>>();
}
AttentionFwd attention_fwd_int8_amx_shim() {
  return tile_flash_fwd<Int8Tiles<amx_shim::ShimTiles>>();
}

}  // namespace fpsa::kernel
