// fpsa_parity <case> <config.json> <in.safetensors> <out.safetensors>: runs one parity case.
// fpsa_parity --list: prints the cases' names.

#include <exception>
#include <fstream>
#include <iostream>

#include "fpsa/base/check.h"
#include "tests/tools/parity.h"

namespace fpsa::parity {

std::map<std::string, Run>& cases() {
  static std::map<std::string, Run> all;
  return all;
}

ParityCase::ParityCase(const std::string& name, Run run) {
  FPSA_CHECK(cases().emplace(name, std::move(run)).second, "parity case '", name, "' is registered twice");
}

MapSource::MapSource(const nn::TensorMap& tensors, std::string prefix, bool requires_grad)
    : tensors_(tensors), prefix_(std::move(prefix)), requires_grad_(requires_grad) {}

at::Tensor MapSource::get(const nn::ParameterSpec& spec) {
  const at::Tensor& stored = need(tensors_, prefix_ + spec.name);
  FPSA_CHECK(stored.sizes() == at::IntArrayRef(spec.shape), "tensor '", spec.name, "' must have shape ",
             at::IntArrayRef(spec.shape), ", received ", stored.sizes());
  at::Tensor tensor = stored.clone();
  if (requires_grad_) tensor.requires_grad_(true);
  served[spec.name] = tensor;
  return tensor;
}

void MapSource::finish() const {
  std::string unused;
  for (const auto& [name, tensor] : tensors_)
    if (name.rfind(prefix_, 0) == 0 && !served.contains(name.substr(prefix_.size()))) unused += " " + name;
  FPSA_CHECK(unused.empty(), "the model asked for none of:", unused);
}

const at::Tensor& need(const nn::TensorMap& in, const std::string& name) {
  auto found = in.find(name);
  FPSA_CHECK(found != in.end(), "input tensor '", name, "' is missing");
  return found->second;
}

}  // namespace fpsa::parity

int main(int argc, char** argv) {
  using namespace fpsa;
  try {
    if (argc == 2 && std::string(argv[1]) == "--list") {
      for (const auto& [name, run] : parity::cases())
        std::cout << name << "\n";
      return 0;
    }
    FPSA_CHECK(argc == 5, "usage: fpsa_parity <case> <config.json> <in.safetensors> <out.safetensors> | --list");
    auto found = parity::cases().find(argv[1]);
    FPSA_CHECK(found != parity::cases().end(), "unknown parity case '", argv[1], "'; see --list");
    std::ifstream file(argv[2]);
    FPSA_CHECK(file, "cannot read ", argv[2]);
    nn::TensorMap out;
    found->second(nlohmann::json::parse(file), nn::load_tensors(argv[3]).tensors, out);
    nn::save_tensors(argv[4], out, {});
    return 0;
  } catch (const std::exception& error) {
    std::cerr << "fpsa_parity: " << error.what() << "\n";
    return 1;
  }
}
