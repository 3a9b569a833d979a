// LoRA adapters while they are trained, and the file that they become.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <set>
#include <string>

#include "fpsa/nn/parameters.h"
#include "fpsa/nn/tensor_map.h"
#include "fpsa/schedule/schedule.h"
#include "fpsa/train/finetune_config.h"

namespace fpsa::train {

/// A frozen model's source that also hands out adapters for the layers that the config targets.
///   Names     parameters are "<prefix><module>.lora_A.weight" [rank, in] and "...lora_B.weight" [out, rank]: the keys
///             that diffusers gives them, prefix "transformer."
///   Numerics  F32 leaves; A uniform with half width 1/sqrt(in), as PEFT draws it, B zero: the model starts unchanged
class AdapterSource : public nn::ParameterSource {
 public:
  AdapterSource(nn::ParameterSource& base, const LoraConfig& config, std::string prefix, uint64_t seed);

  at::Tensor get(const nn::ParameterSpec& spec) override { return base_.get(spec); }
  std::optional<nn::LowRank> low_rank(const nn::ParameterSpec& spec) override;

  /// The leaves, once the model is built.
  ///   Errors    fpsa::Error naming each target that no layer has, with the names that there are
  const nn::TensorMap& finish() const;

 private:
  nn::ParameterSource& base_;
  LoraConfig config_;
  std::string prefix_;
  nn::RandomInit init_;
  std::set<std::string> matched_, names_;  // targets in use; last parts of the layers' names
};

/// Writes adapters as diffusers saves them: F32, the keys of AdapterSource, rank, alpha and targets in the metadata;
/// beside them the schedule that they were trained under, where there was one.
///   Errors    fpsa::Error when the tensors are no adapters of that rank
void write_lora(const std::filesystem::path& file, const nn::TensorMap& adapters, const LoraConfig& config,
                const std::optional<schedule::Schedule>& schedule = std::nullopt);

}  // namespace fpsa::train
