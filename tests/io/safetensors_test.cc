// Every guarantee of the safetensors format has a file that breaks it here.
#include "fpsa/io/safetensors.h"

#include <gtest/gtest.h>

#include <cstring>

#include "fpsa/base/check.h"
#include "tests/io/scratch.h"

namespace fpsa::io {
namespace {

using testing::count_files;
using testing::error_of;
using testing::read_raw;
using testing::ScratchFolder;
using testing::write_raw;

std::string prefixed(std::string header, std::string_view data) {
  const uint64_t size = header.size();
  std::string file(reinterpret_cast<const char*>(&size), sizeof size);
  return file + header + std::string(data);
}

std::span<const std::byte> bytes_of(const std::vector<float>& values) {
  return std::as_bytes(std::span(values));
}

TEST(SafetensorsRead, AcceptsTensorsInAnyHeaderOrderAndTrailingSpaces) {
  ScratchFolder scratch;
  const auto path =
      write_raw(scratch / "a.safetensors", prefixed(R"({"b":{"dtype":"U8","shape":[3],"data_offsets":[4,7]},)"
                                                    R"("__metadata__":{"format":"pt","k":"v"},)"
                                                    R"("a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},)"
                                                    R"("e":{"data_offsets":[7,7],"shape":[0,5],"dtype":"F8_E4M3"}}   )",
                                                    "ABCDxyz"));
  const SafetensorsFile file = SafetensorsFile::open(path);
  ASSERT_EQ(file.entries().size(), 3u);
  EXPECT_EQ(file.entries()[0].name, "a");
  EXPECT_TRUE(file.entries()[0].shape.empty());
  EXPECT_EQ(file.entries()[1].name, "b");
  EXPECT_EQ(std::memcmp(file.bytes(file.entries()[1]).data(), "xyz", 3), 0);
  EXPECT_EQ(file.entries()[2].size_bytes(), 0u);
  EXPECT_EQ(file.metadata().at("k"), "v");
}

TEST(SafetensorsRead, AHeaderLengthThatLooksLikeAPickleIsAccepted) {
  ScratchFolder scratch;
  std::string header = "{}";
  header.resize(0x0280, ' ');  // stored as 80 02 00 ..., the first bytes of a protocol-2 pickle
  const SafetensorsFile file = SafetensorsFile::open(write_raw(scratch / "a.safetensors", prefixed(header, "")));
  EXPECT_TRUE(file.entries().empty());
}

struct HostileFile {
  const char* name;
  std::string content;
  const char* complaint;
};

std::string one_tensor(const char* fields, std::string_view data) {
  return prefixed(std::string(R"({"w":{)") + fields + "}}", data);
}

std::string with_length(uint64_t length, std::string_view rest) {
  return std::string(reinterpret_cast<const char*>(&length), sizeof length) + std::string(rest);
}

