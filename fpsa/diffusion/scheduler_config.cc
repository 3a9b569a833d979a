// diffusers' scheduler_config.json, read and written.
#include <array>
#include <utility>

#include "fpsa/base/check.h"
#include "fpsa/diffusion/sigmas.h"

namespace fpsa::diffusion {
namespace {

using Json = nlohmann::json;

constexpr std::array<std::pair<SamplerKind, const char*>, 3> kClasses = {{
    {SamplerKind::kUniPc, "UniPCMultistepScheduler"},
    {SamplerKind::kDpmpp2m, "DPMSolverMultistepScheduler"},
    {SamplerKind::kEuler, "FlowMatchEulerDiscreteScheduler"},
}};
constexpr std::array<std::pair<SamplerKind, std::string_view>, 3> kNames = {{
    {SamplerKind::kUniPc, "unipc"},
    {SamplerKind::kDpmpp2m, "dpm++"},
    {SamplerKind::kEuler, "euler"},
}};

// A key whose value would change the arithmetic: what diffusers takes when it is absent, and the one value that works.
struct Fixed {
  const char* key;
  Json fallback;
  Json required;
};

const std::vector<Fixed>& fixed_keys(SamplerKind kind) {
  static const std::vector<Fixed> common = {
      {"num_train_timesteps", 1000, 1000},      {"use_dynamic_shifting", false, false},
      {"shift_terminal", nullptr, nullptr},     {"use_karras_sigmas", false, false},
      {"use_exponential_sigmas", false, false}, {"use_beta_sigmas", false, false},
  };
  static const std::vector<Fixed> multistep = [] {
    std::vector<Fixed> keys = common;
    for (const Fixed& key :
         {Fixed{"use_flow_sigmas", false, true}, Fixed{"prediction_type", "epsilon", "flow_prediction"},
          Fixed{"thresholding", false, false}, Fixed{"lower_order_final", true, true},
          Fixed{"final_sigmas_type", "zero", "zero"}})
      keys.push_back(key);
    return keys;
  }();
  static const std::vector<Fixed> unipc = [] {
    std::vector<Fixed> keys = multistep;
    for (const Fixed& key :
         {Fixed{"predict_x0", true, true}, Fixed{"solver_type", "bh2", "bh2"}, Fixed{"solver_p", nullptr, nullptr},
          Fixed{"disable_corrector", Json::array(), Json::array()}})
      keys.push_back(key);
    return keys;
  }();
  static const std::vector<Fixed> dpmpp = [] {
    std::vector<Fixed> keys = multistep;
    for (const Fixed& key : {Fixed{"algorithm_type", "dpmsolver++", "dpmsolver++"},
                             Fixed{"solver_type", "midpoint", "midpoint"}, Fixed{"use_lu_lambdas", false, false}})
      keys.push_back(key);
    return keys;
  }();
  static const std::vector<Fixed> euler = [] {
    std::vector<Fixed> keys = common;
    for (const Fixed& key : {Fixed{"invert_sigmas", false, false}, Fixed{"stochastic_sampling", false, false}})
      keys.push_back(key);
    return keys;
  }();
  switch (kind) {
    case SamplerKind::kUniPc:
      return unipc;
    case SamplerKind::kDpmpp2m:
      return dpmpp;
    case SamplerKind::kEuler:
      break;
  }
  return euler;
}

const char* shift_key(SamplerKind kind) {
  return kind == SamplerKind::kEuler ? "shift" : "flow_shift";
}

const char* class_name(SamplerKind kind) {
  return kClasses[static_cast<size_t>(kind)].second;
}

}  // namespace

std::string_view sampler_name(SamplerKind kind) {
  return kNames[static_cast<size_t>(kind)].second;
}

SamplerKind sampler_from_name(std::string_view name) {
  for (const auto& [kind, known] : kNames)
    if (name == known) return kind;
  FPSA_CHECK(false, "sampler must be unipc, dpm++ or euler, received '", name, "'");
  return SamplerKind::kUniPc;
}

SchedulerConfig SchedulerConfig::from_json(const Json& json, const std::string& origin) {
  FPSA_CHECK(json.is_object() && json.contains("_class_name"), origin,
             ": expected a JSON object with '_class_name', received ", json.type_name());
  SchedulerConfig config;
  bool known = false;
  for (const auto& [kind, name] : kClasses) {
    if (json["_class_name"] != name) continue;
    config.sampler = kind;
    known = true;
  }
  FPSA_CHECK(known, origin, ": '_class_name' must be ", class_name(SamplerKind::kUniPc), ", ",
             class_name(SamplerKind::kDpmpp2m), " or ", class_name(SamplerKind::kEuler), ", received ",
             json["_class_name"].dump());
  for (const Fixed& fixed : fixed_keys(config.sampler)) {
    const Json value = json.value(fixed.key, fixed.fallback);
    FPSA_CHECK(value == fixed.required, origin, ": '", fixed.key, "' must be ", fixed.required.dump(), ", received ",
               value.dump(), json.contains(fixed.key) ? "" : " (diffusers' default for an absent key)");
  }
  const Json shift = json.value(shift_key(config.sampler), Json(1.0));
  FPSA_CHECK(shift.is_number(), origin, ": '", shift_key(config.sampler), "' must be a number, received ",
             shift.dump());
  config.shift = shift.get<double>();
  if (config.sampler != SamplerKind::kEuler) {
    const Json order = json.value("solver_order", Json(2));
    FPSA_CHECK(order.is_number_integer(), origin, ": 'solver_order' must be an integer, received ", order.dump());
    config.order = order.get<int64_t>();
  }
  try {
    config.check();
  } catch (const Error& error) {
    throw Error(join(origin, ": ", error.what()));
  }
  return config;
}

Json SchedulerConfig::to_json() const {
  check();
  Json json = {{"_class_name", class_name(sampler)}, {"_diffusers_version", "0.42.1"}, {shift_key(sampler), shift}};
  for (const Fixed& fixed : fixed_keys(sampler))
    json[fixed.key] = fixed.required;
  if (sampler == SamplerKind::kDpmpp2m) json.erase("shift_terminal");  // not a key of that class
  if (sampler != SamplerKind::kEuler) json["solver_order"] = order;
  return json;
}

}  // namespace fpsa::diffusion
