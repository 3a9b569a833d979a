// One small model in every file layout must load as the same tensors.
#include "fpsa/models/wan/model.h"

#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include "fpsa/base/check.h"
#include "fpsa/models/wan/describe.h"
#include "tests/io/scratch.h"
#include "tests/models/wan/small_model.h"

namespace fpsa::models::wan {
namespace {

namespace fs = std::filesystem;
using testing::error_of;
using testing::ScratchFolder;
using testing::SmallModel;
using testing::write_text;

const SmallModel& model_data() {
  static const SmallModel model = testing::small_model();
  return model;
}

std::string original_config() {
  return R"({"_class_name":"WanModel","dim":128,"eps":1e-06,"ffn_dim":48,"freq_dim":16,"in_dim":4,"model_type":"t2v",
    "num_heads":1,"num_layers":2,"out_dim":4,"text_dim":32,"text_len":512})";
}

void write_original_folder(const fs::path& folder) {
  fs::create_directories(folder);
  write_text(folder / "config.json", original_config());
  nn::save_tensors(folder / "diffusion_pytorch_model.safetensors", testing::original_dit(model_data()));
  nn::save_tensors(folder / "Wan2.1_VAE.safetensors", testing::original_vae(model_data()));
  nn::save_tensors(folder / "models_t5_umt5-xxl-enc-bf16.safetensors", testing::original_text(model_data()));
  fs::create_directories(folder / "google");
  fs::copy("models/tiny/tokenizer", folder / "google/umt5-xxl");
}

fs::path write_repackaged(const fs::path& root, const nn::TensorMap& transformer) {
  for (const char* part : {"diffusion_models", "vae", "text_encoders"})
    fs::create_directories(root / part);
  const fs::path file = root / "diffusion_models" / "wan2.1_t2v_small.safetensors";
  nn::save_tensors(file, transformer);
  nn::save_tensors(root / "vae" / "wan_2.1_vae.safetensors", testing::original_vae(model_data()));
  nn::save_tensors(root / "text_encoders" / "umt5.safetensors", model_data().text_tensors);
  fs::copy("models/tiny/tokenizer", root / "tokenizer");
  return file;
}

struct DenseAttention : nn::AttentionMethod {
  at::Tensor self_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const nn::AttentionContext&) override {
    return at::scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2);
  }
};

std::vector<at::Tensor> outputs(const WanModel& model) {
  c10::NoGradGuard guard;
  const auto ramp = [](std::vector<int64_t> shape) {
    return at::arange(c10::multiply_integers(shape), at::kFloat).mul_(0.37).sin_().reshape(shape);
  };
  DenseAttention attention;
  const TokenBatch tokens = model.tokenizer->encode_batch({"a red circle moves left"}, 16);
  nn::DenoiserInput input;
  input.latents = ramp({1, 4, 2, 4, 4});
  input.timestep = at::full({1}, 500.0);
  input.text = model.text_encoder->encode(tokens.ids, tokens.mask);
  return {input.text.to(at::kFloat), model.transformer->predict(input, attention).to(at::kFloat),
          model.vae->encode(ramp({1, 3, 5, 16, 16})), model.vae->decode(ramp({1, 4, 2, 4, 4}))};
}

void expect_same(const WanModel& a, const WanModel& b) {
  const auto left = outputs(a), right = outputs(b);
  for (size_t i = 0; i < left.size(); ++i) {
    EXPECT_TRUE(at::equal(left[i], right[i])) << "output " << i;
    EXPECT_TRUE(at::isfinite(left[i]).all().item<bool>()) << "output " << i;
  }
}

WanModel reference(const ScratchFolder& scratch) {
  testing::write_diffusers_folder(model_data(), scratch / "diffusers");
  return load_model(scratch / "diffusers");
}

TEST(LoadModel, ADiffusersFolderLoadsWithoutCopiesAndBringsItsSettings) {
  ScratchFolder scratch;
  const WanModel model = reference(scratch);
  EXPECT_EQ(model.layout, Layout::kDiffusers);
  EXPECT_EQ(model.metadata.at("fpsa.schedule"), "version = 1");
  ASSERT_EQ(model.parts.size(), 3u);
  for (const LoadedPart& part : model.parts) {
    // F32 is kept for norms and modulation, and is the VAE's dtype; all else is the file's own BF16.
    if (part.part != Part::kVae) {
      EXPECT_LT(part.converted_bytes, part.weight_bytes / 4);
    }
  }
  EXPECT_EQ(model.vae->config().latents_std, model_data().vae.latents_std);
}

