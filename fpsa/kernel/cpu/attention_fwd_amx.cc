// Attention forward on AMX tiles: the body of attention_fwd_amx-inl.h on the machine's tile instructions.
#include "fpsa/kernel/cpu/attention_fwd_amx.h"

#include "fpsa/kernel/cpu/attention_fwd_amx-inl.h"

namespace fpsa::kernel::cpu {

AttentionFwd attention_fwd_bf16_amx() {
  return tile_flash_fwd<Bf16Tiles<AmxTiles, uint16_t>>();
}
AttentionFwd attention_fwd_e4m3_amx() {
  return tile_flash_fwd<Bf16Tiles<AmxTiles, uint8_t>>();
}
AttentionFwd attention_fwd_int8_amx() {
  return tile_flash_fwd<Int8Tiles<AmxTiles>>();
}

}  // namespace fpsa::kernel::cpu
