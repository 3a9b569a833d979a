#include "fpsa/models/wan/weight_map.h"

#include <gtest/gtest.h>

#include "fpsa/base/check.h"
#include "fpsa/models/wan/deduce.h"
#include "fpsa/models/wan/dit.h"
#include "fpsa/models/wan/vae.h"
#include "fpsa/nn/parameters.h"
#include "tests/io/scratch.h"
#include "tests/models/wan/small_model.h"

namespace fpsa::models::wan {
namespace {

using testing::error_of;
using testing::small_model;
using testing::SmallModel;

template <class Module, class Config>
std::set<std::string> declared(const Config& config) {
  nn::SpecCollector source;
  Module module(config, nn::Scope(source));
  std::set<std::string> names;
  for (const nn::ParameterSpec& spec : source.specs)
    names.insert(spec.name);
  EXPECT_EQ(names.size(), source.specs.size());
  return names;
}

template <class Rename>
std::set<std::string> mapped(const std::vector<std::string>& originals, Rename rename) {
  std::set<std::string> names;
  for (const std::string& name : originals)
    names.insert(rename(name));
  EXPECT_EQ(names.size(), originals.size()) << "two originals share a name";
  return names;
}

DitConfig config_14b() {
  DitConfig config;
  config.num_attention_heads = 40;
  config.ffn_dim = 13824;
  config.num_layers = 40;
  return config;
}

TEST(WeightNames, OriginalTransformersMapOntoWhatTheModuleDeclares) {
  for (const DitConfig& config : {DitConfig{}, config_14b()})
    EXPECT_EQ(mapped(testing::original_dit_names(config.num_layers), transformer_name), declared<WanDit>(config));
}

TEST(WeightNames, TheOriginalUmt5MapsOntoWhatTheModuleDeclares) {
  const Umt5Config config;
  EXPECT_EQ(mapped(testing::original_text_names(config.num_layers), text_encoder_name), declared<Umt5Encoder>(config));
}

TEST(WeightNames, OriginalVaesMapOntoWhatTheModuleDeclares) {
  VaeConfig three_levels = small_model().vae, deep;
  deep.num_res_blocks = 3;
  deep.temperal_downsample = {true, true, false};
  for (const VaeConfig& config : {VaeConfig{}, three_levels, deep}) {
    const std::vector<std::string> originals = testing::original_vae_names(config);
    const auto places = decoder_places({originals.begin(), originals.end()});
    const auto rename = [&](const std::string& name) { return vae_name(name, places); };
    EXPECT_EQ(mapped(originals, rename), declared<WanVae>(config));
  }
}

TEST(WeightNames, NamesOutsideTheSchemeStayAsTheyAre) {
  for (const char* name : {"blocks.x.modulation", "blocks.0", "blocks.0.self_attn.z.weight", "freqs", "blocks.-"})
    EXPECT_EQ(transformer_name(name), name);
  EXPECT_EQ(text_encoder_name("decoder.blocks.0.norm1.weight"), "decoder.blocks.0.norm1.weight");
  EXPECT_EQ(vae_name("decoder.upsamples.99.residual.0.gamma", {}), "decoder.upsamples.99.residual.0.gamma");
  EXPECT_EQ(vae_name("decoder.upsamples.-1.residual.0.gamma", {}), "decoder.upsamples.-1.residual.0.gamma");
}

TEST(Recognise, EveryPartInEveryNamingIsKnown) {
  const SmallModel model = small_model();
  const auto expect = [](const nn::TensorMap& tensors, Part part, Naming naming, const std::string& prefix) {
    const auto found = recognise(names_of(tensors));
    ASSERT_TRUE(found);
    EXPECT_EQ(found->part, part);
    EXPECT_EQ(found->naming, naming);
    EXPECT_EQ(found->prefix, prefix);
  };
  const std::string prefix = "model.diffusion_model.";
  expect(model.dit_tensors, Part::kTransformer, Naming::kDiffusers, "");
  expect(testing::original_dit(model), Part::kTransformer, Naming::kOriginal, "");
  expect(testing::original_dit(model, prefix), Part::kTransformer, Naming::kOriginal, prefix);
  expect(model.vae_tensors, Part::kVae, Naming::kDiffusers, "");
  expect(testing::original_vae(model), Part::kVae, Naming::kOriginal, "");
  expect(model.text_tensors, Part::kTextEncoder, Naming::kDiffusers, "");
  expect(testing::original_text(model), Part::kTextEncoder, Naming::kOriginal, "");
  EXPECT_FALSE(recognise({"lm_head.weight"}));
  EXPECT_FALSE(recognise({}));
}

TEST(RenamePart, TheWrongPartIsNamed) {
  const SmallModel model = small_model();
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] { rename_part(model.vae_tensors, Part::kTransformer, "f"); }),
                       "expected the transformer of a Wan2.1 model, received the vae");
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] { rename_part({{"w", at::zeros({1})}}, Part::kVae, "f"); }), "such as 'w'");
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] { rename_part({}, Part::kVae, "f"); }), "0 tensors");
}

