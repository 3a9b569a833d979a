#include "fpsa/models/wan/lora.h"

#include <gtest/gtest.h>

#include <cmath>

#include "fpsa/base/check.h"
#include "fpsa/models/wan/dit.h"
#include "fpsa/models/wan/model.h"
#include "fpsa/nn/checkpoint.h"
#include "tests/io/scratch.h"
#include "tests/models/wan/small_model.h"

namespace fpsa::models::wan {
namespace {

namespace fs = std::filesystem;
using testing::error_of;
using testing::ScratchFolder;
using testing::small_model;
using testing::write_raw;

constexpr int64_t kRank = 3;

DitConfig config() {
  return small_model().dit;
}

at::Tensor random(std::vector<int64_t> shape, uint64_t seed) {
  nn::RandomInit init(seed);
  return init.get({.name = "x", .shape = std::move(shape), .init = nn::Init::normal(0.1)}).detach();
}

// An adapter on blocks.1's first query projection and one on its first feed-forward matrix.
const at::Tensor &kA = *new at::Tensor(random({kRank, config().dim()}, 1)),
                 &kB = *new at::Tensor(random({config().dim(), kRank}, 2)),
                 &kUp = *new at::Tensor(random({config().ffn_dim, kRank}, 3));

nn::WeightDeltas read(const fs::path& path, double scale = 1.0) {
  return read_loras({{path, scale}}, config());
}

struct Case {
  std::string name;
  std::string query_a, query_b, up_a, up_b;
  nn::TensorMap more = {};
  std::map<std::string, std::string> metadata = {};
  double alpha = kRank;
};

std::vector<Case> cases() {
  const auto pair = [](std::string name, const std::string& query, const std::string& up, const std::string& a,
                       const std::string& b) {
    return Case{std::move(name), query + a, query + b, up + a, up + b};
  };
  std::vector<Case> all = {
      pair("diffusers", "transformer.blocks.1.attn1.to_q", "transformer.blocks.1.ffn.net.0.proj", ".lora_A.weight",
           ".lora_B.weight"),
      pair("PEFT", "base_model.model.blocks.1.attn1.to_q", "base_model.model.blocks.1.ffn.net.0.proj",
           ".lora_A.default.weight", ".lora_B.default.weight"),
      pair("bare", "blocks.1.attn1.to_q", "blocks.1.ffn.net.0.proj", ".lora.down.weight", ".lora.up.weight"),
      pair("original", "diffusion_model.blocks.1.self_attn.q", "diffusion_model.blocks.1.ffn.0", ".lora_A.weight",
           ".lora_B.weight"),
      pair("Comfy", "diffusion_model.blocks.1.self_attn.q", "diffusion_model.blocks.1.ffn.0", ".lora_down.weight",
           ".lora_up.weight"),
      pair("musubi", "lora_unet_blocks_1_self_attn_q", "lora_unet_blocks_1_ffn_0", ".lora_down.weight",
           ".lora_up.weight"),
  };
  all[4].more = {{"diffusion_model.blocks.1.self_attn.q.alpha", at::full({}, 6.0)},
                 {"diffusion_model.blocks.1.ffn.0.alpha", at::full({1}, 6.0)}};
  all[4].alpha = 6;
  Case with_metadata = all[0];
  with_metadata.name = "diffusers with alpha";
  with_metadata.metadata = {{"lora_adapter_metadata",
                             R"({"transformer.r": 3, "transformer.lora_alpha": 12, "transformer.use_rslora": false})"}};
  with_metadata.alpha = 12;
  all.push_back(with_metadata);
  with_metadata.name = "rank-stabilised";
  with_metadata.metadata = {
      {"lora_adapter_metadata", R"({"transformer.lora_alpha": 12, "transformer.use_rslora": true})"}};
  with_metadata.alpha = 12 * std::sqrt(3.0);
  all.push_back(with_metadata);
  return all;
}

fs::path write(const fs::path& path, const Case& c) {
  nn::TensorMap tensors = {{c.query_a, kA}, {c.query_b, kB}, {c.up_a, kA}, {c.up_b, kUp}};
  tensors.insert(c.more.begin(), c.more.end());
  nn::save_tensors(path, tensors, c.metadata);
  return path;
}

TEST(ReadLoras, EveryLayoutGivesTheSameDeltas) {
  for (const Case& c : cases()) {
    SCOPED_TRACE(c.name);
    ScratchFolder scratch;
    const nn::WeightDeltas deltas = read(write(scratch / "lora.safetensors", c), 0.5);
    ASSERT_EQ(deltas.size(), 2u);
    const nn::WeightDelta& query = deltas.at("blocks.1.attn1.to_q.weight").at(0);
    EXPECT_TRUE(at::equal(query.low_rank.a, kA));
    EXPECT_TRUE(at::equal(query.low_rank.b, kB));
    EXPECT_NEAR(query.low_rank.scale, 0.5 * c.alpha / kRank, 1e-12);
    EXPECT_TRUE(at::equal(deltas.at("blocks.1.ffn.net.0.proj.weight").at(0).low_rank.b, kUp));
  }
}

TEST(ReadLoras, PeftsConfigurationBesideTheFileCounts) {
  ScratchFolder scratch;
  write(scratch / "adapter_model.safetensors", cases()[1]);
  write_raw(scratch / "adapter_config.json",
            R"({"lora_alpha": 9, "alpha_pattern": {"attn1.to_q": 15}, "use_dora": false})");
  const nn::WeightDeltas deltas = read(scratch.path());
  EXPECT_EQ(deltas.at("blocks.1.attn1.to_q.weight").at(0).low_rank.scale, 5);
  EXPECT_EQ(deltas.at("blocks.1.ffn.net.0.proj.weight").at(0).low_rank.scale, 3);
  write_raw(scratch / "adapter_config.json", R"({"use_dora": true})");
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] { read(scratch.path()); }), "a DoRA, which is not supported");
}