TEST(LoadModel, ShardedAndSingleFilesAreTheSame) {
  ScratchFolder scratch;
  const WanModel whole = reference(scratch);
  testing::write_diffusers_folder(model_data(), scratch / "sharded");
  const fs::path folder = scratch / "sharded/transformer";
  fs::remove(folder / "diffusion_pytorch_model.safetensors");
  nn::TensorMap shards[2];
  nlohmann::json weight_map;
  size_t i = 0;
  for (const auto& [name, tensor] : model_data().dit_tensors) {
    weight_map[name] = join("diffusion_pytorch_model-0000", i % 2 + 1, "-of-00002.safetensors");
    shards[i++ % 2][name] = tensor;
  }
  for (size_t s = 0; s < 2; ++s)
    nn::save_tensors(folder / join("diffusion_pytorch_model-0000", s + 1, "-of-00002.safetensors"), shards[s]);
  write_text(folder / "diffusion_pytorch_model.safetensors.index.json",
             nlohmann::json({{"metadata", {{"total_size", 1}}}, {"weight_map", weight_map}}).dump());
  expect_same(whole, load_model(scratch / "sharded"));
}

TEST(LoadModel, TheOriginalFolderIsTheSameModel) {
  ScratchFolder scratch;
  write_original_folder(scratch / "Wan2.1-T2V-small");
  const WanModel model = load_model(scratch / "Wan2.1-T2V-small");
  EXPECT_EQ(model.layout, Layout::kOriginal);
  expect_same(reference(scratch), model);
}

TEST(LoadModel, RepackagedFilesAreTheSameModelFromFolderOrFile) {
  ScratchFolder scratch;
  const fs::path file =
      write_repackaged(scratch / "comfy/split_files", testing::original_dit(model_data(), "model.diffusion_model."));
  const WanModel expected = reference(scratch);
  for (const fs::path& path : {scratch / "comfy", scratch / "comfy/split_files", file}) {
    const WanModel model = load_model(path);
    EXPECT_EQ(model.layout, Layout::kRepackaged);
    expect_same(expected, model);
  }
}

TEST(LoadModel, F8WithScalesIsCodeTimesScale) {
  ScratchFolder scratch;
  // A model whose linear weights are exactly code * scale, once in BF16 and once as codes and scales.
  SmallModel model = model_data();
  nn::TensorMap scales;
  for (auto& [name, tensor] : model.dit_tensors) {
    const bool linear = name.starts_with("blocks.") && tensor.dim() == 2;
    if (!linear) continue;
    const float scale = 0.015625f;
    const at::Tensor codes = (tensor.to(at::kFloat) / scale).to(at::kFloat8_e4m3fn);
    scales[name] = at::full({}, scale);
    tensor = codes.to(at::kFloat).mul(scale).to(at::kBFloat16);
  }
  nn::TensorMap plain = testing::original_dit(model, "model.diffusion_model."), scaled;
  std::map<const void*, std::string> diffusers_name;
  for (const auto& [name, tensor] : model.dit_tensors)
    diffusers_name[tensor.const_data_ptr()] = name;
  for (const auto& [name, tensor] : plain) {
    const auto scale = scales.find(diffusers_name.at(tensor.const_data_ptr()));
    if (scale == scales.end()) {
      scaled[name] = tensor;
      continue;
    }
    scaled[name] = (tensor.to(at::kFloat) / scale->second).to(at::kFloat8_e4m3fn);
    scaled[name.substr(0, name.size() - 6) + "scale_weight"] = scale->second;
  }
  scaled["model.diffusion_model.scaled_fp8"] = at::empty({0}, at::kFloat8_e4m3fn);
  expect_same(load_model(write_repackaged(scratch / "plain", plain)),
              load_model(write_repackaged(scratch / "scaled", scaled)));
}

TEST(LoadModel, ARepackagedTextEncoderBringsItsOwnTokenizer) {
  ScratchFolder scratch;
  const fs::path file = write_repackaged(scratch / "c", testing::original_dit(model_data()));
  const WanModel expected = load_model(file);
  fs::remove_all(scratch / "c/tokenizer");
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] { load_model(file); }), "no tokenizer here");

  const std::string spiece = testing::read_raw("models/tiny/tokenizer/spiece.model");
  nn::TensorMap tensors = model_data().text_tensors;
  tensors["spiece_model"] = at::from_blob(const_cast<char*>(spiece.data()), {static_cast<int64_t>(spiece.size())},
                                          at::TensorOptions().dtype(at::kByte));
  nn::save_tensors(scratch / "c/text_encoders/umt5.safetensors", tensors);
  expect_same(expected, load_model(file));
  tensors["spiece_model"] = at::zeros({9}, at::kByte);
  nn::save_tensors(scratch / "c/text_encoders/umt5.safetensors", tensors);
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] { load_model(file); }), "tensor 'spiece_model'");
}