TEST(RenamePart, ForeignKindsAreRefusedByName) {
  const SmallModel model = small_model();
  const auto with = [&](const std::string& name) {
    nn::TensorMap tensors = testing::original_dit(model, "model.diffusion_model.");
    tensors["model.diffusion_model." + name] = at::zeros({1});
    return error_of<Error>([&] { rename_part(tensors, Part::kTransformer, "f.safetensors"); });
  };
  FPSA_EXPECT_CONTAINS(with("img_emb.proj.0.weight"), "image-to-video (I2V)");
  FPSA_EXPECT_CONTAINS(with("blocks.0.cross_attn.k_img.weight"), "image-to-video (I2V)");
  FPSA_EXPECT_CONTAINS(with("vace_blocks.0.after_proj.bias"), "VACE");
  FPSA_EXPECT_CONTAINS(with("face_adapter.fuser_blocks.0.k_norm.weight"), "Wan2.2-Animate");
  FPSA_EXPECT_CONTAINS(with("casual_audio_encoder.weights"), "Wan2.2-S2V");
  FPSA_EXPECT_CONTAINS(with("blocks.0.self_attn.q.lora_down.weight"), "LoRA");
  FPSA_EXPECT_CONTAINS(with("blocks.0.self_attn.q.comfy_quant"), "mixed quantisation");
  FPSA_EXPECT_CONTAINS(with("blocks.0.self_attn.q.weight.absmax"), "bitsandbytes");

  nn::TensorMap i2v = model.dit_tensors;
  i2v["blocks.0.attn2.add_k_proj.weight"] = at::zeros({1});
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] { rename_part(i2v, Part::kTransformer, "f"); }), "(I2V)");
  nn::TensorMap wan22 = testing::original_vae(model);
  wan22["encoder.downsamples.0.downsamples.0.residual.0.gamma"] = at::zeros({1});
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] { rename_part(wan22, Part::kVae, "f"); }), "VAE of Wan2.2");
}

TEST(RenamePart, ScalesLeaveTheTensorsAndFitTheirWeights) {
  const SmallModel model = small_model();
  nn::TensorMap tensors = testing::original_dit(model, "model.diffusion_model.");
  const std::string q = "model.diffusion_model.blocks.0.self_attn.q.";
  tensors["model.diffusion_model.scaled_fp8"] = at::empty({0}, at::kFloat8_e4m3fn);
  tensors[q + "scale_weight"] = at::tensor({0.5f});
  tensors[q + "scale_input"] = at::tensor({2.0f});
  tensors["model.diffusion_model.blocks.1.ffn.0.scale_weight"] = at::ones({48, 1});
  const PartWeights weights = rename_part(tensors, Part::kTransformer, "f");
  EXPECT_EQ(names_of(weights.tensors), names_of(model.dit_tensors));
  EXPECT_EQ(weights.scales.at("blocks.0.attn1.to_q.weight").dim(), 0);
  EXPECT_EQ(weights.scales.at("blocks.1.ffn.net.0.proj.weight").sizes(), (std::vector<int64_t>{48, 1}));

  tensors[q + "scale_weight"] = at::ones({3});
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] { rename_part(tensors, Part::kTransformer, "f"); }), "one for each of 128");
  tensors[q + "scale_weight"] = at::ones({1}, at::kLong);
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] { rename_part(tensors, Part::kTransformer, "f"); }), "of Long");
  tensors.erase(q + "scale_weight");
  tensors["model.diffusion_model.blocks.9.self_attn.q.scale_weight"] = at::ones({1});
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] { rename_part(tensors, Part::kTransformer, "f"); }), "no such tensor");
}