TEST(ReadLoras, WholeDifferencesOfWeightsAndBiasesCount) {
  ScratchFolder scratch;
  const at::Tensor bias = random({config().dim()}, 7), norm = random({config().dim()}, 8);
  nn::save_tensors(scratch / "a.safetensors", {{"diffusion_model.blocks.0.cross_attn.k.diff_b", bias},
                                               {"diffusion_model.blocks.0.norm3.diff", norm},
                                               {"transformer.blocks.1.attn1.to_q.lora_A.weight", kA},
                                               {"transformer.blocks.1.attn1.to_q.lora_B.weight", kB},
                                               {"transformer.blocks.1.attn1.to_q.lora_B.bias", bias}});
  const nn::WeightDeltas deltas = read(scratch / "a.safetensors", 2.0);
  EXPECT_TRUE(at::equal(deltas.at("blocks.0.attn2.to_k.bias").at(0).whole, bias));
  EXPECT_TRUE(at::equal(deltas.at("blocks.0.norm2.weight").at(0).whole, norm));
  EXPECT_TRUE(at::equal(deltas.at("blocks.1.attn1.to_q.bias").at(0).whole, bias));
  EXPECT_EQ(deltas.at("blocks.0.norm2.weight").at(0).low_rank.scale, 2);
}

TEST(ReadLoras, ABiasOfLoraBIsScaledWithIt) {
  ScratchFolder scratch;
  const at::Tensor bias = random({config().dim()}, 7);
  Case c = cases()[0];
  c.more = {{"transformer.blocks.1.attn1.to_q.lora_B.bias", bias}};
  c.metadata = {{"lora_adapter_metadata", R"({"transformer.r": 3, "transformer.lora_alpha": 12})"}};
  const nn::WeightDeltas deltas = read(write(scratch / "a.safetensors", c), 0.5);
  const nn::WeightDelta& delta = deltas.at("blocks.1.attn1.to_q.bias").at(0);
  EXPECT_TRUE(at::equal(delta.whole, bias));
  EXPECT_EQ(delta.low_rank.scale, 0.5 * 12 / 3);
}

