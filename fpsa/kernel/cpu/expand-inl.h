// Element conversions of packing. Internal linkage; for ISA files only.
#pragma once

#include <cstdint>

namespace fpsa::kernel {
namespace {

// The BF16 bits of every E4M3 code: exact, since BF16 has more of both exponent and mantissa.
struct E4m3Table {
  uint16_t bf16[256];
  constexpr E4m3Table() : bf16{} {
    for (int code = 0; code < 256; ++code) {
      const int sign = (code & 0x80) << 8, abs = code & 0x7f;
      int bits = (abs << 4) + (120 << 7);
      if (abs < 8) {  // abs * 2^-9, normalised: 2^-9 has the BF16 exponent 118
        int top = abs >= 4 ? 2 : abs >= 2 ? 1 : 0;
        bits = abs == 0 ? 0 : ((118 + top) << 7) | ((abs << (7 - top)) & 0x7f);
      }
      bf16[code] = static_cast<uint16_t>(sign | (abs == 0x7f ? 0x7fc0 : bits));
    }
  }
};
constexpr E4m3Table kE4m3Table;

inline float f32_of_bf16(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  __builtin_memcpy(&value, &wide, sizeof value);
  return value;
}

inline float expand_to_f32(float x) {
  return x;
}
inline float expand_to_f32(uint16_t bf16) {
  return f32_of_bf16(bf16);
}
inline float expand_to_f32(uint8_t code) {
  return f32_of_bf16(kE4m3Table.bf16[code]);
}

inline uint16_t expand_to_bf16(uint16_t bf16) {
  return bf16;
}
inline uint16_t expand_to_bf16(uint8_t code) {
  return kE4m3Table.bf16[code];
}

}  // namespace
}  // namespace fpsa::kernel