TEST(RenamePart, TheTiedEmbeddingIsTakenOnce) {
  const SmallModel model = small_model();
  nn::TensorMap both = model.text_tensors, alone = model.text_tensors;
  both[std::string(kUmt5TiedEmbedding)] = both["shared.weight"];
  EXPECT_EQ(names_of(rename_part(both, Part::kTextEncoder, "f").tensors), names_of(model.text_tensors));
  auto node = alone.extract("shared.weight");
  node.key() = kUmt5TiedEmbedding;
  alone.insert(std::move(node));
  EXPECT_EQ(names_of(rename_part(alone, Part::kTextEncoder, "f").tensors), names_of(model.text_tensors));
}

TEST(RenamePart, TwoTensorsForOneNameAreAnError) {
  const SmallModel model = small_model();
  nn::TensorMap tensors = testing::original_dit(model);
  tensors["blocks.0.attn1.to_q.weight"] = at::zeros({1});
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] { rename_part(tensors, Part::kTransformer, "f"); }),
                       "two tensors stand for");
}

TEST(Deduce, EverySizeIsReadFromTheShapes) {
  const SmallModel model = small_model();
  EXPECT_EQ(deduce_dit_config(model.dit_tensors, "f").to_json(), model.dit.to_json());
  EXPECT_EQ(deduce_text_config(model.text_tensors, "f").to_json(), model.text.to_json());
  VaeConfig expected = model.vae;  // no shape shows the statistics of the latents
  expected.latents_mean.clear();
  expected.latents_std.clear();
  EXPECT_EQ(deduce_vae_config(model.vae_tensors, "f").to_json(), expected.to_json());
}

template <class Module, class Config>
nn::TensorMap meta_tensors(const Config& config) {
  nn::SpecCollector source;
  Module module(config, nn::Scope(source));
  nn::TensorMap tensors;
  for (const nn::ParameterSpec& spec : source.specs)
    tensors[spec.name] = at::empty(spec.shape, at::kMeta);
  return tensors;
}

TEST(Deduce, TheRealModelsAreRecognisedByTheirShapes) {
  for (const DitConfig& config : {DitConfig{}, config_14b()})
    EXPECT_EQ(deduce_dit_config(meta_tensors<WanDit>(config), "f").to_json(), config.to_json());
  EXPECT_EQ(deduce_text_config(meta_tensors<Umt5Encoder>(Umt5Config{}), "f").to_json(), Umt5Config{}.to_json());
  const VaeConfig vae = deduce_vae_config(meta_tensors<WanVae>(VaeConfig{}), "f");
  EXPECT_EQ(vae.base_dim, 96);
  EXPECT_EQ(vae.dim_mult, (std::vector<int64_t>{1, 2, 4, 4}));
  EXPECT_EQ(vae.temperal_downsample, (std::vector<bool>{false, true, true}));
  ASSERT_EQ(vae.latents_mean.size(), 16u);  // Wan2.1's published statistics
  EXPECT_NEAR(vae.latents_mean[0], -0.7571, 1e-9);
}

TEST(Deduce, ForeignSizesAndMissingTensorsAreNamed) {
  const SmallModel model = small_model();
  nn::TensorMap tensors = model.dit_tensors;
  tensors["patch_embedding.weight"] = at::empty({128, 36, 1, 2, 2}, at::kMeta);
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] { deduce_dit_config(tensors, "f"); }), "36 channels in and 4 out");
  tensors["patch_embedding.weight"] = at::empty({3072, 48, 1, 2, 2}, at::kMeta);
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] { deduce_dit_config(tensors, "f"); }), "Wan2.2 TI2V-5B");
  tensors["patch_embedding.weight"] = at::empty({100, 4, 1, 2, 2}, at::kMeta);
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] { deduce_dit_config(tensors, "f"); }), "config.json");
  tensors["patch_embedding.weight"] = at::empty({128, 4}, at::kMeta);
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] { deduce_dit_config(tensors, "f"); }), "expected 5 dimensions");
  tensors.erase("patch_embedding.weight");
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] { deduce_dit_config(tensors, "f"); }),
                       "'patch_embedding.weight' is missing");
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] { deduce_vae_config({}, "f"); }), "is missing");
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] { deduce_text_config({}, "f"); }), "is missing");
}