TEST(ReadLoras, EveryFaultIsNamedAtOnce) {
  ScratchFolder scratch;
  const fs::path file = scratch / "bad.safetensors";
  const int64_t dim = config().dim();
  nn::save_tensors(file, {{"transformer.blocks.0.attn1.to_q.lora_A.weight", kA},
                          {"transformer.blocks.0.attn1.to_k.lora_A.weight", kA},
                          {"transformer.blocks.0.attn1.to_k.lora_B.weight", random({dim, kRank + 1}, 4)},
                          {"transformer.blocks.0.attn1.to_v.lora_A.weight", random({kRank, dim + 1}, 5)},
                          {"transformer.blocks.0.attn1.to_v.lora_B.weight", kB},
                          {"transformer.blocks.99.attn1.to_q.lora_B.weight", kB},
                          {"diffusion_model.blocks.0.cross_attn.k_img.lora_down.weight", kA},
                          {"transformer.blocks.0.ffn.net.0.proj.alpha", at::ones({})},
                          {"transformer.blocks.0.ffn.net.2.alpha", at::ones({2})},
                          {"transformer.blocks.0.ffn.net.2.lora_A.weight", at::ones({kRank})},
                          {"transformer.blocks.0.attn2.to_q.diff_b", at::ones({dim + 1})},
                          {"transformer.blocks.1.attn1.to_q.lora_A.weight", kA},
                          {"diffusion_model.blocks.1.self_attn.q.lora_A.weight", kA},
                          {"transformer.blocks.1.attn1.to_k.lora_B.weight", at::ones({dim, kRank}, at::kInt)},
                          {"something.else", kA}});
  const std::string message = error_of<Error>([&] { read(file); });
  for (const char* part :
       {"bad.safetensors: the LoRA does not fit the transformer",
        "blocks.0.attn1.to_q: half of the adapter is missing, expected lora_A (lora_down) and lora_B (lora_up), found "
        "lora_A alone",
        "blocks.0.attn1.to_k: expected lora_A [rank, ", "blocks.0.attn1.to_v: expected lora_A [rank, ",
        "blocks.99.attn1.to_q.lora_B.weight: unmatched", "k_img.lora_down.weight: unmatched",
        "blocks.0.ffn.net.0.proj: an alpha without lora_A and lora_B", "ffn.net.2.alpha: expected one number",
        "ffn.net.2.lora_A.weight: expected a matrix", "blocks.0.attn2.to_q.bias: expected a difference",
        "a second tensor for the same part of 'blocks.1.attn1.to_q'", "expected floating-point numbers",
        "something.else: unmatched"})
    FPSA_EXPECT_CONTAINS(message, part);
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] { read(scratch / "none.safetensors"); }), "none.safetensors");
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] { read(scratch.path() / "."); }), "found neither");
  nn::save_tensors(scratch / "empty.safetensors", {});
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] { read(scratch / "empty.safetensors"); }), "expected LoRA tensors");
}

TEST(LoadModel, MergesInF32AndRoundsOnce) {
  ScratchFolder scratch;
  testing::write_diffusers_folder(small_model(), scratch / "model");
  write(scratch / "a.safetensors", cases()[0]);
  // A base of ones in BF16 and deltas below half of its last bit: one by one they would vanish.
  const at::Tensor ones = at::ones({4, 4}, at::kBFloat16);
  nn::CheckpointSource stored({{"w", ones}, {"v", ones}}, at::kBFloat16);
  const nn::WeightDelta small{{at::full({1, 4}, 0.001953125), at::ones({4, 1}), 0.5}, {}};
  const nn::WeightDeltas deltas = {{"w", std::vector<nn::WeightDelta>(4, small)}};
  nn::MergingSource source(stored, deltas, at::kBFloat16);
  const at::Tensor merged = source.get({.name = "w", .shape = {4, 4}, .init = {}}),
                   kept = source.get({.name = "v", .shape = {4, 4}, .init = {}});
  EXPECT_EQ(merged.scalar_type(), at::kBFloat16);
  // 1 + 4 * 2^-10 = 1.00390625 is halfway between 1 and 1.0078125; ties go to the even one.
  EXPECT_EQ(merged[0][0].item<double>(), 1.0);
  const nn::WeightDeltas more = {{"w", std::vector<nn::WeightDelta>(5, small)}};
  nn::MergingSource again(stored, more, at::kBFloat16);
  EXPECT_EQ(again.get({.name = "w", .shape = {4, 4}, .init = {}})[0][0].item<double>(), 1.0078125);
  EXPECT_EQ(kept.const_data_ptr(), ones.const_data_ptr()) << "a weight without a delta is the stored one";
  EXPECT_TRUE(at::equal(ones, at::ones({4, 4}, at::kBFloat16))) << "the stored one must not change";

  LoadOptions options;
  options.text_encoder = options.vae = false;
  options.loras = {{scratch / "a.safetensors", 1.0}};
  EXPECT_TRUE(load_model(scratch / "model", options).transformer);
  options.loras.push_back({scratch / "gone.safetensors", 1.0});
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] { load_model(scratch / "model", options); }), "gone.safetensors");
}

}  // namespace
}  // namespace fpsa::models::wan