TEST(LoadModel, PlainF8AndF32FilesLoad) {
  ScratchFolder scratch;
  nn::TensorMap f8 = testing::original_dit(model_data(), "model.diffusion_model."), f32 = f8;
  for (auto& [name, tensor] : f8)
    tensor = tensor.to(at::kFloat8_e4m3fn);
  for (auto& [name, tensor] : f32)
    tensor = tensor.to(at::kFloat8_e4m3fn).to(at::kFloat);
  expect_same(load_model(write_repackaged(scratch / "f8", f8)), load_model(write_repackaged(scratch / "f32", f32)));
}

TEST(LoadModel, PartsMayBeLeftOutOrComeFromElsewhere) {
  ScratchFolder scratch;
  testing::write_diffusers_folder(model_data(), scratch / "a");
  fs::rename(scratch / "a/text_encoder", scratch / "text");
  fs::rename(scratch / "a/vae", scratch / "vae");
  LoadOptions options;
  options.vae = options.text_encoder = false;
  const WanModel alone = load_model(scratch / "a", options);
  EXPECT_TRUE(alone.transformer && !alone.vae && !alone.text_encoder && !alone.tokenizer);
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] { load_model(scratch / "a"); }), "'vae' is missing");

  LoadOptions elsewhere;
  elsewhere.paths.vae = scratch / "vae";
  elsewhere.paths.text_encoder = scratch / "text";
  elsewhere.paths.tokenizer = "models/tiny/tokenizer";
  expect_same(reference(scratch), load_model(scratch / "a", elsewhere));
  elsewhere.paths.vae = scratch / "none";
  const std::string gone = error_of<Error>([&] { load_model(scratch / "a", elsewhere); });
  FPSA_EXPECT_CONTAINS(gone, "--vae: expected the path of the vae");
  FPSA_EXPECT_CONTAINS(gone, "does not exist");
}

TEST(LoadModel, ANamedFileBringsTheConfigBesideItAndNoOther) {
  ScratchFolder scratch;
  // The statistics of 4 latent channels are in the config alone: without it the frames would be others.
  testing::write_diffusers_folder(model_data(), scratch / "a");
  fs::rename(scratch / "a/vae", scratch / "vae");
  LoadOptions options;
  options.paths.vae = scratch / "vae/diffusion_pytorch_model.safetensors";
  EXPECT_EQ(load_model(scratch / "a", options).vae->config().latents_std, model_data().vae.latents_std);
  // The config.json of the original folder is the transformer's.
  write_original_folder(scratch / "wan");
  options.paths.vae = scratch / "wan/Wan2.1_VAE.safetensors";
  EXPECT_TRUE(load_model(scratch / "a", options).vae->config().latents_std.empty());
  options.paths.vae = scratch / "a/transformer";
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] { load_model(scratch / "a", options); }),
                       "expected the vae of a Wan2.1 model, received the transformer");
  options.paths.vae = testing::write_raw(scratch / "vae.pth", "PK\x03\x04, the start of a zip archive");
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] { load_model(scratch / "a", options); }), "weights_only=True");
}

TEST(LoadModel, PicklesAreRefusedWithTheWayToConvertThem) {
  ScratchFolder scratch;
  write_original_folder(scratch / "wan");
  fs::rename(scratch / "wan/Wan2.1_VAE.safetensors", scratch / "vae.safetensors");
  write_text(scratch / "wan/Wan2.1_VAE.pth", "PK\x03\x04");
  const std::string message = error_of<Error>([&] { load_model(scratch / "wan"); });
  FPSA_EXPECT_CONTAINS(message, "Wan2.1_VAE.pth");
  FPSA_EXPECT_CONTAINS(message, "weights_only=True");
  FPSA_EXPECT_CONTAINS(message, "Wan2.1_VAE.safetensors");
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] { load_model(scratch / "wan/Wan2.1_VAE.pth"); }), "weights_only=True");
}

