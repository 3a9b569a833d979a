// Array conversions: the scalar forms in a loop. __restrict is what lets the compiler vectorise them.
#include "fpsa/numeric/bf16.h"
#include "fpsa/numeric/e4m3.h"

namespace fpsa::numeric {

void e4m3_from_f32(const float* __restrict in, uint8_t* __restrict out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = e4m3_from_f32(in[i]);
}

void f32_from_e4m3(const uint8_t* __restrict in, float* __restrict out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = f32_from_e4m3(in[i]);
}

void bf16_from_f32(const float* __restrict in, uint16_t* __restrict out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = bf16_from_f32(in[i]);
}

void f32_from_bf16(const uint16_t* __restrict in, float* __restrict out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = f32_from_bf16(in[i]);
}

}  // namespace fpsa::numeric
