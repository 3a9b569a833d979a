// Parity cases of the text side: UMT5 encoder, tokenizer, prompt cleaning.

#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/variable.h>

#include <cstring>

#include "fpsa/base/check.h"
#include "fpsa/models/wan/prompt.h"
#include "fpsa/models/wan/text_encoder.h"
#include "fpsa/models/wan/tokenizer.h"
#include "tests/tools/parity.h"

namespace fpsa::parity {
namespace {

using models::wan::Umt5Config;
using models::wan::Umt5Encoder;

// {"text_encoder": config.json} -> states, in the dtype of the weights
void encode(const nlohmann::json& config, const nn::TensorMap& in, nn::TensorMap& out) {
  at::NoGradGuard guard;
  MapSource source(in);
  Umt5Encoder encoder(Umt5Config::from_json(config.at("text_encoder")), nn::Scope(source));
  source.finish();
  out["states"] = encoder.encode(need(in, "ids"), need(in, "mask")).contiguous();
}

// As encode, then the gradients of sum(states * in["cotangent"]) in all weights.
void gradients(const nlohmann::json& config, const nn::TensorMap& in, nn::TensorMap& out) {
  MapSource source(in, "weights.", /*requires_grad=*/true);
  Umt5Encoder encoder(Umt5Config::from_json(config.at("text_encoder")), nn::Scope(source));
  source.finish();
  at::Tensor states = encoder.encode(need(in, "ids"), need(in, "mask"));
  torch::autograd::backward({(states * need(in, "cotangent")).sum()}, {});
  out["states"] = states.detach().contiguous();
  for (const auto& [name, weight] : source.served) {
    FPSA_CHECK(weight.grad().defined(), "no gradient reached '", name, "'");
    out["grad." + name] = weight.grad().contiguous();
  }
}

// {"text_encoder": config.json} -> one empty tensor per parameter under its name, shaped [its shape..., 0]
void names(const nlohmann::json& config, const nn::TensorMap&, nn::TensorMap& out) {
  nn::SpecCollector collector;
  Umt5Encoder encoder(Umt5Config::from_json(config.at("text_encoder")), nn::Scope(collector));
  for (const nn::ParameterSpec& spec : collector.specs) {
    std::vector<int64_t> shape = spec.shape;
    shape.push_back(0);
    FPSA_CHECK(out.emplace(spec.name, at::empty(shape, at::kFloat)).second, "'", spec.name, "' is declared twice");
  }
}

// {"length", "num_buckets", "max_distance"} -> buckets
void buckets(const nlohmann::json& config, const nn::TensorMap&, nn::TensorMap& out) {
  out["buckets"] =
      models::wan::relative_position_buckets(config.at("length"), config.at("num_buckets"), config.at("max_distance"));
}

// {"folder", "texts": [...], "max_length"} -> ids, mask [B, max_length]
void tokens(const nlohmann::json& config, const nn::TensorMap&, nn::TensorMap& out) {
  const auto tokenizer = models::wan::Tokenizer::load(config.at("folder").get<std::string>());
  const auto batch = tokenizer.encode_batch(config.at("texts").get<std::vector<std::string>>(),
                                            config.at("max_length").get<int64_t>());
  out["ids"] = batch.ids;
  out["mask"] = batch.mask;
}

// {"texts": [...]} -> bytes: all cleaned texts in a row, lengths: bytes of each
void clean(const nlohmann::json& config, const nn::TensorMap&, nn::TensorMap& out) {
  std::string bytes;
  std::vector<int64_t> lengths;
  for (const std::string& text : config.at("texts").get<std::vector<std::string>>()) {
    const std::string cleaned = models::wan::clean_prompt(text);
    bytes += cleaned;
    lengths.push_back(static_cast<int64_t>(cleaned.size()));
  }
  bytes += '\n';  // so that the tensor is never empty
  out["bytes"] = at::empty({static_cast<int64_t>(bytes.size())}, at::kByte);
  std::memcpy(out["bytes"].data_ptr(), bytes.data(), bytes.size());
  out["lengths"] = at::tensor(at::ArrayRef<int64_t>(lengths), at::kLong);
}

ParityCase encode_case("text.encode", encode);
ParityCase gradients_case("text.gradients", gradients);
ParityCase names_case("text.names", names);
ParityCase buckets_case("text.buckets", buckets);
ParityCase tokens_case("text.tokens", tokens);
ParityCase clean_case("text.clean", clean);

}  // namespace
}  // namespace fpsa::parity