TEST(LoadModel, AnAmbiguousPartNamesTheCandidates) {
  ScratchFolder scratch;
  write_repackaged(scratch / "c", testing::original_dit(model_data()));
  fs::copy(scratch / "c/vae/wan_2.1_vae.safetensors", scratch / "c/vae/other.safetensors");
  write_text(scratch / "c/vae/damaged.safetensors", "not a checkpoint");
  const std::string message = error_of<Error>([&] { load_model(scratch / "c"); });
  FPSA_EXPECT_CONTAINS(message, "wan_2.1_vae.safetensors");
  FPSA_EXPECT_CONTAINS(message, "other.safetensors");
  FPSA_EXPECT_CONTAINS(message, "name the one to use by --vae PATH");
  EXPECT_EQ(message.find("damaged"), std::string::npos);
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] { describe(scratch / "c"); }), "--vae PATH");

  LoadOptions options;
  options.paths.vae = scratch / "c/vae/other.safetensors";
  const WanModel expected = reference(scratch);
  expect_same(expected, load_model(scratch / "c", options));
  EXPECT_EQ(describe(scratch / "c", options.paths).find(Part::kVae)->source, options.paths.vae);

  fs::copy(scratch / "c/text_encoders/umt5.safetensors", scratch / "c/text_encoders/second.safetensors");
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] { load_model(scratch / "c", options); }), "--text-encoder PATH");
  options.paths.text_encoder = scratch / "c/text_encoders/second.safetensors";
  expect_same(expected, load_model(scratch / "c", options));
}

TEST(LoadModel, ADamagedPartIsNamedWhenNothingElseIsFound) {
  ScratchFolder scratch;
  write_repackaged(scratch / "c", testing::original_dit(model_data()));
  const fs::path vae = scratch / "c/vae/wan_2.1_vae.safetensors";
  fs::resize_file(vae, fs::file_size(vae) - 100);
  for (const std::string& message :
       {error_of<Error>([&] { load_model(scratch / "c"); }), error_of<Error>([&] { describe(scratch / "c"); })}) {
    FPSA_EXPECT_CONTAINS(message, "was not found");
    FPSA_EXPECT_CONTAINS(message, vae.string());
  }
}

TEST(LoadModel, EveryTensorFaultIsNamedAtOnce) {
  ScratchFolder scratch;
  testing::write_diffusers_folder(model_data(), scratch / "a");
  nn::TensorMap tensors = model_data().dit_tensors;
  tensors.erase("blocks.0.attn1.to_q.weight");
  tensors.erase("blocks.1.ffn.net.2.bias");
  tensors["blocks.0.norm2.weight"] = at::zeros({7});
  tensors["surplus"] = at::zeros({1});
  nn::save_tensors(scratch / "a/transformer/diffusion_pytorch_model.safetensors", tensors);
  const std::string message = error_of<Error>([&] { load_model(scratch / "a"); });
  for (const char* part : {"missing (2)", "blocks.0.attn1.to_q.weight", "blocks.1.ffn.net.2.bias", "unexpected (1)",
                           "surplus", "blocks.0.norm2.weight: expected [128], received [7]"})
    FPSA_EXPECT_CONTAINS(message, part);
}

TEST(LoadModel, PartsOfDifferentModelsAreRefused) {
  ScratchFolder scratch;
  testing::write_diffusers_folder(model_data(), scratch / "a");
  const auto with_config = [&](const char* file, const char* key, int value) {
    nlohmann::json json = nlohmann::json::parse(testing::read_raw(scratch / "a" / file));
    json[key] = value;
    write_text(scratch / "a" / file, json.dump());
  };
  with_config("text_encoder/config.json", "vocab_size", 3);
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] { load_model(scratch / "a"); }), "shared.weight: expected [3, 32]");
  nn::TensorMap text = model_data().text_tensors;
  text["shared.weight"] = text["shared.weight"].narrow(0, 0, 3);
  nn::save_tensors(scratch / "a/text_encoder/model.safetensors", text);
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] { load_model(scratch / "a"); }), "3 embeddings");
}

