// The entries that the tests of attention walk: those of the table, and the AMX kernels on emulated tiles.
#pragma once

#include <vector>

#include "fpsa/kernel/table.h"
#if FPSA_KERNEL_X86
#include "tests/kernel/attention_fwd_amx_shim.h"
#endif

namespace fpsa::kernel::testing_support {

inline const std::vector<AttentionFwdEntry>& tested_entries() {
  static const std::vector<AttentionFwdEntry> entries = [] {
    std::vector<AttentionFwdEntry> all(attention_fwd_entries().begin(), attention_fwd_entries().end());
#if FPSA_KERNEL_X86
    all.push_back({"attention_fwd_bf16_amx_shim", Isa::kAvx512Bf16, Dtype::kBf16, attention_fwd_bf16_amx_shim()});
    all.push_back({"attention_fwd_e4m3_amx_shim", Isa::kAvx512Bf16, Dtype::kE4m3, attention_fwd_e4m3_amx_shim()});
    all.push_back({"attention_fwd_int8_amx_shim", Isa::kAvx512Bf16, Dtype::kInt8, attention_fwd_int8_amx_shim()});
#endif
    return all;
  }();
  return entries;
}

}  // namespace fpsa::kernel::testing_support