std::vector<HostileFile> hostile_files() {
  const std::string valid = one_tensor(R"("dtype":"F32","shape":[2],"data_offsets":[0,8])", "12345678");
  return {
      {"empty", "", "expected at least 8 bytes"},
      {"seven_bytes", "\1\0\0\0\0\0\0", "expected at least 8 bytes"},
      {"header_length_zero", with_length(0, "{}"), "starts with '{'"},
      {"header_over_100_MB", with_length(100'000'001, "{}"), "expected a header of at most 100000000 bytes"},
      {"header_length_wraps", with_length(~0ull, "{}"), "expected a header of at most"},
      {"header_beyond_the_file", with_length(3, "{}"), "expected a header of 3 bytes, received 2"},
      {"header_is_an_array", prefixed("[]", ""), "starts with '{'"},
      {"header_starts_with_space", prefixed(" {}", ""), "starts with '{'"},
      {"header_is_cut_json", prefixed(R"({"w":{"dtype":)", ""), "not valid JSON"},
      {"header_has_a_second_value", prefixed("{}{}", ""), "not valid JSON"},
      {"header_is_not_utf8", prefixed("{\"\xff\":{}}", ""), "not valid JSON"},
      {"pickle", std::string("\x80\x02}q\x01X\x05\x00\x00\x00weightq", 17), "weights_only=True"},
      {"zip_archive", std::string("PK\x03\x04\x00\x00\x08\x08\x00\x00", 10), "weights_only=True"},
      {"duplicate_tensor",
       prefixed(R"({"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                R"("w":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
                "ab"),
       "tensor name 'w' appears twice"},
      {"duplicate_field", one_tensor(R"("dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1])", "a"),
       "field 'dtype' appears twice"},
      {"duplicate_metadata", prefixed(R"({"__metadata__":{"a":"1","a":"2"}})", ""), "'a' appears twice"},
      {"duplicate_metadata_object", prefixed(R"({"__metadata__":{},"__metadata__":{}})", ""), "appears twice"},
      {"metadata_number", prefixed(R"({"__metadata__":{"a":1}})", ""), "expected a string"},
      {"metadata_null", prefixed(R"({"__metadata__":{"a":null}})", ""), "expected a string"},
      {"metadata_object", prefixed(R"({"__metadata__":{"a":{}}})", ""), "expected a string"},
      {"metadata_is_a_string", prefixed(R"({"__metadata__":"a"})", ""), "expected a JSON object"},
      {"tensor_is_a_number", prefixed(R"({"w":3})", ""), "'w': expected a JSON object"},
      {"tensor_is_an_array", prefixed(R"({"w":[]})", ""), "'w': expected a JSON object"},
      {"unknown_dtype", one_tensor(R"("dtype":"F7","shape":[1],"data_offsets":[0,1])", "a"), "received 'F7'"},
      {"dtype_is_a_number", one_tensor(R"("dtype":7,"shape":[1],"data_offsets":[0,1])", "a"), "field 'dtype'"},
      {"dtype_missing", one_tensor(R"("shape":[1],"data_offsets":[0,1])", "a"), "field 'dtype' is missing"},
      {"shape_missing", one_tensor(R"("dtype":"U8","data_offsets":[0,1])", "a"), "field 'shape' is missing"},
      {"offsets_missing", one_tensor(R"("dtype":"U8","shape":[1])", "a"), "field 'data_offsets' is missing"},
      {"unknown_field", one_tensor(R"("dtype":"U8","shape":[1],"data_offsets":[0,1],"x":1)", "a"), "received 'x'"},
      {"shape_is_a_string", one_tensor(R"("dtype":"U8","shape":"1","data_offsets":[0,1])", "a"), "field 'shape'"},
      {"shape_negative", one_tensor(R"("dtype":"U8","shape":[-1],"data_offsets":[0,1])", "a"),
       "received the number -1"},
      {"shape_fraction", one_tensor(R"("dtype":"U8","shape":[1.0],"data_offsets":[0,1])", "a"), "the number 1.0"},
      {"shape_nested", one_tensor(R"("dtype":"U8","shape":[[1]],"data_offsets":[0,1])", "a"), "received an array"},
      {"shape_over_int64", one_tensor(R"("dtype":"U8","shape":[9223372036854775808],"data_offsets":[0,1])", "a"),
       "9223372036854775808"},
      {"shape_product_overflows",
       one_tensor(R"("dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0])", ""), "overflows"},
      {"shape_product_wraps_to_size",
       one_tensor(R"("dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0])", ""), "overflows"},
      {"one_offset", one_tensor(R"("dtype":"U8","shape":[1],"data_offsets":[0])", "a"), "two data_offsets"},
      {"three_offsets", one_tensor(R"("dtype":"U8","shape":[1],"data_offsets":[0,1,2])", "a"), "two integers"},
      {"offset_negative", one_tensor(R"("dtype":"U8","shape":[1],"data_offsets":[-1,0])", "a"), "two integers"},
      {"offset_over_uint64", one_tensor(R"("dtype":"U8","shape":[1],"data_offsets":[0,18446744073709551616])", "a"),
       "two integers"},
      {"offsets_reversed", one_tensor(R"("dtype":"U8","shape":[1],"data_offsets":[1,0])", "a"), "begin <= end"},
      {"size_too_small", one_tensor(R"("dtype":"F32","shape":[2],"data_offsets":[0,4])", "1234"), "expected 8 bytes"},
      {"size_too_large", one_tensor(R"("dtype":"U8","shape":[2],"data_offsets":[0,4])", "1234"), "expected 2 bytes"},
      {"first_byte_unused", one_tensor(R"("dtype":"U8","shape":[1],"data_offsets":[1,2])", "ab"), "hole"},
      {"hole",
       prefixed(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                R"("b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}})",
                "abc"),
       "tensor 'b': expected its bytes at offset 1, received 2 (there is a hole"},
      {"overlap",
       prefixed(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
                R"("b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})",
                "abc"),
       "overlaps another tensor"},
      {"same_bytes_twice",
       prefixed(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
                R"("b":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})",
                "ab"),
       "overlaps another tensor"},
      {"data_truncated", valid.substr(0, valid.size() - 1), "the file is truncated"},
      {"data_absent", valid.substr(0, valid.size() - 8), "the file is truncated"},
      {"data_too_long", valid + "9", "expected the file to end with its last tensor"},
      {"bytes_without_tensors", prefixed("{}", "a"), "expected the file to end with its last tensor"},
  };
}