TEST(Deduce, TensorsWithoutElementsAreRefused) {
  const SmallModel model = small_model();
  for (const auto& [name, shape] : std::vector<std::pair<std::string, std::vector<int64_t>>>{
           {"encoder.conv_in.weight", {0, 3, 3, 3, 3}},
           {"encoder.mid_block.resnets.0.conv1.weight", {0, 8, 3, 3, 3}}}) {
    nn::TensorMap tensors = model.vae_tensors;
    tensors[name] = at::empty(shape, at::kMeta);
    FPSA_EXPECT_CONTAINS(error_of<Error>([&] { deduce_vae_config(tensors, "f"); }), "every extent");
  }
  nn::TensorMap tensors = model.dit_tensors;
  tensors["patch_embedding.weight"] = at::empty({128, 4, 1, 0, 2}, at::kMeta);
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] { deduce_dit_config(tensors, "f"); }), "every extent");
  tensors = model.text_tensors;
  tensors["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"] = at::empty({32, 0}, at::kMeta);
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] { deduce_text_config(tensors, "f"); }), "every extent");
}

TEST(Configs, SizesThatNoModelHasAreRefused) {
  const auto dit = [](const nlohmann::json& json) { return error_of<Error>([&] { DitConfig::from_json(json); }); };
  FPSA_EXPECT_CONTAINS(dit({{"num_layers", 1025}}), "num_layers");
  FPSA_EXPECT_CONTAINS(dit({{"patch_size", {1, 65, 2}}}), "patch_size");
  FPSA_EXPECT_CONTAINS(dit({{"num_attention_heads", 1 << 14}}), "attention_head_dim");
  const auto vae = [](const nlohmann::json& json) { return error_of<Error>([&] { VaeConfig::from_json(json); }); };
  FPSA_EXPECT_CONTAINS(vae({{"num_res_blocks", 65}}), "num_res_blocks");
  FPSA_EXPECT_CONTAINS(vae({{"z_dim", int64_t{1} << 40}}), "z_dim");
  FPSA_EXPECT_CONTAINS(vae({{"base_dim", int64_t{1} << 62}}), "base_dim");
  FPSA_EXPECT_CONTAINS(vae({{"dim_mult", {1, 2, 4, 1 << 20}}}), "at most 1048576 channels");
  const auto text = [](const nlohmann::json& json) { return error_of<Error>([&] { Umt5Config::from_json(json); }); };
  FPSA_EXPECT_CONTAINS(text({{"num_layers", 1025}}), "num_layers");
  FPSA_EXPECT_CONTAINS(text({{"num_heads", 1 << 20}}), "num_heads * d_kv");
}

TEST(Deduce, TheOriginalConfigFileIsRead) {
  const nlohmann::json json = nlohmann::json::parse(
      R"({"_class_name":"WanModel","_diffusers_version":"0.30.0","dim":5120,"eps":1e-06,"ffn_dim":13824,"freq_dim":256,
          "in_dim":16,"model_type":"t2v","num_heads":40,"num_layers":40,"out_dim":16,"text_len":512})");
  EXPECT_EQ(dit_config_from_original(json, "f").to_json(), config_14b().to_json());
  const auto with = [&](const char* key, nlohmann::json value) {
    nlohmann::json changed = json;
    changed[key] = std::move(value);
    return error_of<Error>([&] { dit_config_from_original(changed, "config.json"); });
  };
  FPSA_EXPECT_CONTAINS(with("model_type", "i2v"), "I2V");
  FPSA_EXPECT_CONTAINS(with("model_type", "flf2v"), "I2V");
  FPSA_EXPECT_CONTAINS(with("model_type", "vace"), "VACE");
  FPSA_EXPECT_CONTAINS(with("model_type", "ti2v"), "Wan2.2");
  FPSA_EXPECT_CONTAINS(with("in_dim", 36), "36 channels in");
  FPSA_EXPECT_CONTAINS(with("dim", 5121), "multiple of num_heads");
  FPSA_EXPECT_CONTAINS(with("num_layers", -1), "'num_layers'");
  FPSA_EXPECT_CONTAINS(with("num_layers", "40"), "'num_layers'");
  FPSA_EXPECT_CONTAINS(with("window", 3), "unexpected key 'window'");
}

}  // namespace
}  // namespace fpsa::models::wan
