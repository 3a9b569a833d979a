#include "fpsa/nn/tensor_map.h"

#include <gtest/gtest.h>

#include <fstream>

#include "fpsa/base/check.h"
#include "tests/io/scratch.h"

namespace fpsa::nn {
namespace {

using testing::error_of;
using testing::read_raw;
using testing::ScratchFolder;
using testing::write_raw;

const at::ScalarType kAllTypes[] = {at::kBFloat16,      at::kHalf,        at::kFloat, at::kDouble,
                                    at::kFloat8_e4m3fn, at::kFloat8_e5m2, at::kLong,  at::kInt,
                                    at::kShort,         at::kChar,        at::kByte,  at::kBool};

TensorMap one_of_each_type() {
  TensorMap tensors;
  for (const at::ScalarType type : kAllTypes)
    tensors[std::string("t.") + at::toString(type)] = at::arange(-6, 6, at::kFloat).abs().reshape({3, 4}).to(type);
  tensors["scalar"] = at::scalar_tensor(2.5, at::kFloat);
  tensors["empty"] = at::empty({0, 7}, at::kBFloat16);
  return tensors;
}

bool same(const at::Tensor& a, const at::Tensor& b) {
  return a.scalar_type() == b.scalar_type() && a.sizes() == b.sizes() &&
         at::equal(a.contiguous().view(-1).to(at::kDouble), b.contiguous().view(-1).to(at::kDouble));
}

TEST(TensorMap, RoundTripKeepsEveryType) {
  ScratchFolder scratch;
  const TensorMap before = one_of_each_type();
  save_tensors(scratch / "a.safetensors", before, {{"fpsa.schedule", "version = 1"}});
  const LoadedTensors after = load_tensors(scratch / "a.safetensors");
  ASSERT_EQ(after.tensors.size(), before.size());
  for (const auto& [name, tensor] : before)
    EXPECT_TRUE(same(after.tensors.at(name), tensor)) << name;
  EXPECT_EQ(after.metadata.at("fpsa.schedule"), "version = 1");
  EXPECT_EQ(after.metadata.at("format"), "pt");
}

TEST(TensorMap, StridedTensorsAreWrittenInOrder) {
  ScratchFolder scratch;
  const at::Tensor t = at::arange(12, at::kFloat).reshape({3, 4}).t();
  save_tensors(scratch / "a.safetensors", {{"w", t}});
  EXPECT_TRUE(at::equal(load_tensors(scratch / "a.safetensors").tensors.at("w"), t));
}

TEST(TensorMap, TensorsShareTheMappingAndKeepItAlive) {
  ScratchFolder scratch;
  const at::Tensor t = at::randn({64, 64});
  save_tensors(scratch / "a.safetensors", {{"a", t}, {"b", t}});
  at::Tensor a;
  {
    LoadedTensors loaded = load_tensors(scratch / "a.safetensors");
    a = loaded.tensors.at("a");
    const auto distance = static_cast<const char*>(loaded.tensors.at("b").const_data_ptr()) -
                          static_cast<const char*>(a.const_data_ptr());
    EXPECT_EQ(distance, static_cast<ptrdiff_t>(t.nbytes()));  // neighbours in the file: no copy was made
  }
  std::filesystem::remove(scratch / "a.safetensors");
  EXPECT_TRUE(at::equal(a, t));
}

TEST(TensorMap, AMisalignedTensorIsCopied) {
  ScratchFolder scratch;
  const std::string header = R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})";
  ASSERT_NE(header.size() % 4, 0u);
  const uint64_t size = header.size();
  const float value = 3.5f;
  write_raw(scratch / "a.safetensors", std::string(reinterpret_cast<const char*>(&size), 8) + header +
                                           std::string(reinterpret_cast<const char*>(&value), 4));
  const at::Tensor w = load_tensors(scratch / "a.safetensors").tensors.at("w");
  EXPECT_EQ(reinterpret_cast<uintptr_t>(w.const_data_ptr()) % 4, 0u);
  EXPECT_EQ(w.item<float>(), value);
}

class Shards : public ::testing::Test {
 protected:
  void SetUp() override {
    save_tensors(scratch_ / "m-00001-of-00002.safetensors", {{"a", at::full({2}, 1.0)}});
    save_tensors(scratch_ / "m-00002-of-00002.safetensors", {{"b", at::full({2}, 2.0)}, {"c", at::full({2}, 3.0)}});
  }
  void write_index(const std::string& weight_map) {
    write_raw(scratch_ / "m.safetensors.index.json",
              R"({"metadata":{"total_size":24},"weight_map":)" + weight_map + "}");
  }
  std::string load_error() {
    return error_of<Error>([&] { load_tensors(scratch_.path()); });
  }
  ScratchFolder scratch_;
};

