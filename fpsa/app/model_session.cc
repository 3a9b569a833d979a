#include "fpsa/app/model_session.h"

#include <malloc.h>

#include <algorithm>

#include "fpsa/base/check.h"
#include "fpsa/io/json.h"
#include "fpsa/schedule/schedule.h"

namespace fpsa::app {
namespace {

using models::wan::Part;

at::ScalarType compute_dtype(const std::string& choice, const models::wan::PartDescription& stored) {
  if (choice != "auto") return choice == "bf16" ? at::kBFloat16 : at::kFloat;
  // The dtype of most of the bytes; norms are often stored wider than the rest.
  const auto most = std::max_element(stored.bytes_by_dtype.begin(), stored.bytes_by_dtype.end(),
                                     [](const auto& a, const auto& b) { return a.second < b.second; });
  return most->first == "F32" || most->first == "F64" ? at::kFloat : at::kBFloat16;
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
  const auto carried_by = [](const std::map<std::string, std::string>& metadata) {
    const auto carried = metadata.find(std::string(schedule::kMetadataKey));
    return carried == metadata.end() ? std::string() : carried->second;
  };
  std::string found;
  for (const auto& lora : loras_) {
    const auto carried = carried_by(models::wan::lora_metadata(lora));
    if (carried.empty()) continue;
    FPSA_CHECK(found.empty() || found == carried, "--lora: expected files trained for one schedule, ",
               lora.path.string(), " carries another than the one before it; say by --schedule which holds");
    found = carried;
  }
  return found.empty() ? carried_by(part(Part::kTransformer)->metadata) : found;
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
  if (!transformer_) transformer_ = load(Part::kTransformer).transformer;
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
