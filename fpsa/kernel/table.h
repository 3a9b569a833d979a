// The kernel table: every implementation in this build, and the one that serves now.
//
// The ladder: each ISA level takes, for every dtype, its own entry or the best one of a lower level.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fpsa/kernel/attention.h"
#include "fpsa/kernel/attention_bwd.h"
#include "fpsa/kernel/cpu/isa.h"
#include "fpsa/kernel/prepass.h"
#include "fpsa/kernel/quantize.h"

namespace fpsa::kernel {

struct AttentionFwdEntry {
  std::string_view name;  // attention_fwd_<dtype>_<isa>
  Isa isa;
  Dtype dtype;
  AttentionFwd kernel;
};

struct AttentionBwdEntry {
  std::string_view name;  // attention_bwd_<dtype>_<isa>
  Isa isa;
  Dtype dtype;
  AttentionBwd kernel;
};

struct QuantizeEntry {
  std::string_view name;  // quantize_<dtype>_<isa>
  Isa isa;
  Dtype dtype;  // of the codes: kE4m3 or kInt8
  Quantize kernel;
};

struct PrepassEntry {
  std::string_view name;  // prepass_<codes>_<isa>
  Isa isa;
  Dtype codes;
  Prepass kernel;
};

std::string_view dtype_name(Dtype dtype);

/// Every entry in the build, lowest level first; those above detected_isa() must not be called.
std::span<const AttentionFwdEntry> attention_fwd_entries();
std::span<const AttentionBwdEntry> attention_bwd_entries();
std::span<const QuantizeEntry> quantize_entries();
std::span<const PrepassEntry> prepass_entries();

/// The entry that serves at a level: the highest one not above it.
const AttentionFwdEntry& attention_fwd_at(Dtype dtype, Isa level);
const AttentionBwdEntry& attention_bwd_at(Dtype dtype, Isa level);
const QuantizeEntry& quantize_at(Dtype codes, Isa level);
const PrepassEntry& prepass_at(Dtype codes, Isa level);

/// Limits selection to a level by name; "auto" goes back to detected_isa().
///   Threads   may be called at any time; calls in flight keep what they took
///   Errors    an unknown name, or a level that this machine does not support
void force_isa(std::string_view name);
/// The level in force.
Isa current_isa();

/// The entries that serve at current_isa().
const AttentionFwdEntry& attention_fwd(Dtype dtype);
const AttentionBwdEntry& attention_bwd(Dtype dtype);
const QuantizeEntry& quantize(Dtype codes = Dtype::kE4m3);
const PrepassEntry& prepass(Dtype codes);
/// Their names, for people.
std::vector<std::string> selected();

}  // namespace fpsa::kernel