TEST(FindModel, ForeignFoldersAreRefusedByName) {
  ScratchFolder scratch;
  const auto index = [&](const std::string& text) {
    write_text(scratch / "d/model_index.json", text);
    return error_of<Error>([&] { load_model(scratch / "d"); });
  };
  FPSA_EXPECT_CONTAINS(index(R"({"_class_name":"WanImageToVideoPipeline"})"), "(I2V)");
  FPSA_EXPECT_CONTAINS(index(R"({"_class_name":"WanVACEPipeline"})"), "VACE");
  FPSA_EXPECT_CONTAINS(index(R"({"_class_name":"WanAnimatePipeline"})"), "Wan2.2");
  FPSA_EXPECT_CONTAINS(index(R"({"_class_name":"FluxPipeline"})"), "received 'FluxPipeline'");
  FPSA_EXPECT_CONTAINS(index(R"({"_class_name":"WanPipeline","transformer_2":["diffusers","WanTransformer3DModel"]})"),
                       "Wan2.2");
  FPSA_EXPECT_CONTAINS(index(R"({"_class_name":"WanPipeline","boundary_ratio":0.875})"), "Wan2.2");
  FPSA_EXPECT_CONTAINS(index(R"({"_class_name":"WanPipeline","expand_timesteps":true})"), "Wan2.2");
  FPSA_EXPECT_CONTAINS(index(R"({"_class_name":"WanPipeline","_class_name":"WanPipeline"})"), "twice");
  FPSA_EXPECT_CONTAINS(index("[]"), "expected a JSON object");

  fs::create_directories(scratch / "w/high_noise_model");
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] { load_model(scratch / "w"); }), "Wan2.2");
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] { load_model(scratch.path()); }), "no Wan model here");
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] { load_model(scratch / "none"); }), "no such file or folder");
  write_text(scratch / "wan2.2_t2v_high_noise_14B.safetensors", "");
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] { load_model(scratch / "wan2.2_t2v_high_noise_14B.safetensors"); }),
                       "Wan2.2");
  testing::write_diffusers_folder(model_data(), scratch / "t");
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] { load_model(scratch / "t/transformer"); }), "the folder above");
}

TEST(Describe, FoldersFilesAndSinglePartsAreDescribedAndChecked) {
  ScratchFolder scratch;
  testing::write_diffusers_folder(model_data(), scratch / "d");
  const Description whole = describe(scratch / "d");
  ASSERT_EQ(whole.parts.size(), 3u);
  EXPECT_EQ(whole.parts[0].tensors, static_cast<int64_t>(model_data().dit_tensors.size()));
  EXPECT_EQ(whole.parts[0].config, model_data().dit.to_json());
  EXPECT_EQ(whole.parts[0].metadata.at("fpsa.schedule"), "version = 1");
  EXPECT_EQ(whole.parts[0].bytes_by_dtype.at("BF16"), 2 * whole.parts[0].weights.parameters);
  EXPECT_EQ(describe(scratch / "d/vae").parts.at(0).part, Part::kVae);
  EXPECT_EQ(describe(scratch / "d/text_encoder/model.safetensors").parts.at(0).config, model_data().text.to_json());
  for (const char* part : {"diffusers folder", "diffusers' names", "2 layers, 1 heads of 128",
                           "4 latent channels, 2x4x4", "metadata fpsa.schedule: version = 1"})
    FPSA_EXPECT_CONTAINS(text_of(whole), part);

  const fs::path file = write_repackaged(scratch / "c", testing::original_dit(model_data(), "model.diffusion_model."));
  FPSA_EXPECT_CONTAINS(text_of(describe(file)), "the original's names behind 'model.diffusion_model.'");
  fs::remove_all(scratch / "c/vae");
  const Description partial = describe(scratch / "c");
  EXPECT_EQ(partial.parts.size(), 2u);
  ASSERT_EQ(partial.absent.size(), 1u);
  FPSA_EXPECT_CONTAINS(text_of(partial), "absent: the vae");
}

TEST(Describe, FaultsAreNamedAsWhenLoading) {
  ScratchFolder scratch;
  nn::TensorMap tensors = model_data().dit_tensors;
  tensors["blocks.0.norm2.weight"] = at::zeros({7});
  tensors.erase("proj_out.bias");
  tensors["surplus"] = at::zeros({1});
  nn::save_tensors(scratch / "t.safetensors", tensors);
  const std::string message = error_of<Error>([&] { describe(scratch / "t.safetensors"); });
  for (const char* part : {"proj_out.bias", "surplus", "blocks.0.norm2.weight: expected [128], received [7]"})
    FPSA_EXPECT_CONTAINS(message, part);
  nn::save_tensors(scratch / "o.safetensors", {{"w", at::zeros({1})}});
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] { describe(scratch / "o.safetensors"); }), "not a part of a Wan2.1 model");
  nn::save_tensors(scratch / "v.safetensors", {{"vace_blocks.0.after_proj.bias", at::zeros({1})}});
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] { describe(scratch / "v.safetensors"); }), "VACE");
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] { describe(scratch / "none"); }), "no such file or folder");
}

