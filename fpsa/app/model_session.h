// A model opened for one run: checked as a whole at the start, its parts brought into memory stage by stage.
//
// Opening maps every part in the dtype in which it is stored, which copies nothing: configurations and shapes are
// checked before any work is done. A part that computes in another dtype is converted when its stage begins, and
// given back when it ends.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "fpsa/models/wan/model.h"

namespace fpsa::app {

/// What one part's files hold.
struct StoredPart {
  int64_t parameters = 0;
  at::ScalarType dtype = at::kFloat;  // of most of its bytes
};

/// Sums the headers of a part's files; reads no weights.
StoredPart stored_part(const models::wan::PartFiles& files, models::wan::Part part);

class ModelSession {
 public:
  /// `dtype` is auto, bf16 or f32; auto is BF16 for a transformer stored in 16 or 8 bits.
  ///   Errors    everything models::wan::load_model refuses; too little memory for the weights alone
  ModelSession(const std::filesystem::path& path, bool with_text, const std::string& dtype,
               const std::string& vae_dtype, bool ignore_memory);

  at::ScalarType dtype() const { return dtype_; }
  at::ScalarType vae_dtype() const { return vae_dtype_; }
  const models::wan::DitConfig& dit_config() const { return dit_config_; }
  const models::wan::VaeConfig& vae_config() const { return vae_config_; }
  const models::wan::SchedulerConfig& scheduler() const { return model_.scheduler; }
  /// The TOML schedule that the transformer carries; empty when it has none.
  const std::string& schedule() const { return model_.schedule; }
  std::string description() const { return model_.description(); }

  /// Memory of a part's weights in the dtype they compute in.
  int64_t transformer_bytes() const { return transformer_.parameters * element_bytes(dtype_); }
  int64_t text_bytes() const { return text_.parameters * element_bytes(dtype_); }
  int64_t vae_bytes() const { return vae_.parameters * element_bytes(vae_dtype_); }

  const models::wan::Tokenizer& tokenizer() const { return *model_.tokenizer; }
  models::wan::Umt5Encoder& text_encoder();
  models::wan::WanDit& transformer();
  models::wan::WanVae& vae();
  void release_text_encoder();
  void release_transformer();

 private:
  static int64_t element_bytes(at::ScalarType type) { return static_cast<int64_t>(c10::elementSize(type)); }
  models::wan::WanModel load(models::wan::Part part) const;

  std::filesystem::path path_;
  StoredPart transformer_, text_, vae_;
  at::ScalarType dtype_ = at::kFloat, vae_dtype_ = at::kFloat;
  at::ScalarType held_transformer_, held_text_, held_vae_;  // dtype of what model_ holds
  models::wan::DitConfig dit_config_;
  models::wan::VaeConfig vae_config_;
  models::wan::WanModel model_;
};

}  // namespace fpsa::app
