// The entries, lowest level first, and the choice among them.
#include "fpsa/kernel/table.h"

#include <array>
#include <atomic>

#include "fpsa/base/check.h"
#include "fpsa/kernel/reference/attention_bwd.h"
#include "fpsa/kernel/reference/attention_fwd.h"
#include "fpsa/kernel/reference/prepass.h"
#include "fpsa/kernel/reference/quantize.h"
#if FPSA_KERNEL_X86
#include "fpsa/kernel/cpu/attention_bwd_avx2.h"
#include "fpsa/kernel/cpu/attention_bwd_avx512.h"
#include "fpsa/kernel/cpu/attention_bwd_avx512bf16.h"
#include "fpsa/kernel/cpu/attention_fwd_amx.h"
#include "fpsa/kernel/cpu/attention_fwd_avx2.h"
#include "fpsa/kernel/cpu/attention_fwd_avx512.h"
#include "fpsa/kernel/cpu/attention_fwd_avx512bf16.h"
#include "fpsa/kernel/cpu/attention_fwd_int8_avx2.h"
#include "fpsa/kernel/cpu/attention_fwd_int8_avx512.h"
#include "fpsa/kernel/cpu/attention_fwd_int8_avx512bf16.h"
#include "fpsa/kernel/cpu/prepass_avx2.h"
#include "fpsa/kernel/cpu/prepass_avx512.h"
#include "fpsa/kernel/cpu/quantize_avx2.h"
#endif

