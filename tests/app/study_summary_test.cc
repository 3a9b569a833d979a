// From records to figures, sentences and the page, and the folder that keeps the records.
#include "fpsa/app/study_summary.h"

#include <gtest/gtest.h>

#include <functional>
#include <regex>
#include <set>

#include "fpsa/app/study_page.h"
#include "fpsa/app/study_plot.h"
#include "fpsa/app/usage_error.h"
#include "tests/io/scratch.h"

namespace fpsa::app {
namespace {

using fpsa::testing::ScratchFolder;
using fpsa::testing::write_raw;

std::string error_of(const std::function<void()>& action) {
  return fpsa::testing::error_of<Error>(action);
}

Arm arm(const std::string& name, bool trained = false) {
  Arm out;
  out.name = name;
  out.label = "<" + name + ">";
  out.model = "folder";
  out.method = name == "dense" ? "dense" : "fps";
  if (name != "dense") out.schedule = schedule::default_schedule();
  out.judged = true;
  out.trained = trained;
  return out;
}

ClipRecord record(int64_t item, std::array<bool, 4> correct, double speed = 1) {
  ClipRecord r;
  r.item = r.prompt_index = item;
  r.prompt = std::string(1, 'p');  // g++ 12 warns of an assigned literal without cause
  r.machine = std::string(1, 'm');
  r.dense = {4, 2, 1};
  r.seconds = {4 / speed, 2 / speed, 1};
  r.psnr_db = 20 + static_cast<double>(item);
  r.ssim = 0.5;
  r.change = r.flicker = 1;
  r.correct = correct;
  return r;
}

ArmResults results(const Arm& a, int64_t count, const std::array<bool, 4>& correct, double speed = 1) {
  ArmResults out{a, count, {}};
  for (int64_t i = 0; i < count; ++i)
    out.records.push_back(record(i, correct, speed));
  return out;
}

constexpr std::array<bool, 4> kRight = {true, true, true, true}, kHalf = {true, false, true, false};

TEST(StudySummary, FiguresArePairedWithDense) {
  auto twice = results(arm("fps"), 30, kHalf, 2);
  twice.records[3].identical = true;
  twice.records[3].psnr_db.reset();
  const auto out = summarise({results(arm("dense"), 40, kRight), twice}, 1);
  ASSERT_EQ(out.size(), 2u);
  EXPECT_FALSE(out[0].psnr_db.has_value());
  EXPECT_FALSE(out[0].accuracy->pooled_change.has_value());
  EXPECT_EQ(out[1].identical, 1);
  EXPECT_EQ(out[1].psnr_db->count, 29);
  EXPECT_DOUBLE_EQ(out[1].speed->attention, 2);
  EXPECT_DOUBLE_EQ(out[1].speed->total, 5.0 / 3);
  EXPECT_DOUBLE_EQ(out[1].speed->attention_share, 0.5);
  EXPECT_EQ(out[1].accuracy->pooled_change->count, 30);
  EXPECT_DOUBLE_EQ(out[1].accuracy->pooled_change->mean, -0.5);
  EXPECT_DOUBLE_EQ(out[1].accuracy->all_change->mean, -1);
  EXPECT_EQ(out[1].accuracy->attributes[0].right, 30);
  EXPECT_EQ(out[1].accuracy->attributes[1].right, 0);
  EXPECT_DOUBLE_EQ(out[1].flicker_ratio->mean, 1);
}

TEST(StudySummary, SamplesOfOnePromptCountOnce) {
  auto both = results(arm("fps"), 4, kRight);
  for (auto& r : both.records)
    r.prompt_index = r.item / 2;
  both.records[1].correct = kHalf;
  const auto out = summarise({results(arm("dense"), 4, kRight), both}, 1);
  EXPECT_EQ(out[1].accuracy->pooled.count, 2);
  EXPECT_DOUBLE_EQ(out[1].accuracy->pooled.mean, (0.75 + 1) / 2);
}

TEST(StudySummary, SpeedIsOfOneMachine) {
  auto mixed = results(arm("fps"), 5, kRight, 2);
  mixed.records[4] = record(4, kRight, 50);
  mixed.records[4].machine = "another";
  const std::vector<ArmResults> all = {results(arm("dense"), 5, kRight), mixed};
  EXPECT_EQ(main_machine(all), "m");
  EXPECT_EQ(summarise(all, 1)[1].speed->clips, 4);
  EXPECT_DOUBLE_EQ(summarise(all, 1)[1].speed->denoise, 2);
}

TEST(StudySummary, AnEmulationHasFiguresButNoSpeed) {
  auto emulated = results(arm("fps"), 5, kRight, 2);
  emulated.arm.coding = ops::PCoding{448, false};
  const auto out = summarise({results(arm("dense"), 5, kRight), emulated}, 1);
  EXPECT_FALSE(out[1].speed.has_value());
  EXPECT_TRUE(out[1].psnr_db.has_value());
  EXPECT_EQ(to_json(out[1])["emulated"], true);
}

TEST(StudySummary, SentencesSayNoMoreThanTheIntervals) {
  auto none = results(arm("same"), 30, kRight), lost = results(arm("fps"), 30, kHalf);
  auto unsure = results(arm("unsure"), 30, kRight), gained = results(arm("taught", true), 30, kRight);
  unsure.records[0].correct = kHalf;  // one of thirty: the interval reaches zero
  auto dense = results(arm("dense"), 30, kRight);
  gained.arm.schedule->tile = lost.arm.schedule->tile = {3, 4, 4};  // its twin is the arm of the same schedule
  auto few = results(arm("few"), 3, kHalf);
  few.planned = 30;
  const std::vector<ArmResults> all = {dense, none, lost, unsure, gained, few};
  const auto lines = verdicts(all, summarise(all, 1), 1);
  std::string text;
  for (const auto& line : lines)
    text += line + "\n";
  FPSA_EXPECT_CONTAINS(text, "<same>: every prompt has the accuracy that it has with dense (30 prompts).");
  FPSA_EXPECT_CONTAINS(text, "<fps> loses 50.0 points [50.0, 50.0] of pooled accuracy against dense (30 prompts).");
  FPSA_EXPECT_CONTAINS(text, "<unsure>: no difference of pooled accuracy from dense is shown");
  FPSA_EXPECT_CONTAINS(
      text, "<taught> gains 50.0 points [50.0, 50.0] of pooled accuracy against the same schedule training-free");
  FPSA_EXPECT_CONTAINS(text, "against dense (3 prompts). So few prompts make the interval unreliable.");
  FPSA_EXPECT_CONTAINS(text, "<few> is not complete: 3 of 30 clips.");
}

TEST(StudyPage, EscapesTextAndPlaysClips) {
  const ScratchFolder scratch;
  StudyReport report;
  report.model = "a&b";
  report.grid = "1x2x2";
  report.settings = {{"num_frames", 9},    {"width", 64},           {"height", 64},      {"num_inference_steps", 2},
                     {"sampler", "unipc"}, {"guidance_scale", 3.0}, {"flow_shift", 5.0}, {"dtype", "bf16"},
                     {"seed", 0},          {"prompts", "file"}};
  report.results = {results(arm("dense"), 3, kRight), results(arm("fps"), 2, kHalf)};
  report.results[1].planned = 3;
  report.summaries = summarise(report.results, 1);
  report.verdicts = verdicts(report.results, report.summaries, 1);
  report.notes = study_notes(true, false, false);
  report.machine = "m";
  report.clips = {{0, "<script>", "<dense>", write_raw(scratch / "a.mp4", "Man")}};
  const auto page = study_page(report);
  EXPECT_EQ(page.find("<script>"), std::string::npos);
  EXPECT_EQ(page.find("<dense>"), std::string::npos);
  for (const char* part : {"a&amp;b", "&lt;script&gt;", "base64,TWFu\"", "2 of 3", "<svg", "Prompt accuracy",
                           "autoplay loop muted playsinline", "<code>fpsa generate</code>", "LPIPS"})
    FPSA_EXPECT_CONTAINS(page, part);
  EXPECT_EQ(page, study_page(report));
  const auto json = study_json(report);
  EXPECT_EQ(json["arms"][1]["clips_done"], 2);
  EXPECT_EQ(json["arms"][1]["accuracy"]["pooled_change"]["mean"], -0.5);
}

TEST(StudyPage, AStudyWithoutClipsHasAPage) {
  StudyReport report;
  report.settings = {{"num_frames", 9},    {"width", 64},           {"height", 64},      {"num_inference_steps", 2},
                     {"sampler", "unipc"}, {"guidance_scale", 3.0}, {"flow_shift", 5.0}, {"dtype", "bf16"},
                     {"seed", 0},          {"prompts", "file"}};
  report.results = {{arm("dense"), 3, {}}, {arm("fps"), 3, {}}};
  report.summaries = summarise(report.results, 1);
  report.verdicts = verdicts(report.results, report.summaries, 1);
  FPSA_EXPECT_CONTAINS(study_page(report), "&lt;fps&gt; is not complete: 0 of 3 clips.");
}

TEST(StudyPage, Base64IsRfc4648s) {
  const std::pair<const char*, const char*> cases[] = {{"", ""},        {"f", "Zg=="},        {"fo", "Zm8="},
                                                       {"foo", "Zm9v"}, {"foob", "Zm9vYg=="}, {"\xff\xfe", "//4="}};
  for (const auto& [bytes, text] : cases)
    EXPECT_EQ(base64(bytes), text);
}

TEST(StudyPlot, EqualPointsAndNoPointsArePlotted) {
  EXPECT_EQ(scatter({}), "");
  EXPECT_EQ(dot_rows({}), "");
  const Plot flat{"x", "y", {{"a", 1, 5, NAN, NAN, 0}, {"b", 1, 5, 4, 6, 1}}, true};
  for (const auto& svg : {scatter(flat), dot_rows(flat)}) {
    EXPECT_EQ(svg.find("nan"), std::string::npos) << svg;
    EXPECT_EQ(svg.find("inf"), std::string::npos) << svg;
  }
}

// Every <text> of labels as a box, by the width that a reader's font takes at most.
TEST(StudyPlot, LabelsCoverNeitherPointsNorEachOther) {
  Plot crowd{"x", "y", {}, false};
  for (int i = 0; i < 6; ++i)
    crowd.points.push_back({"a label of some length", 1 + 0.001 * i, 5, NAN, NAN, i});
  crowd.points.push_back({"far", 2, 5, NAN, NAN, 0});
  const std::string svg = scatter(crowd);
  std::set<std::string> places;
  const std::regex label("<text x=\"([^\"]+)\" y=\"([^\"]+)\" text-anchor=\"[a-z]+\" fill=\"#[0-9a-f]+\">a label");
  for (auto it = std::sregex_iterator(svg.begin(), svg.end(), label); it != std::sregex_iterator(); ++it)
    places.insert((*it)[2].str());
  EXPECT_EQ(places.size(), 6u) << "labels that overlap in x lie on lines of their own";
}

TEST(StudyPage, AblationsAreComparedOverTheItemsThatAllHave) {
  StudyReport report;
  report.settings = {{"num_frames", 9},    {"width", 64},           {"height", 64},      {"num_inference_steps", 2},
                     {"sampler", "unipc"}, {"guidance_scale", 3.0}, {"flow_shift", 5.0}, {"dtype", "bf16"},
                     {"seed", 0},          {"prompts", "file"}};
  auto ablation = results(arm("int8"), 3, kHalf);
  ablation.arm.group = ArmGroup::kPrecision;
  auto own = results(arm("mine"), 5, kHalf);
  own.arm.group = ArmGroup::kOwn;
  report.results = {results(arm("dense"), 9, kRight), results(arm("fps"), 9, kHalf), ablation, own};
  report.summaries = summarise(report.results, 1);
  const auto page = study_page(report);
  FPSA_EXPECT_CONTAINS(page, "over the 3 items that all of them have");
  // PSNR is 20 dB plus the item: 21 on average over the first three, 24 over all nine.
  const std::string plot = page.substr(page.find("Ablations side by side"));
  EXPECT_NE(plot.find(">21<"), std::string::npos);
  EXPECT_EQ(plot.find(">24<"), std::string::npos);
}

TEST(StudyRecord, IsReadAsItWasWritten) {
  auto r = record(7, kHalf, 2);
  r.temporal_psnr_db = 31.5;
  r.kernels = {"k"};
  for (const bool judged : {true, false}) {
    if (!judged) r.correct.reset();
    const auto json = nlohmann::json::parse(to_json(r).dump());
    EXPECT_EQ(to_json(record_from_json(json, "x")), json);
  }
  auto json = to_json(r);
  json.erase("ssim");
  FPSA_EXPECT_CONTAINS(error_of([&] { record_from_json(json, "file.json"); }),
                       "file.json: expected the record of a clip");
}

class Folder : public ::testing::Test {
 protected:
  const nlohmann::json settings_ = {{"steps", 2}, {"seed", 0}};
  ScratchFolder scratch_;
  std::filesystem::path path_ = scratch_ / "study";
};

TEST_F(Folder, KeepsRecordsAndRefusesOtherSettings) {
  {
    StudyFolder folder(path_, settings_, false);
    folder.add(arm("fps"), "w");
    folder.write(arm("fps"), record(7, kRight));
  }
  StudyFolder folder(path_, settings_, false);
  folder.add(arm("fps"), "w");
  EXPECT_EQ(to_json(*folder.read(arm("fps"), 7, "p", 0)), to_json(record(7, kRight)));
  EXPECT_FALSE(folder.read(arm("fps"), 8, "p", 0).has_value());
  FPSA_EXPECT_CONTAINS(error_of([&] { folder.read(arm("fps"), 7, "another", 0); }), "expected the prompt 'another'");
  FPSA_EXPECT_CONTAINS(error_of([&] {
                         StudyFolder(path_, {{"steps", 3}, {"seed", 0}}, false);
                       }),
                       "holds a study with steps 2, expected 3");
  FPSA_EXPECT_CONTAINS(error_of([&] { folder.add(arm("fps"), "other weights"); }), "with another model than");
  auto changed = arm("fps");
  changed.coding = ops::PCoding{448, false};
  FPSA_EXPECT_CONTAINS(error_of([&] { folder.add(changed, "w"); }), "with another p_coding than");
  changed = arm("fps");
  changed.schedule->tile = {6, 8, 16};
  FPSA_EXPECT_CONTAINS(error_of([&] { folder.add(changed, "w"); }), "with another schedule than");
}

TEST_F(Folder, OfAVersionWithoutRopeScaleGoesOnWithPositionsAsTheyAre) {
  StudyFolder(path_, settings_, false);
  auto now = settings_;
  now["rope_scale"] = "1,1,1";
  StudyFolder again(path_, now, false);
  now["rope_scale"] = "1,0.5,0.5";
  FPSA_EXPECT_CONTAINS(error_of([&] { StudyFolder(path_, now, false); }),
                       "holds a study with rope_scale \"1,1,1\", expected \"1,0.5,0.5\"");
}

TEST_F(Folder, OfSomethingElseIsRefusedAndLookingWritesNothing) {
  StudyFolder look(path_, settings_, true);
  look.add(arm("fps"), "w");
  EXPECT_FALSE(std::filesystem::exists(path_));
  write_raw(path_ / "thesis.txt", "years of work");
  FPSA_EXPECT_CONTAINS(error_of([&] { StudyFolder(path_, settings_, false); }), "with other content");
}

TEST_F(Folder, TheDigestOfWeightsIsOfTheirContent) {
  const auto a = write_raw(scratch_ / "a/w.safetensors", std::string(3 << 20, 'a'));
  const auto b = write_raw(scratch_ / "b/w.safetensors", std::string(3 << 20, 'a'));
  EXPECT_EQ(weights_digest({a.parent_path()}), weights_digest({b.parent_path()}));
  EXPECT_EQ(weights_digest({a.parent_path()}), weights_digest({a}));
  write_raw(b, std::string((3 << 20) - 1, 'a') + "b");
  EXPECT_NE(weights_digest({a}), weights_digest({b}));
}

}  // namespace
}  // namespace fpsa::app