TEST_F(Shards, AFolderWithAnIndexIsOneCheckpoint) {
  write_index(R"({"a":"m-00001-of-00002.safetensors","b":"m-00002-of-00002.safetensors",)"
              R"("c":"m-00002-of-00002.safetensors"})");
  for (const auto& path : {scratch_.path(), scratch_ / "m.safetensors.index.json"}) {
    const LoadedTensors loaded = load_tensors(path);
    ASSERT_EQ(loaded.tensors.size(), 3u);
    EXPECT_EQ(loaded.tensors.at("c")[0].item<double>(), 3.0);
  }
  EXPECT_EQ(checkpoint_files(scratch_.path()).size(), 2u);
}

TEST_F(Shards, EveryDisagreementWithTheIndexIsNamed) {
  write_index(R"({"a":"m-00002-of-00002.safetensors","b":"m-00002-of-00002.safetensors",)"
              R"("z":"m-00001-of-00002.safetensors"})");
  const std::string message = load_error();
  FPSA_EXPECT_CONTAINS(message, "'a' is in 'm-00001-of-00002.safetensors', not in 'm-00002-of-00002.safetensors'");
  FPSA_EXPECT_CONTAINS(message, "'z' is not in 'm-00001-of-00002.safetensors' nor in another shard");
  FPSA_EXPECT_CONTAINS(message, "'c' of 'm-00002-of-00002.safetensors' is not in the index");
}

TEST_F(Shards, HostileIndexesAreRefused) {
  const auto with = [&](const std::string& weight_map) {
    write_index(weight_map);
    return load_error();
  };
  FPSA_EXPECT_CONTAINS(with(R"({"a":"../m.safetensors"})"), "without folders");
  FPSA_EXPECT_CONTAINS(with(R"({"a":"/etc/passwd"})"), "without folders");
  FPSA_EXPECT_CONTAINS(with(R"({"a":".."})"), "without folders");
  FPSA_EXPECT_CONTAINS(with(R"({"a":""})"), "without folders");
  FPSA_EXPECT_CONTAINS(with(R"({"a":1})"), "the name of a shard file");
  FPSA_EXPECT_CONTAINS(with(R"({"a":"gone.safetensors"})"), "No such file");
  FPSA_EXPECT_CONTAINS(with(R"({})"), "names no tensor");
  FPSA_EXPECT_CONTAINS(with("[]"), "expected an object");
  FPSA_EXPECT_CONTAINS(with(R"({"a":"m-00001-of-00002.safetensors","a":"m-00001-of-00002.safetensors"})"), "twice");
}

TEST_F(Shards, ATensorInTwoShardsIsAnError) {
  save_tensors(scratch_ / "m-00002-of-00002.safetensors", {{"a", at::full({2}, 2.0)}, {"b", at::full({2}, 2.0)}});
  write_index(R"({"a":"m-00001-of-00002.safetensors","b":"m-00002-of-00002.safetensors"})");
  FPSA_EXPECT_CONTAINS(load_error(), "tensor 'a' is in shard 'm-00001-of-00002.safetensors' too");
}

TEST_F(Shards, MetadataThatDiffersBetweenShardsIsAnError) {
  save_tensors(scratch_ / "m-00001-of-00002.safetensors", {{"a", at::full({2}, 1.0)}}, {{"fpsa.schedule", "1"}});
  save_tensors(scratch_ / "m-00002-of-00002.safetensors", {{"b", at::full({2}, 1.0)}}, {{"fpsa.schedule", "2"}});
  write_index(R"({"a":"m-00001-of-00002.safetensors","b":"m-00002-of-00002.safetensors"})");
  FPSA_EXPECT_CONTAINS(load_error(), "metadata 'fpsa.schedule' differs");
}

TEST_F(Shards, WithoutAnIndexAFolderMustHoldOneFile) {
  const std::string message = load_error();
  FPSA_EXPECT_CONTAINS(message, "found several");
  FPSA_EXPECT_CONTAINS(message, "m-00001-of-00002.safetensors");
  EXPECT_EQ(load_tensors(scratch_.path(), "m-00001").tensors.size(), 1u);
}

TEST(TensorMap, AFolderOfPicklesTellsHowToConvert) {
  ScratchFolder scratch;
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] { load_tensors(scratch.path()); }), "found none");
  write_raw(scratch / "Wan2.1_VAE.pth", "PK");
  const std::string message = error_of<Error>([&] { load_tensors(scratch.path()); });
  FPSA_EXPECT_CONTAINS(message, "Wan2.1_VAE.pth");
  FPSA_EXPECT_CONTAINS(message, "weights_only=True");
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] { load_tensors(scratch / "none"); }), "no such file or folder");
}

TEST(TensorMap, TypesOutsideTheFormatAreRefused) {
  ScratchFolder scratch;
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] {
                         save_tensors(scratch / "a", {{"w", at::zeros({1}, at::kComplexFloat)}});
                       }),
                       "ComplexFloat");
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] { save_tensors(scratch / "a", {{"w", at::Tensor()}}); }), "undefined");
}

}  // namespace
}  // namespace fpsa::nn
