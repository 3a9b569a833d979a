#include "fpsa/train/data_manifest.h"

#include <gtest/gtest.h>

#include "fpsa/base/check.h"
#include "fpsa/train/recipe.h"
#include "tests/io/scratch.h"

namespace fpsa::train {
namespace {

using testing::error_of;
using testing::ScratchFolder;
using testing::write_raw;
using Fields = std::vector<std::string>;

std::vector<Fields> rows_of(std::string_view text) {
  std::vector<Fields> out;
  for (const CsvRecord& record : parse_csv(text, "a.csv"))
    out.push_back(record.fields);
  return out;
}

std::string csv_error(std::string_view text) {
  return error_of<Error>([&] { parse_csv(text, "a.csv"); });
}

std::string list_error(const std::string& name, const std::string& text) {
  ScratchFolder scratch;
  const auto list = write_raw(scratch / name, text);
  return error_of<Error>([&] { read_manifest(scratch.path(), list); });
}

TEST(Csv, FollowsRfc4180) {
  EXPECT_EQ(rows_of("a,b\r\n1,2\r\n"), (std::vector<Fields>{{"a", "b"}, {"1", "2"}}));
  EXPECT_EQ(rows_of("a,b\n1,2"), (std::vector<Fields>{{"a", "b"}, {"1", "2"}}));
  EXPECT_EQ(rows_of("\"a,b\",\"say \"\"hi\"\"\"\n"), (std::vector<Fields>{{"a,b", "say \"hi\""}}));
  EXPECT_EQ(rows_of("\"two\r\nlines\",x\r\n,\n"), (std::vector<Fields>{{"two\r\nlines", "x"}, {"", ""}}));
  EXPECT_EQ(rows_of("\"\",1\n"), (std::vector<Fields>{{"", "1"}}));
  EXPECT_EQ(rows_of("\n\na\n\n"), (std::vector<Fields>{{"a"}}));
  EXPECT_TRUE(rows_of("").empty());
  const auto records = parse_csv("h\n\"one\ntwo\"\nlast\n", "a.csv");
  EXPECT_EQ(records[1].line, 2);
  EXPECT_EQ(records[2].line, 4);
}

TEST(Csv, BadQuotingIsNamedWithItsLine) {
  FPSA_EXPECT_CONTAINS(csv_error("a,b\n1,\"open\n2,3\n"), "a.csv:2: a quote is opened and never closed");
  FPSA_EXPECT_CONTAINS(csv_error("a\nit\"s\n"), "a.csv:2: a quote inside an unquoted field");
  FPSA_EXPECT_CONTAINS(csv_error("\"a\"b,c\n"), "behind a closing quote, received 'b'");
}

TEST(Manifest, ReadsJsonLinesAndCsvAlike) {
  ScratchFolder scratch;
  const auto lines = write_raw(scratch / "a.jsonl",
                               "\xEF\xBB\xBF{\"file\": \"a.mp4\", \"caption\": \"one, \\\"two\\\"\", \"fps\": 3}\r\n\n"
                               "{\"file\": \"b/c.mov\", \"caption\": \"\xE7\x8C\xAB\"}");
  const auto table =
      write_raw(scratch / "a.csv", "id,caption,file\n1,\"one, \"\"two\"\"\",a.mp4\n2,\xE7\x8C\xAB,b/c.mov\n");
  write_raw(scratch / "b/c.mov", "");
  write_raw(scratch / "b/forgotten.MP4", "");
  write_raw(scratch / "b/notes.txt", "");
  for (const auto& list : {lines, table}) {
    const Manifest manifest = read_manifest(scratch.path(), list);
    ASSERT_EQ(manifest.videos.size(), 2u) << list;
    EXPECT_EQ(manifest.videos[0].file, "a.mp4");
    EXPECT_EQ(manifest.videos[0].caption, "one, \"two\"");
    EXPECT_EQ(manifest.videos[1].file, "b/c.mov");
    EXPECT_EQ(manifest.videos[1].caption, "\xE7\x8C\xAB");
    EXPECT_EQ(manifest.uncaptioned, std::vector<std::string>{"b/forgotten.MP4"});
  }
}

TEST(Manifest, FindsTheListInTheFolder) {
  ScratchFolder scratch;
  const auto message = [&] { return error_of<Error>([&] { read_manifest(scratch.path()); }); };
  FPSA_EXPECT_CONTAINS(message(), "expected captions.jsonl or captions.csv");
  write_raw(scratch / "captions.csv", "file,caption\na.mp4,a cat\n");
  EXPECT_EQ(read_manifest(scratch.path()).videos.size(), 1u);
  write_raw(scratch / "captions.jsonl", "");
  FPSA_EXPECT_CONTAINS(message(), "found both");
}

TEST(Manifest, BadListsAreNamedWithTheirLine) {
  const std::string good = "{\"file\": \"a.mp4\", \"caption\": \"x\"}\n";
  FPSA_EXPECT_CONTAINS(list_error("a.jsonl", good + "{\"file\": \"b.mp4\"}\n"),
                       "a.jsonl:2: expected a text under \"caption\", received no such key");
  FPSA_EXPECT_CONTAINS(list_error("a.jsonl", good + "{\"file\": \"b.mp4\", \"caption\": 3}\n"), "received number");
  FPSA_EXPECT_CONTAINS(list_error("a.jsonl", good + "{\"file\": \"b.mp4\", \"caption\": \" \"}\n"),
                       "'b.mp4': expected a caption, received an empty one");
  FPSA_EXPECT_CONTAINS(list_error("a.jsonl", good + "{\"file\": \"./a.mp4\", \"caption\": \"y\"}\n"),
                       "a.jsonl:2: './a.mp4' is listed twice, first in line 1");
  FPSA_EXPECT_CONTAINS(list_error("a.jsonl", good + "[1]\n"), "received array");
  FPSA_EXPECT_CONTAINS(list_error("a.jsonl", good + "{\"file\"\n"), "a.jsonl:2");
  FPSA_EXPECT_CONTAINS(list_error("a.jsonl", "\n"), "expected at least one video");
  FPSA_EXPECT_CONTAINS(list_error("a.csv", ""), "found an empty file");
  FPSA_EXPECT_CONTAINS(list_error("a.csv", "file,text\na.mp4,x\n"), "expected one column 'caption'");
  FPSA_EXPECT_CONTAINS(list_error("a.csv", "file,file,caption\n"),
                       "expected one column 'file' in the header, received 2");
  FPSA_EXPECT_CONTAINS(list_error("a.csv", "file,caption\na.mp4,one, two\n"), "a.csv:2: expected 2 fields");
  FPSA_EXPECT_CONTAINS(list_error("a.csv", "file,caption\na.mp4,\n"), "expected a caption");
  FPSA_EXPECT_CONTAINS(list_error("a.csv", "file,caption\na.mp4,\xFF\n"), "expected UTF-8");
  FPSA_EXPECT_CONTAINS(list_error("a.txt", ""), "ends in .jsonl or .csv");
  FPSA_EXPECT_CONTAINS(error_of<Error>([] { read_manifest("nowhere"); }), "found nothing");
}

TEST(FinetuneConfig, IsReadFromTheRecipe) {
  const std::string stage = "[[stage]]\nframes = 9\nsteps = 1\n";
  const Recipe recipe = parse_recipe(
      "kind = \"dit\"\n[data]\nfolder = \"v\"\ncache = \"/c\"\nfps = 8\n[lora]\nrank = 4\ntargets = [\"to_q\"]\n" +
          stage,
      "runs/r.toml");
  ASSERT_TRUE(recipe.data && recipe.lora);
  EXPECT_EQ(recipe.data->folder, "runs/v");
  EXPECT_EQ(recipe.data->cache, "/c");
  EXPECT_EQ(recipe.data->fps, 8);
  EXPECT_EQ(recipe.lora->alpha, 4) << "the rank, where the recipe does not say";
  EXPECT_EQ(recipe.lora->targets, Fields{"to_q"});
  EXPECT_EQ(lora_of_recipe(recipe.text, "c")->rank, 4);
  EXPECT_FALSE(lora_of_recipe("kind = \"dit\"\n" + stage, "c"));

  const auto message = [&](const std::string& tables) {
    return error_of<Error>([&] { parse_recipe("kind = \"dit\"\n" + tables + stage, "r.toml"); });
  };
  const Recipe told = parse_recipe(
      "kind = \"dit\"\ndistill_weight = 0.5\ngradient_checkpointing = true\n[report]\nprompts = [\"a\", \"b\"]\n"
      "preview_steps = 4\npreview_guidance = 6.0\n[lora]\n" +
          stage,
      "r.toml");
  EXPECT_EQ(told.distill_weight, 0.5);
  EXPECT_TRUE(told.gradient_checkpointing);
  EXPECT_EQ(told.prompts, (Fields{"a", "b"}));
  EXPECT_EQ(told.preview_steps, 4);
  EXPECT_EQ(told.preview_guidance, 6.0);
  FPSA_EXPECT_CONTAINS(message("slot_weight = 0.1\n[lora]\n"), "slot_weight: expected none beside [data] or [lora]");
  FPSA_EXPECT_CONTAINS(message("[report]\nprompts = []\n[lora]\n"), "report.prompts: expected a list of texts");
  FPSA_EXPECT_CONTAINS(message("[report]\nprompts = [\"\"]\n[lora]\n"), "report.prompts: expected texts");
  FPSA_EXPECT_CONTAINS(message("[report]\npreview_steps = 0\n[lora]\n"), "report.preview_steps: expected 1 to 1000");
  FPSA_EXPECT_CONTAINS(message("[report]\nprompts = [\"a\"]\n"), "prompts: unknown key");

  FPSA_EXPECT_CONTAINS(message("[data]\nfps = 8\n"), "r.toml: data.folder: expected a folder of videos");
  FPSA_EXPECT_CONTAINS(message("[data]\nfolder = \"v\"\nfsp = 8\n"), "data.fsp: unknown key");
  FPSA_EXPECT_CONTAINS(message("[data]\nfolder = \"v\"\nfps = 0\n"), "data.fps: expected a number above 0");
  FPSA_EXPECT_CONTAINS(message("[data]\nfolder = \"v\"\nclips = 0\n"), "data.clips: expected a whole number from 1");
  FPSA_EXPECT_CONTAINS(message("[lora]\nrank = 2.5\n"), "lora.rank: expected a whole number from 1");
  FPSA_EXPECT_CONTAINS(message("[lora]\nalpha = -1\n"), "lora.alpha: expected a number above 0");
  FPSA_EXPECT_CONTAINS(message("[lora]\ntargets = []\n"), "lora.targets: expected a list of module names");
  FPSA_EXPECT_CONTAINS(message("[lora]\ntargets = [3]\n"), "lora.targets: expected module names");
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] {
                         parse_recipe("kind = \"vae\"\n[lora]\n[[stage]]\nsteps = 1\n[[stage.crop]]\n", "r.toml");
                       }),
                       "lora: unknown key");
}

}  // namespace
}  // namespace fpsa::train