TEST(SafetensorsRead, EveryViolationOfTheFormatIsNamed) {
  ScratchFolder scratch;
  for (const HostileFile& hostile : hostile_files()) {
    SCOPED_TRACE(hostile.name);
    const auto path = write_raw(scratch / (std::string(hostile.name) + ".safetensors"), hostile.content);
    const std::string message = error_of<Error>([&] { SafetensorsFile::open(path); });
    FPSA_EXPECT_CONTAINS(message, hostile.complaint);
    FPSA_EXPECT_CONTAINS(message, path.string());
  }
}

TEST(SafetensorsRead, EveryTruncationOfAValidFileIsAnError) {
  ScratchFolder scratch;
  const std::vector<float> values = {1, 2, 3};
  write_safetensors(scratch / "whole.safetensors", {{"w", Dtype::kF32, {3}, bytes_of(values)}});
  const std::string whole = read_raw(scratch / "whole.safetensors");
  for (size_t size = 0; size < whole.size(); ++size)
    EXPECT_THROW(SafetensorsFile::open(write_raw(scratch / "cut.safetensors", whole.substr(0, size))), Error) << size;
}

TEST(SafetensorsRead, DeepNestingDoesNotExhaustTheStack) {
  ScratchFolder scratch;
  const std::string nest = "{\"w\":" + std::string(5'000'000, '[');
  EXPECT_THROW(SafetensorsFile::open(write_raw(scratch / "deep.safetensors", prefixed(nest, ""))), Error);
}

TEST(SafetensorsRead, RefusesWhatIsNoRegularFile) {
  ScratchFolder scratch;
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] { SafetensorsFile::open(scratch.path()); }), "expected a regular file");
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] { SafetensorsFile::open(scratch / "none"); }), "No such file");
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] { SafetensorsFile::open("/dev/zero"); }), "expected a regular file");
}

TEST(SafetensorsRead, TheMappingOutlivesTheFileObjectAndTheFileName) {
  ScratchFolder scratch;
  const std::vector<float> values = {1.5f, -2.0f};
  write_safetensors(scratch / "a.safetensors", {{"w", Dtype::kF32, {2}, bytes_of(values)}});
  std::shared_ptr<const std::byte> owner;
  std::span<const std::byte> bytes;
  {
    const SafetensorsFile file = SafetensorsFile::open(scratch / "a.safetensors");
    owner = file.mapping();
    bytes = file.bytes(file.entries()[0]);
  }
  std::filesystem::remove(scratch / "a.safetensors");
  EXPECT_EQ(std::memcmp(bytes.data(), values.data(), bytes.size()), 0);
}

