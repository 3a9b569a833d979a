// Parity cases of the video transformer.

#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/variable.h>

#include "fpsa/accel/methods.h"
#include "fpsa/base/check.h"
#include "fpsa/models/wan/dit.h"
#include "tests/tools/parity.h"

namespace fpsa::parity {
namespace {

nn::DenoiserInput input_of(const nn::TensorMap& in) {
  nn::DenoiserInput input;
  input.latents = need(in, "latents");
  input.timestep = need(in, "timestep").to(at::kFloat);
  input.text = need(in, "text");
  return input;
}

models::wan::DitOptions options_of(const nlohmann::json& config) {
  models::wan::DitOptions options;
  if (config.contains("rope_stretch")) {
    const auto& s = config["rope_stretch"];
    options.rope_stretch = {s[0].get<double>(), s[1].get<double>(), s[2].get<double>()};
  }
  options.tap_layer = config.value("tap_layer", int64_t{-1});
  return options;
}

// {"transformer": config.json, "rope_stretch"?, "tap_layer"?} -> velocity, tap
void predict(const nlohmann::json& config, const nn::TensorMap& in, nn::TensorMap& out) {
  at::NoGradGuard guard;
  MapSource source(in);
  models::wan::WanDit dit(models::wan::DitConfig::from_json(config.at("transformer")), nn::Scope(source));
  source.finish();
  auto method = accel::make_dense();
  models::wan::DitOutput result = dit.forward(input_of(in), *method, options_of(config));
  out["velocity"] = result.velocity.contiguous();
  if (result.tap.defined()) out["tap"] = result.tap.contiguous();
}

// As predict, then the gradients of sum(velocity * in["cotangent"]) in all weights, latents and text.
void gradients(const nlohmann::json& config, const nn::TensorMap& in, nn::TensorMap& out) {
  MapSource source(in, "weights.", /*requires_grad=*/true);
  models::wan::WanDit dit(models::wan::DitConfig::from_json(config.at("transformer")), nn::Scope(source));
  source.finish();
  auto method = accel::make_dense();
  nn::DenoiserInput input = input_of(in);
  input.latents = input.latents.clone().requires_grad_(true);
  input.text = input.text.clone().requires_grad_(true);
  at::Tensor velocity = dit.predict(input, *method);
  at::Tensor loss = (velocity * need(in, "cotangent")).sum();
  torch::autograd::backward({loss}, {});
  out["velocity"] = velocity.detach().contiguous();
  for (const auto& [name, weight] : source.served) {
    FPSA_CHECK(weight.grad().defined(), "no gradient reached '", name, "'");
    out["grad." + name] = weight.grad().contiguous();
  }
  out["grad_latents"] = input.latents.grad().contiguous();
  out["grad_text"] = input.text.grad().contiguous();
}

// {"transformer": config.json} -> one empty tensor per parameter under its name, shaped [its shape..., 0]: names and
// shapes without the memory.
void names(const nlohmann::json& config, const nn::TensorMap&, nn::TensorMap& out) {
  nn::SpecCollector collector;
  models::wan::WanDit dit(models::wan::DitConfig::from_json(config.at("transformer")), nn::Scope(collector));
  for (const nn::ParameterSpec& spec : collector.specs) {
    std::vector<int64_t> shape = spec.shape;
    shape.push_back(0);
    FPSA_CHECK(out.emplace(spec.name, at::empty(shape, at::kFloat)).second, "'", spec.name, "' is declared twice");
  }
}

ParityCase predict_case("dit.predict", predict);
ParityCase gradients_case("dit.gradients", gradients);
ParityCase names_case("dit.names", names);

}  // namespace
}  // namespace fpsa::parity
