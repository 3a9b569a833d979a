#include "fpsa/io/json.h"

#include <gtest/gtest.h>

#include "fpsa/base/check.h"
#include "tests/io/scratch.h"

namespace fpsa::io {
namespace {

using testing::error_of;
using testing::ScratchFolder;
using testing::write_raw;

TEST(Json, ReadsAFile) {
  ScratchFolder scratch;
  EXPECT_EQ(read_json(write_raw(scratch / "a.json", R"({"a":[1,{"b":2}],"c":{"a":3}})"))["c"]["a"], 3);
}

TEST(Json, DuplicateKeysAreErrorsAtAnyDepth) {
  FPSA_EXPECT_CONTAINS(error_of<Error>([] { parse_json(R"({"a":1,"a":2})", "f"); }), "f: key 'a' appears twice");
  FPSA_EXPECT_CONTAINS(error_of<Error>([] { parse_json(R"({"x":[{"b":{"c":1,"c":1}}]})", "f"); }), "'c' appears twice");
  EXPECT_NO_THROW(parse_json(R"({"a":{"k":1},"b":{"k":1}})", "f"));
}

TEST(Json, BadSyntaxNamesTheOrigin) {
  for (const char* text : {"", "{", "{} x", "{\"a\":\"\xff\"}", "{'a':1}"})
    FPSA_EXPECT_CONTAINS(error_of<Error>([&] { parse_json(text, "config.json"); }), "config.json: not valid JSON");
}

TEST(Json, MissingAndOversizeFilesAreErrors) {
  ScratchFolder scratch;
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] { read_json(scratch / "none.json"); }), "no such file");
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] { read_json(scratch.path()); }), "not a regular file");
  write_raw(scratch / "long", "0123456789");
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] { read_text_file(scratch / "long", 9); }), "expected at most 9 bytes");
}

}  // namespace
}  // namespace fpsa::io
