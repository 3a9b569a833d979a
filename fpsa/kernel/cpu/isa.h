// Instruction-set levels of the CPU kernels and what this machine supports.
#pragma once

#include <span>
#include <string_view>

namespace fpsa::kernel {

/// In rising order; each level includes those below it. kReference is portable C++.
enum class Isa { kReference, kAvx2, kAvx512, kAvx512Bf16, kAmx };

/// All levels, rising.
std::span<const Isa> all_isas();
/// "reference", "avx2", "avx512", "avx512bf16", "amx".
std::string_view isa_name(Isa isa);
/// What a level needs, in words: "AVX2, FMA".
std::string_view isa_requirements(Isa isa);
/// The highest level that the CPU and the operating system support. The first call asks Linux for the use of the AMX
/// tiles, for the whole process, where the CPU has them.
Isa detected_isa();

}  // namespace fpsa::kernel
