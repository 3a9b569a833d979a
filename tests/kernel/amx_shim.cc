// Compiled with the flags of the AVX-512 files, so it keeps their rule: intrinsics only, internal linkage.
#include "tests/kernel/amx_shim.h"

#include <immintrin.h>

namespace fpsa::kernel::amx_shim {
namespace {

constexpr int kTiles = 8, kMaxRows = 16, kMaxBytes = 64;

struct State {
  bool configured;
  TileConfig config;
  alignas(64) uint8_t tile[kTiles][kMaxRows][kMaxBytes];
  const char* fault;
};
thread_local State state;

void raise(const char* what) {
  if (!state.fault) state.fault = what;
}

bool all_zero(const uint8_t* bytes, int count) {
  for (int i = 0; i < count; ++i)
    if (bytes[i] != 0) return false;
  return true;
}

int rows_of(int tile) {
  return state.config.rows[tile];
}
int bytes_of(int tile) {
  return state.config.row_bytes[tile];
}

bool usable(int tile) {
  if (!state.configured) {
    raise("#UD: tiles are not configured");
    return false;
  }
  if (tile < 0 || tile >= kTiles || rows_of(tile) == 0 || bytes_of(tile) == 0) {
    raise("#UD: the tile is not valid under this configuration");
    return false;
  }
  return true;
}

bool usable_product(int c, int a, int b) {
  if (!usable(c) || !usable(a) || !usable(b)) return false;
  if (c == a || a == b || c == b)
    raise("#UD: the tiles of a product must be three");
  else if (bytes_of(c) % 4 || bytes_of(a) % 4 || bytes_of(b) % 4)
    raise("#UD: rows of a product's tiles must be multiples of 4 bytes");
  else if (rows_of(c) != rows_of(a) || bytes_of(a) / 4 != rows_of(b) || bytes_of(c) != bytes_of(b))
    raise("#UD: the shapes of a product do not fit");
  else
    return true;
  return false;
}

// Everything beyond the rows and bytes that were written becomes zero.
void clear_rest(int tile) {
  for (int r = 0; r < kMaxRows; ++r)
    for (int i = r < rows_of(tile) ? bytes_of(tile) : 0; i < kMaxBytes; ++i)
      state.tile[tile][r][i] = 0;
}

// Denormals become zeros of their sign.
__m512 flushed(__m512 x) {
  const __m512i bits = _mm512_castps_si512(x);
  const __mmask16 tiny = _mm512_testn_epi32_mask(bits, _mm512_set1_epi32(0x7f800000));
  return _mm512_castsi512_ps(_mm512_mask_and_epi32(bits, tiny, bits, _mm512_set1_epi32(INT32_MIN)));
}

__m512 low_bf16(__m512i pairs) {
  return flushed(_mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)));
}
__m512 high_bf16(__m512i pairs) {
  return flushed(_mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(static_cast<int>(0xffff0000)))));
}

int32_t word(const uint8_t* row, int i) {
  int32_t value;
  __builtin_memcpy(&value, row + 4 * i, sizeof value);
  return value;
}

template <class Left>
void dot_bytes(int c, int a, int b) {
  if (!usable_product(c, a, b)) return;
  for (int m = 0; m < rows_of(c); ++m) {
    for (int n = 0; n < bytes_of(c) / 4; ++n) {
      uint32_t sum = static_cast<uint32_t>(word(state.tile[c][m], n));  // wraps around, without saturation
      for (int k = 0; k < bytes_of(a); ++k) {
        const int left = static_cast<Left>(state.tile[a][m][k]);
        const int right = static_cast<int8_t>(state.tile[b][k / 4][4 * n + k % 4]);
        sum += static_cast<uint32_t>(left * right);
      }
      __builtin_memcpy(&state.tile[c][m][4 * n], &sum, sizeof sum);
    }
  }
  clear_rest(c);
}

}  // namespace

void configure(const TileConfig& config) {
  if (config.palette > 1 || config.start_row != 0) return raise("#GP: palette above 1, or a start row");
  if (!all_zero(config.reserved0, sizeof config.reserved0) || !all_zero(config.reserved1, sizeof config.reserved1) ||
      !all_zero(config.reserved2, sizeof config.reserved2))
    return raise("#GP: a reserved byte is not zero");
  if (config.palette == 0) return release();
  for (int t = 0; t < kTiles; ++t) {
    if (config.rows[t] > kMaxRows || config.row_bytes[t] > kMaxBytes)
      return raise("#GP: a tile has more than 16 rows or 64 bytes in a row");
    if ((config.rows[t] == 0) != (config.row_bytes[t] == 0)) return raise("#GP: rows without bytes, or the reverse");
  }
  state.configured = true;
  state.config = config;
  __builtin_memset(state.tile, 0, sizeof state.tile);
}

void release() {
  state.configured = false;
  __builtin_memset(&state.config, 0, sizeof state.config);
  __builtin_memset(state.tile, 0, sizeof state.tile);
}

void zero(int tile) {
  if (usable(tile)) __builtin_memset(state.tile[tile], 0, sizeof state.tile[tile]);
}

void load(int tile, const void* rows, int64_t stride) {
  if (!usable(tile)) return;
  for (int r = 0; r < rows_of(tile); ++r)
    __builtin_memcpy(state.tile[tile][r], static_cast<const char*>(rows) + r * stride,
                     static_cast<size_t>(bytes_of(tile)));
  clear_rest(tile);
}

void store(int tile, void* rows, int64_t stride) {
  if (!usable(tile)) return;
  for (int r = 0; r < rows_of(tile); ++r)
    __builtin_memcpy(static_cast<char*>(rows) + r * stride, state.tile[tile][r], static_cast<size_t>(bytes_of(tile)));
}

// Per row of c, sums of the even and of the odd elements of the pairs run apart, one fused multiply-add after the
// other, and meet before c is added. Inputs and results that are denormal count as zero.
void dot_bf16(int c, int a, int b) {
  if (!usable_product(c, a, b)) return;
  for (int m = 0; m < rows_of(c); ++m) {
    __m512 even = _mm512_setzero_ps(), odd = _mm512_setzero_ps();
    for (int k = 0; k < bytes_of(a) / 4; ++k) {
      const __m512i left = _mm512_set1_epi32(word(state.tile[a][m], k)), right = _mm512_load_si512(state.tile[b][k]);
      even = flushed(_mm512_fmadd_ps(low_bf16(left), low_bf16(right), even));
      odd = flushed(_mm512_fmadd_ps(high_bf16(left), high_bf16(right), odd));
    }
    const __m512 sum = flushed(_mm512_add_ps(even, odd)), old = flushed(_mm512_load_ps(state.tile[c][m]));
    _mm512_store_ps(state.tile[c][m], flushed(_mm512_add_ps(old, sum)));
  }
  clear_rest(c);
}

void dot_s8s8(int c, int a, int b) {
  dot_bytes<int8_t>(c, a, b);
}
void dot_u8s8(int c, int a, int b) {
  dot_bytes<uint8_t>(c, a, b);
}

bool configured() {
  return state.configured;
}

const char* take_fault() {
  const char* fault = state.fault;
  state.fault = nullptr;
  return fault;
}

}  // namespace fpsa::kernel::amx_shim