TEST(Describe, PartsThatDoNotFitOrCannotBeReadAreRefused) {
  ScratchFolder scratch;
  const auto fresh = [&] {
    fs::remove_all(scratch / "d");
    testing::write_diffusers_folder(model_data(), scratch / "d");
  };
  const auto error = [&](const char* path) { return error_of<Error>([&] { describe(scratch / path); }); };

  fresh();
  nn::TensorMap tensors = model_data().vae_tensors;
  tensors["quant_conv.bias"] = at::zeros({3}, at::kBFloat16);
  nn::save_tensors(scratch / "d/vae/diffusion_pytorch_model.safetensors", tensors);
  for (const char* path : {"d", "d/vae", "d/vae/diffusion_pytorch_model.safetensors"})
    FPSA_EXPECT_CONTAINS(error(path), "quant_conv.bias: expected [8], received [3]");
  tensors["quant_conv.bias"] = at::zeros({8}, at::kInt);
  nn::save_tensors(scratch / "d/vae/diffusion_pytorch_model.safetensors", tensors);
  FPSA_EXPECT_CONTAINS(error("d/vae"), "quant_conv.bias: expected a floating-point tensor");

  fresh();
  write_text(scratch / "d/vae/config.json", R"({"_class_name":"AutoencoderKLWan","z_dim":4,"z_dim":4})");
  for (const char* path : {"d", "d/vae", "d/vae/diffusion_pytorch_model.safetensors"})
    FPSA_EXPECT_CONTAINS(error(path), "key 'z_dim' appears twice");

  fresh();
  const fs::path file = scratch / "d/transformer/diffusion_pytorch_model.safetensors";
  fs::resize_file(file, fs::file_size(file) - 1);
  for (const char* path : {"d", "d/transformer", "d/transformer/diffusion_pytorch_model.safetensors"})
    FPSA_EXPECT_CONTAINS(error(path), file.filename().string());

  fresh();
  nlohmann::json json = model_data().dit.to_json();
  json["text_dim"] = 16;
  write_text(scratch / "d/transformer/config.json", json.dump());
  tensors = model_data().dit_tensors;
  auto& first = tensors["condition_embedder.text_embedder.linear_1.weight"];
  first = first.narrow(1, 0, 16).contiguous();
  nn::save_tensors(file, tensors);
  FPSA_EXPECT_CONTAINS(error("d"), "text states of width 16");

  fresh();
  PartPaths named;
  named.vae = scratch / "d/vae";
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] { describe(scratch / "d/vae", named); }), "vae alone");
  write_text(scratch / "d/tokenizer/spiece.model", "not a tokenizer");
  FPSA_EXPECT_CONTAINS(error("d"), "spiece.model");
  fs::remove_all(scratch / "d/tokenizer");
  FPSA_EXPECT_CONTAINS(text_of(describe(scratch / "d")), "no tokenizer here");
}

TEST(Describe, WeightsAreCountedAsLoadingWillMakeThem) {
  ScratchFolder scratch;
  nn::TensorMap tensors = testing::original_dit(model_data());
  const std::string scaled = "blocks.0.ffn.0.weight";
  for (auto& [name, tensor] : tensors)
    tensor = tensor.to(at::kFloat8_e4m3fn);
  const int64_t scaled_elements = tensors[scaled].numel();
  tensors["blocks.0.ffn.0.scale_weight"] = at::full({}, 0.5f);
  const fs::path file = write_repackaged(scratch / "c", tensors);
  const WeightCount count = describe(file).parts.at(0).weights;
  EXPECT_EQ(count.loading_bytes(), 4 * scaled_elements);

  // F8 grows: the estimate is what the loaded module really holds, in either dtype.
  for (const at::ScalarType dtype : {at::kBFloat16, at::kFloat}) {
    LoadOptions options;
    options.dtype = dtype;
    options.vae = options.text_encoder = false;
    EXPECT_EQ(count.loaded_bytes(static_cast<int64_t>(c10::elementSize(dtype))),
              load_model(file, options).parts.at(0).converted_bytes);
  }
  EXPECT_GT(count.kept_f32, 0);
}

}  // namespace
}  // namespace fpsa::models::wan
