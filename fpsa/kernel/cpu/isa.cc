#include "fpsa/kernel/cpu/isa.h"

#include <array>
#include <cstdint>

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace fpsa::kernel {
namespace {

struct Level {
  Isa isa;
  std::string_view name, requirements;
};

constexpr std::array<Level, 5> kLevels = {{
    {Isa::kReference, "reference", "portable C++"},
    {Isa::kAvx2, "avx2", "AVX2, FMA"},
    {Isa::kAvx512, "avx512", "AVX-512 F, BW, DQ, VL"},
    {Isa::kAvx512Bf16, "avx512bf16", "AVX-512 F, BW, DQ, VL, BF16, VNNI"},
    {Isa::kAmx, "amx",
     "AVX-512 F, BW, DQ, VL, BF16, VNNI, AMX TILE, BF16, INT8 and Linux's permission to use the tiles"},
}};
constexpr std::array<Isa, 5> kAll = {Isa::kReference, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Bf16, Isa::kAmx};

#if defined(__x86_64__) && defined(__linux__)
// AMX-TILE, AMX-BF16 and AMX-INT8 with palette 1 of eight tiles of 16 rows of 64 bytes.
bool cpu_has_amx() {
  unsigned a, b, c, d;
  constexpr unsigned kBf16 = 1u << 22, kTile = 1u << 24, kInt8 = 1u << 25, kAll = kBf16 | kTile | kInt8;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & kAll) != kAll) return false;
  if (!__get_cpuid_count(0x1d, 1, &a, &b, &c, &d)) return false;
  return (b & 0xffff) == 64 && b >> 16 >= 8 && (c & 0xffff) == 16;
}

// Whether the operating system saves the tile configuration (bit 17 of XCR0) and the tiles (bit 18).
bool os_saves_tiles() {
  unsigned a, b, c, d;
  constexpr unsigned kOsxsave = 1u << 27;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & kOsxsave)) return false;
  unsigned low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (low >> 17 & 3) == 3;
}

// The tiles are large, so Linux lets a process use them only once it has asked.
bool os_grants_tiles() {
  constexpr long kGetPermission = 0x1022, kRequestPermission = 0x1023, kTileData = 18;  // <asm/prctl.h> may be older
  if (syscall(SYS_arch_prctl, kRequestPermission, kTileData) != 0) return false;
  uint64_t granted = 0;
  return syscall(SYS_arch_prctl, kGetPermission, &granted) == 0 && (granted >> kTileData & 1) == 1;
}

bool has_amx() {
  static const bool has = cpu_has_amx() && os_saves_tiles() && os_grants_tiles();
  return has;
}
#elif defined(__x86_64__)
bool has_amx() {
  return false;
}
#endif

}  // namespace

std::span<const Isa> all_isas() {
  return kAll;
}

std::string_view isa_name(Isa isa) {
  return kLevels[static_cast<size_t>(isa)].name;
}

std::string_view isa_requirements(Isa isa) {
  return kLevels[static_cast<size_t>(isa)].requirements;
}

Isa detected_isa() {
#if defined(__x86_64__)
  // The builtin also asks the operating system whether it saves the wide registers.
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return Isa::kReference;
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl"))
    return Isa::kAvx2;
  // Every CPU with the BF16 dot product has the byte one too.
  if (!__builtin_cpu_supports("avx512bf16") || !__builtin_cpu_supports("avx512vnni")) return Isa::kAvx512;
  return has_amx() ? Isa::kAmx : Isa::kAvx512Bf16;
#else
  return Isa::kReference;
#endif
}

}  // namespace fpsa::kernel
