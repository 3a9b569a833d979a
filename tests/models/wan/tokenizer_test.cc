#include "fpsa/models/wan/tokenizer.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "fpsa/base/check.h"

namespace fpsa::models::wan {
namespace {

namespace fs = std::filesystem;
const fs::path kTiny = "models/tiny/tokenizer";

/// A copy of the tiny tokenizer that a test may damage.
class TokenizerFolder : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("fpsa_tokenizer_test_" + std::to_string(getpid()));
    fs::remove_all(folder_);
    fs::copy(kTiny, folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  void write(const std::string& name, const std::string& content) {
    std::ofstream(folder_ / name, std::ios::binary) << content;
  }
  std::string error() {
    try {
      Tokenizer::load(folder_);
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  }
  nlohmann::json fast() { return nlohmann::json::parse(std::ifstream(kTiny / "tokenizer.json")); }

  fs::path folder_;
};

std::string pieces(const Tokenizer& tokenizer, const std::string& text, int64_t max_length = Tokenizer::kMaxLength) {
  std::string out;
  for (int64_t id : tokenizer.encode(text, max_length)) {
    if (!out.empty()) out += ' ';
    out += tokenizer.piece(id);
  }
  return out;
}

TEST(Tokenizer, WordsOfTheGrammarAreOnePieceEach) {
  const Tokenizer t = Tokenizer::load(kTiny);
  EXPECT_EQ(pieces(t, "a red circle moves left"), "▁a ▁red ▁circle ▁moves ▁left </s>");
  EXPECT_EQ(pieces(t, "  An ORANGE\tring\n"), "▁an ▁orange ▁ring </s>");
  EXPECT_EQ(t.pad_id(), 0);
  EXPECT_EQ(t.eos_id(), 1);
  EXPECT_EQ(t.unk_id(), 2);
}

TEST(Tokenizer, EmptyTextIsTheEndOfTextAlone) {
  const Tokenizer t = Tokenizer::load(kTiny);
  EXPECT_EQ(t.encode(""), std::vector<int64_t>{1});
  EXPECT_EQ(t.encode(" \n  "), std::vector<int64_t>{1});
}

TEST(Tokenizer, UnknownTextBecomesBytes) {
  EXPECT_EQ(pieces(Tokenizer::load(kTiny), "雪"), "▁ <0xE9> <0x9B> <0xAA> </s>");
}

TEST(Tokenizer, SpecialTokensInTextKeepTheirIds) {
  const Tokenizer t = Tokenizer::load(kTiny);
  EXPECT_EQ(pieces(t, "red</s>blue <pad>"), "▁red </s> ▁blue <pad> </s>");
}

TEST(Tokenizer, TruncationKeepsTheEndOfText) {
  const Tokenizer t = Tokenizer::load(kTiny);
  EXPECT_EQ(pieces(t, "a red circle", 3), "▁a ▁red </s>");
  EXPECT_EQ(pieces(t, "a red circle", 4), "▁a ▁red ▁circle </s>");
  EXPECT_EQ(pieces(t, "a red circle", 1), "</s>");
  std::string text;
  for (int i = 0; i < 1000; ++i)
    text += "red ";
  const std::vector<int64_t> ids = t.encode(text);
  EXPECT_EQ(ids.size(), 512u);
  EXPECT_EQ(ids.back(), 1);
  EXPECT_THROW(t.encode("a", 0), Error);
}

TEST(Tokenizer, BatchesArePaddedOnTheRight) {
  const Tokenizer t = Tokenizer::load(kTiny);
  const TokenBatch longest = t.encode_batch({"a red circle", ""}, 16, Padding::kLongest);
  EXPECT_EQ(longest.ids.sizes(), (std::vector<int64_t>{2, 4}));
  EXPECT_TRUE(longest.mask.equal(at::tensor({1, 1, 1, 1, 1, 0, 0, 0}, at::kLong).view({2, 4})));
  EXPECT_TRUE(longest.ids[1].equal(at::tensor({1, 0, 0, 0}, at::kLong)));
  EXPECT_EQ(t.encode_batch({"a"}, 16).ids.sizes(), (std::vector<int64_t>{1, 16}));
}

TEST(Tokenizer, RefusesTextThatIsNotUtf8) {
  const Tokenizer t = Tokenizer::load(kTiny);
  EXPECT_THROW(t.encode("a\xff"), Error);
  EXPECT_THROW(t.encode("a\xed\xa0\x80"), Error);
}

TEST_F(TokenizerFolder, WorksWithoutTheFastFile) {
  fs::remove(folder_ / "tokenizer.json");
  EXPECT_EQ(pieces(Tokenizer::load(folder_ / "spiece.model"), "red雪</s>"), "▁red <0xE9> <0x9B> <0xAA> </s> </s>");
}

TEST_F(TokenizerFolder, BytesCanBeSwitchedOff) {
  nlohmann::json json = fast();
  json["model"]["byte_fallback"] = false;
  write("tokenizer.json", json.dump());
  EXPECT_EQ(pieces(Tokenizer::load(folder_), "雪雪 a 雪"), "▁ <unk> ▁a ▁ <unk> </s>");
}

TEST_F(TokenizerFolder, AddedTokensBeyondTheModelCount) {
  nlohmann::json json = fast();
  json["added_tokens"].push_back({{"id", 400}, {"content", "<extra_id_0>"}});
  write("tokenizer.json", json.dump());
  const Tokenizer t = Tokenizer::load(folder_);
  EXPECT_EQ(pieces(t, "red <extra_id_0>"), "▁red <extra_id_0> </s>");
  EXPECT_EQ(t.vocab_size(), 401);
}

TEST_F(TokenizerFolder, RefusesDamagedFiles) {
  write("spiece.model", "");
  EXPECT_NE(error().find("spiece.model"), std::string::npos);
  write("spiece.model", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n");
  EXPECT_NE(error().find("not a sentencepiece model"), std::string::npos);
  std::ifstream whole(kTiny / "spiece.model", std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(whole)), std::istreambuf_iterator<char>());
  for (size_t size : {size_t{1}, bytes.size() / 3, bytes.size() / 2, bytes.size() - 3}) {
    write("spiece.model", bytes.substr(0, size));
    EXPECT_NE(error(), "") << size;
  }
  fs::remove(folder_ / "spiece.model");
  EXPECT_NE(error().find("spiece.model"), std::string::npos);
}

TEST_F(TokenizerFolder, RefusesADifferentFastFile) {
  nlohmann::json json = fast();
  json["model"]["vocab"][300][0] = "other";
  write("tokenizer.json", json.dump());
  EXPECT_NE(error().find("do not belong together"), std::string::npos);
  json = fast();
  json["model"]["type"] = "BPE";
  write("tokenizer.json", json.dump());
  EXPECT_NE(error().find("Unigram"), std::string::npos);
  json = fast();
  json["added_tokens"][0]["single_word"] = true;
  write("tokenizer.json", json.dump());
  EXPECT_NE(error().find("single_word"), std::string::npos);
  json = fast();
  json["added_tokens"][0]["id"] = (int64_t{1} << 31) + 1;
  write("tokenizer.json", json.dump());
  EXPECT_NE(error().find("2^31"), std::string::npos);
  json = fast();
  json["added_tokens"] = "none";
  write("tokenizer.json", json.dump());
  EXPECT_NE(error().find("must be a list"), std::string::npos);
  write("tokenizer.json", "[]");
  EXPECT_NE(error().find("JSON object"), std::string::npos);
  write("tokenizer.json", R"({"model":{},"model":{}})");
  EXPECT_NE(error().find("twice"), std::string::npos);
  write("tokenizer.json", "{");
  EXPECT_NE(error().find("JSON"), std::string::npos);
}

}  // namespace
}  // namespace fpsa::models::wan
