#include "fpsa/kernel/cpu/isa.h"

#include <array>

namespace fpsa::kernel {
namespace {

struct Level {
  Isa isa;
  std::string_view name, requirements;
};

constexpr std::array<Level, 4> kLevels = {{
    {Isa::kReference, "reference", "portable C++"},
    {Isa::kAvx2, "avx2", "AVX2, FMA"},
    {Isa::kAvx512, "avx512", "AVX-512 F, BW, DQ, VL"},
    {Isa::kAvx512Bf16, "avx512bf16", "AVX-512 F, BW, DQ, VL, BF16, VNNI"},
}};
constexpr std::array<Isa, 4> kAll = {Isa::kReference, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Bf16};

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
  return __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni") ? Isa::kAvx512Bf16 : Isa::kAvx512;
#else
  return Isa::kReference;
#endif
}

}  // namespace fpsa::kernel
