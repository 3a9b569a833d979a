#include "fpsa/app/model_session.h"

#include <malloc.h>

#include <algorithm>

#include "fpsa/base/check.h"
#include "fpsa/io/json.h"
#include "fpsa/ops/compute_dtype.h"
#include "fpsa/schedule/schedule.h"

namespace fpsa::app {
namespace {

using models::wan::Part;

at::ScalarType compute_dtype(const std::string& choice, const models::wan::PartDescription& stored) {
  if (choice != "auto") return choice == "bf16" ? at::kBFloat16 : at::kFloat;
  // The dtype of most of the bytes; norms are often stored wider than the rest.
  const auto most = std::max_element(stored.bytes_by_dtype.begin(), stored.bytes_by_dtype.end(),
                                     [](const auto& a, const auto& b) { return a.second < b.second; });
  return most->first == "F32" || most->first == "F64" ? at::kFloat : ops::fast_compute_dtype();
}

}  // namespace

diffusion::SchedulerConfig scheduler_of(const models::wan::ModelPlace& place) {
  if (const auto file = models::wan::find_scheduler(place); !file.empty())
    return diffusion::SchedulerConfig::from_json(io::read_json(file), file.string());
  diffusion::SchedulerConfig scheduler;
  scheduler.shift = models::wan::kOriginalFlowShift;
  return scheduler;
}

ModelSession::ModelSession(const std::filesystem::path& path, const models::wan::PartPaths& named, bool with_text,
                           const std::string& dtype, const std::string& vae_dtype,
                           const std::vector<models::wan::LoraFile>& loras)
    : path_(path), named_(named), loras_(loras) {
  const auto place = models::wan::find_model(path);
  scheduler_ = scheduler_of(place);
  description_ = models::wan::describe_model(place, named, with_text);
  for (const auto& [part, reason] : description_.absent)
    throw Error(reason);
  FPSA_CHECK(description_.no_tokenizer.empty(), description_.no_tokenizer);
  const auto& transformer = *part(Part::kTransformer);
  dtype_ = compute_dtype(dtype, transformer);
  vae_dtype_ = vae_dtype == "bf16" ? at::kBFloat16 : at::kFloat;
  dit_config_ = models::wan::DitConfig::from_json(transformer.config);
  vae_config_ = models::wan::VaeConfig::from_json(part(Part::kVae)->config);
  models::wan::read_loras(loras_, dit_config_);  // refused now, not after the text encoder has run
}

std::string ModelSession::schedule() const {
  const auto& metadata = part(Part::kTransformer)->metadata;
  const auto carried = metadata.find(std::string(schedule::kMetadataKey));
  return carried == metadata.end() ? std::string() : carried->second;
}

std::vector<CarriedSchedule> ModelSession::schedules() const {
  std::vector<CarriedSchedule> out;
  if (auto own = schedule(); !own.empty()) out.push_back({.toml = std::move(own)});
  for (const auto& lora : loras_) {
    const auto metadata = models::wan::lora_metadata(lora);
    const auto carried = metadata.find(std::string(schedule::kMetadataKey));
    if (lora.scale != 0 && carried != metadata.end())
      out.push_back({carried->second, join("the fpsa.schedule of the LoRA ", lora.path.string()), true});
  }
  return out;
}

models::wan::WanModel ModelSession::load(Part part) const {
  models::wan::LoadOptions options;
  options.dtype = options.text_dtype = dtype_;
  options.vae_dtype = vae_dtype_;
  options.transformer = part == Part::kTransformer;
  options.text_encoder = part == Part::kTextEncoder;
  options.vae = part == Part::kVae;
  options.paths = named_;
  options.loras = loras_;
  return models::wan::load_model(path_, options);
}

void ModelSession::load_text() {
  if (text_encoder_) return;
  auto loaded = load(Part::kTextEncoder);
  tokenizer_ = std::move(loaded.tokenizer);
  text_encoder_ = std::move(loaded.text_encoder);
}

const models::wan::Tokenizer& ModelSession::tokenizer() {
  load_text();
  return *tokenizer_;
}

models::wan::Umt5Encoder& ModelSession::text_encoder() {
  load_text();
  return *text_encoder_;
}

models::wan::WanDit& ModelSession::transformer() {
  if (!transformer_) {
    transformer_ = load(Part::kTransformer).transformer;
    transformer_->set_rope_stretch(rope_scale_);
  }
  return *transformer_;
}

models::wan::WanVae& ModelSession::vae() {
  if (!vae_) vae_ = load(Part::kVae).vae;
  return *vae_;
}

// glibc keeps freed blocks for itself; the next stage wants them as pages.
void ModelSession::release_text_encoder() {
  text_encoder_.reset();
  tokenizer_.reset();
  malloc_trim(0);
}

void ModelSession::release_transformer() {
  transformer_.reset();
  malloc_trim(0);
}

}  // namespace fpsa::app