TEST(SafetensorsWrite, RoundTripKeepsBytesShapesAndMetadata) {
  ScratchFolder scratch;
  const std::vector<float> wide = {1, 2, 3, 4, 5, 6};
  const std::vector<uint8_t> narrow = {7, 8, 9};
  const Metadata metadata = {{"fpsa.schedule", "version = 1\n\"quoted\" \xE4\xBD\xA0"}};
  write_safetensors(scratch / "a.safetensors",
                    {{"z.narrow", Dtype::kF8E4m3, {3}, std::as_bytes(std::span(narrow))},
                     {"b.wide", Dtype::kF32, {2, 3}, bytes_of(wide)},
                     {"empty", Dtype::kBf16, {0, 4}, {}}},
                    metadata);
  const SafetensorsFile file = SafetensorsFile::open(scratch / "a.safetensors");
  ASSERT_EQ(file.entries().size(), 3u);
  for (const TensorEntry& entry : file.entries()) {
    const auto address = reinterpret_cast<uintptr_t>(file.bytes(entry).data());
    EXPECT_EQ(address % size_bytes(entry.dtype), 0u) << entry.name;
    if (entry.name == "b.wide") {
      EXPECT_EQ(entry.shape, (std::vector<int64_t>{2, 3}));
      EXPECT_EQ(std::memcmp(file.bytes(entry).data(), wide.data(), entry.size_bytes()), 0);
    }
    if (entry.name == "z.narrow") {
      EXPECT_EQ(std::memcmp(file.bytes(entry).data(), narrow.data(), entry.size_bytes()), 0);
    }
  }
  EXPECT_EQ(file.metadata().at("format"), "pt");
  EXPECT_EQ(file.metadata().at("fpsa.schedule"), metadata.at("fpsa.schedule"));
  EXPECT_EQ(count_files(scratch.path()), 1u);
}

TEST(SafetensorsWrite, SameInputGivesSameBytesInAnyOrder) {
  ScratchFolder scratch;
  const std::vector<float> a = {1}, b = {2};
  const TensorView first{"a", Dtype::kF32, {1}, bytes_of(a)}, second{"b", Dtype::kF32, {1}, bytes_of(b)};
  write_safetensors(scratch / "1", {first, second});
  write_safetensors(scratch / "2", {second, first});
  EXPECT_EQ(read_raw(scratch / "1"), read_raw(scratch / "2"));
}

TEST(SafetensorsWrite, BadTensorsAreRefusedAndLeaveNoFile) {
  ScratchFolder scratch;
  const std::vector<float> one = {1};
  const TensorView good{"w", Dtype::kF32, {1}, bytes_of(one)};
  const auto attempt = [&](std::vector<TensorView> tensors, Metadata metadata = {}) {
    return error_of<Error>([&] { write_safetensors(scratch / "a", tensors, metadata); });
  };
  FPSA_EXPECT_CONTAINS(attempt({good, good}), "'w' is given twice");
  FPSA_EXPECT_CONTAINS(attempt({{"w", Dtype::kF32, {2}, bytes_of(one)}}), "expected 8 bytes");
  FPSA_EXPECT_CONTAINS(attempt({{"w", Dtype::kF32, {-1}, bytes_of(one)}}), "negative extent");
  FPSA_EXPECT_CONTAINS(attempt({{"__metadata__", Dtype::kF32, {1}, bytes_of(one)}}), "not a tensor name");
  FPSA_EXPECT_CONTAINS(attempt({{"\xff", Dtype::kF32, {1}, bytes_of(one)}}), "not UTF-8");
  FPSA_EXPECT_CONTAINS(attempt({good}, {{"k", "\xff"}}), "not UTF-8");
  EXPECT_EQ(count_files(scratch.path()), 0u);
}

TEST(SafetensorsWrite, AFullDiskIsNamedAndTheOlderFileSurvives) {
  ScratchFolder scratch;
  const std::vector<float> small = {1};
  const std::vector<float> large(1 << 18, 2.0f);
  write_safetensors(scratch / "a.safetensors", {{"w", Dtype::kF32, {1}, bytes_of(small)}});
  const std::string before = read_raw(scratch / "a.safetensors");

  const std::string message = [&] {
    const testing::FileSizeLimit limit(1 << 16);
    return error_of<Error>([&] {
      write_safetensors(scratch / "a.safetensors", {{"w", Dtype::kF32, {1 << 18}, bytes_of(large)}});
    });
  }();
  FPSA_EXPECT_CONTAINS(message, "a.safetensors");
  FPSA_EXPECT_CONTAINS(message, "too large");
  EXPECT_EQ(read_raw(scratch / "a.safetensors"), before);
  EXPECT_EQ(count_files(scratch.path()), 1u);

  const std::string full = error_of<Error>([&] {
    write_safetensors("/dev/full", {{"w", Dtype::kF32, {1 << 18}, bytes_of(large)}});
  });
  FPSA_EXPECT_CONTAINS(full, "No space left on device");
  FPSA_EXPECT_CONTAINS(full, "free some space");
}

}  // namespace
}  // namespace fpsa::io