namespace fpsa::kernel {
namespace {

const auto& attention_table() {
  static const auto table = std::to_array<AttentionFwdEntry>({
    {"attention_fwd_f32_reference", Isa::kReference, Dtype::kF32, reference::attention_fwd_f32()},
        {"attention_fwd_bf16_reference", Isa::kReference, Dtype::kBf16, reference::attention_fwd_bf16()},
        {"attention_fwd_e4m3_reference", Isa::kReference, Dtype::kE4m3, reference::attention_fwd_e4m3()},
        {"attention_fwd_int8_reference", Isa::kReference, Dtype::kInt8, reference::attention_fwd_int8()},
#if FPSA_KERNEL_X86
        {"attention_fwd_f32_avx2", Isa::kAvx2, Dtype::kF32, cpu::attention_fwd_f32_avx2()},
        {"attention_fwd_bf16_avx2", Isa::kAvx2, Dtype::kBf16, cpu::attention_fwd_bf16_avx2()},
        {"attention_fwd_e4m3_avx2", Isa::kAvx2, Dtype::kE4m3, cpu::attention_fwd_e4m3_avx2()},
        {"attention_fwd_int8_avx2", Isa::kAvx2, Dtype::kInt8, cpu::attention_fwd_int8_avx2()},
        {"attention_fwd_f32_avx512", Isa::kAvx512, Dtype::kF32, cpu::attention_fwd_f32_avx512()},
        {"attention_fwd_bf16_avx512", Isa::kAvx512, Dtype::kBf16, cpu::attention_fwd_bf16_avx512()},
        {"attention_fwd_e4m3_avx512", Isa::kAvx512, Dtype::kE4m3, cpu::attention_fwd_e4m3_avx512()},
        {"attention_fwd_int8_avx512", Isa::kAvx512, Dtype::kInt8, cpu::attention_fwd_int8_avx512()},
        {"attention_fwd_bf16_avx512bf16", Isa::kAvx512Bf16, Dtype::kBf16, cpu::attention_fwd_bf16_avx512bf16()},
        {"attention_fwd_e4m3_avx512bf16", Isa::kAvx512Bf16, Dtype::kE4m3, cpu::attention_fwd_e4m3_avx512bf16()},
        {"attention_fwd_int8_avx512bf16", Isa::kAvx512Bf16, Dtype::kInt8, cpu::attention_fwd_int8_avx512bf16()},
        {"attention_fwd_bf16_amx", Isa::kAmx, Dtype::kBf16, cpu::attention_fwd_bf16_amx()},
        {"attention_fwd_e4m3_amx", Isa::kAmx, Dtype::kE4m3, cpu::attention_fwd_e4m3_amx()},
        {"attention_fwd_int8_amx", Isa::kAmx, Dtype::kInt8, cpu::attention_fwd_int8_amx()},
#endif
  });
  return table;
}

const auto& attention_bwd_table() {
  static const auto table = std::to_array<AttentionBwdEntry>({
    {"attention_bwd_f32_reference", Isa::kReference, Dtype::kF32, reference::attention_bwd_f32()},
        {"attention_bwd_bf16_reference", Isa::kReference, Dtype::kBf16, reference::attention_bwd_bf16()},
        {"attention_bwd_e4m3_reference", Isa::kReference, Dtype::kE4m3, reference::attention_bwd_e4m3()},
#if FPSA_KERNEL_X86
        {"attention_bwd_f32_avx2", Isa::kAvx2, Dtype::kF32, cpu::attention_bwd_f32_avx2()},
        {"attention_bwd_bf16_avx2", Isa::kAvx2, Dtype::kBf16, cpu::attention_bwd_bf16_avx2()},
        {"attention_bwd_e4m3_avx2", Isa::kAvx2, Dtype::kE4m3, cpu::attention_bwd_e4m3_avx2()},
        {"attention_bwd_f32_avx512", Isa::kAvx512, Dtype::kF32, cpu::attention_bwd_f32_avx512()},
        {"attention_bwd_bf16_avx512", Isa::kAvx512, Dtype::kBf16, cpu::attention_bwd_bf16_avx512()},
        {"attention_bwd_e4m3_avx512", Isa::kAvx512, Dtype::kE4m3, cpu::attention_bwd_e4m3_avx512()},
        {"attention_bwd_bf16_avx512bf16", Isa::kAvx512Bf16, Dtype::kBf16, cpu::attention_bwd_bf16_avx512bf16()},
        {"attention_bwd_e4m3_avx512bf16", Isa::kAvx512Bf16, Dtype::kE4m3, cpu::attention_bwd_e4m3_avx512bf16()},
#endif
  });
  return table;
}

const auto& quantize_table() {
  static const auto table = std::to_array<QuantizeEntry>({
    {"quantize_e4m3_reference", Isa::kReference, Dtype::kE4m3, reference::quantize_e4m3()},
        {"quantize_int8_reference", Isa::kReference, Dtype::kInt8, reference::quantize_int8()},
#if FPSA_KERNEL_X86
        {"quantize_e4m3_avx2", Isa::kAvx2, Dtype::kE4m3, cpu::quantize_e4m3_avx2()},
        {"quantize_int8_avx2", Isa::kAvx2, Dtype::kInt8, cpu::quantize_int8_avx2()},
#endif
  });
  return table;
}

const auto& prepass_table() {
  static const auto table = std::to_array<PrepassEntry>({
    {"prepass_e4m3_reference", Isa::kReference, Dtype::kE4m3, reference::prepass_e4m3()},
        {"prepass_int8_reference", Isa::kReference, Dtype::kInt8, reference::prepass_int8()},
#if FPSA_KERNEL_X86
        {"prepass_e4m3_avx2", Isa::kAvx2, Dtype::kE4m3, cpu::prepass_e4m3_avx2()},
        {"prepass_int8_avx2", Isa::kAvx2, Dtype::kInt8, cpu::prepass_int8_avx2()},
        {"prepass_e4m3_avx512", Isa::kAvx512, Dtype::kE4m3, cpu::prepass_e4m3_avx512()},
        {"prepass_int8_avx512", Isa::kAvx512, Dtype::kInt8, cpu::prepass_int8_avx512()},
#endif
  });
  return table;
}

// The reference has no ISA to miss, so every search finds an entry.
std::atomic<Isa>& level() {
  static std::atomic<Isa> current = detected_isa();
  return current;
}

}  // namespace

std::string_view dtype_name(Dtype dtype) {
  switch (dtype) {
    case Dtype::kF32:
      return "f32";
    case Dtype::kBf16:
      return "bf16";
    case Dtype::kE4m3:
      return "e4m3";
    case Dtype::kInt8:
      return "int8";
  }
  return "unknown";
}

std::span<const AttentionFwdEntry> attention_fwd_entries() {
  return attention_table();
}
std::span<const AttentionBwdEntry> attention_bwd_entries() {
  return attention_bwd_table();
}
std::span<const QuantizeEntry> quantize_entries() {
  return quantize_table();
}
std::span<const PrepassEntry> prepass_entries() {
  return prepass_table();
}

const AttentionFwdEntry& attention_fwd_at(Dtype dtype, Isa level) {
  const AttentionFwdEntry* best = nullptr;
  for (const auto& entry : attention_fwd_entries())
    if (entry.dtype == dtype && entry.isa <= level) best = &entry;
  return *best;
}

const AttentionBwdEntry& attention_bwd_at(Dtype dtype, Isa level) {
  const AttentionBwdEntry* best = nullptr;
  for (const auto& entry : attention_bwd_entries())
    if (entry.dtype == dtype && entry.isa <= level) best = &entry;
  return *best;
}

const QuantizeEntry& quantize_at(Dtype codes, Isa level) {
  const QuantizeEntry* best = nullptr;
  for (const auto& entry : quantize_entries())
    if (entry.dtype == codes && entry.isa <= level) best = &entry;
  return *best;
}

const PrepassEntry& prepass_at(Dtype codes, Isa level) {
  const PrepassEntry* best = nullptr;
  for (const auto& entry : prepass_entries())
    if (entry.codes == codes && entry.isa <= level) best = &entry;
  return *best;
}

void force_isa(std::string_view name) {
  if (name == "auto") {
    level() = detected_isa();
    return;
  }
  std::string names = "auto";
  for (const Isa isa : all_isas()) {
    names += join(", ", isa_name(isa));
    if (isa_name(isa) != name) continue;
    FPSA_CHECK(isa <= detected_isa(), "isa: '", name, "' needs ", isa_requirements(isa),
               ", which this machine does not support; its highest level is '", isa_name(detected_isa()), "'");
    level() = isa;
    return;
  }
  FPSA_CHECK(false, "isa: expected one of ", names, ", got '", name, "'");
}

Isa current_isa() {
  return level();
}

const AttentionFwdEntry& attention_fwd(Dtype dtype) {
  return attention_fwd_at(dtype, current_isa());
}
const AttentionBwdEntry& attention_bwd(Dtype dtype) {
  return attention_bwd_at(dtype, current_isa());
}
const QuantizeEntry& quantize(Dtype codes) {
  return quantize_at(codes, current_isa());
}
const PrepassEntry& prepass(Dtype codes) {
  return prepass_at(codes, current_isa());
}

std::vector<std::string> selected() {
  std::vector<std::string> names;
  for (const Dtype dtype : {Dtype::kF32, Dtype::kBf16, Dtype::kE4m3, Dtype::kInt8})
    names.emplace_back(attention_fwd(dtype).name);
  for (const Dtype dtype : {Dtype::kF32, Dtype::kBf16, Dtype::kE4m3})
    names.emplace_back(attention_bwd(dtype).name);
  for (const Dtype codes : {Dtype::kE4m3, Dtype::kInt8})
    names.emplace_back(quantize(codes).name);
  for (const Dtype codes : {Dtype::kE4m3, Dtype::kInt8})
    names.emplace_back(prepass(codes).name);
  return names;
}

}  // namespace fpsa::kernel
