#include "fpsa/app/train_page.h"

#include <gtest/gtest.h>

#include "fpsa/app/study_plot.h"
#include "fpsa/io/image.h"
#include "tests/io/scratch.h"

namespace fpsa::app {
namespace {

using fpsa::testing::read_raw;
using fpsa::testing::ScratchFolder;
using fpsa::testing::write_raw;

std::string report(int64_t step, double flow) {
  return nlohmann::json({{"step", step},
                         {"stage", 0},
                         {"samples", 8 * step},
                         {"skipped", 2},
                         {"seconds", 3.0},
                         {"progress", 0.25},
                         {"eta_seconds", 3725.0},
                         {"learning_rate", 1e-5},
                         {"flow", flow},
                         {"gradient_norm", 1.5},
                         {"samples_per_second", 4.0}})
             .dump() +
         "\n";
}

std::string run(int64_t step, const char* how) {
  return nlohmann::json({{"step", step}, {"run", how}}).dump() + "\n";
}

std::vector<double> flows(const TrainMetrics& metrics) {
  std::vector<double> out;
  for (const auto& line : metrics.reports)
    out.push_back(line.at("flow"));
  return out;
}

TEST(TrainMetrics, DropsWhatAKilledRunWroteAfterItsCheckpoint) {
  ScratchFolder scratch;
  // A checkpoint at 20; steps 25 to 40 were done again at other steps, 35 twice.
  write_raw(scratch / "metrics.jsonl",
            run(0, "begun") + report(10, 1) + report(20, 2) + "{\"step\":20,\"skipped\":2,\"accuracy_shape\":0.5}\n" + report(25, 3) +
                report(35, 4) + "{\"step\":40,\"accuracy_shape\":0.9}\n" + run(20, "resumed") + report(30, 5) +
                report(35, 6) + report(35, 7) + "{\"step\":35,\"accuracy_shape\":0.6}\n");
  const auto metrics = read_train_metrics(scratch / "metrics.jsonl");
  EXPECT_EQ(flows(metrics), (std::vector<double>{1, 2, 5, 7}));
  ASSERT_EQ(metrics.evaluations.size(), 2u);
  EXPECT_EQ(metrics.evaluations[0].at("accuracy_shape"), 0.5);
  EXPECT_EQ(metrics.evaluations[1].at("accuracy_shape"), 0.6);
  EXPECT_EQ(metrics.last.at("step"), 35);
  EXPECT_EQ(metrics.damaged, 0);
}

TEST(TrainMetrics, ReadsFilesFromBeforeResumptionsWereMarkedAndBrokenLines) {
  ScratchFolder scratch;
  write_raw(scratch / "metrics.jsonl", report(10, 1) + report(20, 2) + report(30, 3) + "{\"step\": 4\n" +
                                           report(20, 4) + "{\"data\":{\"videos\":3}}\n" + report(25, 5) + "[1]\n");
  const auto metrics = read_train_metrics(scratch / "metrics.jsonl");
  EXPECT_EQ(flows(metrics), (std::vector<double>{1, 4, 5}));
  EXPECT_EQ(metrics.data.at("videos"), 3);
  EXPECT_EQ(metrics.damaged, 2);
  EXPECT_TRUE(read_train_metrics(scratch / "none").last.is_null());
}

class TrainPageTest : public ::testing::Test {
 protected:
  TrainPageTest() {
    recipe_.stages.resize(2);
    recipe_.text = "kind = \"dit\"  # <b>";
    page_.out = scratch_.path();
    page_.recipe_name = "my <recipe>.toml";
    page_.recipe = &recipe_;
    page_.machine = "a machine";
  }
  ScratchFolder scratch_;
  train::Recipe recipe_;
  TrainPage page_;
};

TEST_F(TrainPageTest, ShowsCurvesPositionFramesAndWhatWasSkippedAndNeedsNothingElse) {
  write_raw(
      scratch_ / "metrics.jsonl",
      "{\"data\":{\"videos\":3,\"clips\":2,\"skipped_count\":1,\"skipped\":[{\"file\":\"a&b.mp4\",\"reason\":\"too "
      "short\"}],\"uncaptioned\":[\"c.mp4\"]}}\n" +
          report(10, 0.5) + report(20, 0.25) + "{\"step\":20,\"skipped\":2,\"accuracy_shape\":0.5,\"accuracy_all\":0.25}\n");
  const io::Image image{2, 2, std::vector<uint8_t>(12, 7)};
  std::filesystem::create_directories(scratch_ / "previews");
  for (const char* name : {"step0000010.png", "step0000020-64x64.png", "step0000099.png"})
    io::write_png(scratch_ / "previews" / name, image);
  write_raw(scratch_ / "previews" / "notes.txt", "no picture");
  const std::string text = train_page(page_);
  for (const char* part :
       {"loss: flow: 0.25", "gradient norm: 1.5", "learning rate: 1e-05", "samples per second: 4", "<h3>accuracy: 0.5",
        "left in this stage</dt><dd>1:02:05", "skipped steps (not finite)</dt><dd>2", "stage</dt><dd>1 of 2",
        "skipped a&amp;b.mp4: too short", "it has no caption: c.mp4", "my &lt;recipe&gt;.toml",
        "kind = &quot;dit&quot;  # &lt;b&gt;", "a machine", "<figcaption>step 10<", "<figcaption>step 20<"})
    EXPECT_NE(text.find(part), std::string::npos) << part;
  EXPECT_EQ(text.find("step 99"), std::string::npos) << "a sheet of a step that is to come again";
  EXPECT_EQ(text.find("://"), std::string::npos) << "something from elsewhere";
  EXPECT_EQ(text.find("<script"), std::string::npos);
}

TEST_F(TrainPageTest, RenewsItselfOnlyWhileTheRunIsOn) {
  const std::string refresh = "http-equiv=\"refresh\"";
  for (const auto state : {PageState::kRunning, PageState::kStopped, PageState::kFinished, PageState::kFailed}) {
    page_.state = state;
    page_.failure = "the disk <is> full";
    const std::string text = train_page(page_);
    EXPECT_EQ(text.find(refresh) != std::string::npos, state == PageState::kRunning);
    EXPECT_EQ(text.find("Failed: the disk &lt;is&gt; full") != std::string::npos, state == PageState::kFailed);
  }
}

TEST_F(TrainPageTest, TheWriterRestsBetweenPagesButNotBeforeTheLast) {
  TrainPageWriter writer(page_);
  const auto file = scratch_ / "train.html";
  writer.write(PageState::kRunning);
  EXPECT_NE(read_raw(file).find("Running."), std::string::npos);
  std::filesystem::remove(file);
  writer.write(PageState::kRunning);
  EXPECT_FALSE(std::filesystem::exists(file));
  writer.write(PageState::kFinished);
  EXPECT_NE(read_raw(file).find("Finished."), std::string::npos);
}

TEST(LineChart, StaysSmallKeepsTheEndsAndLeavesOutWhatIsNotFinite) {
  Plot plot{"step", "loss", {}, false};
  for (int i = 0; i < 100000; ++i)
    plot.points.push_back({"", static_cast<double>(i), 1.0 + i % 2, 1, 0, 0});
  plot.points.push_back({"", 5.0, HUGE_VAL, 1, 0, 0});
  const std::string chart = line_chart(plot);
  EXPECT_LT(chart.size(), 20000u);
  EXPECT_EQ(chart.find("inf"), std::string::npos);
  EXPECT_EQ(chart.find("nan"), std::string::npos);
  EXPECT_EQ(line_chart({}), "");
  // Two series have a legend; values over a wide range have ticks in ratios.
  const std::string two = line_chart({"step", "loss", {{"a", 1, 1, 1, 0, 0}, {"b", 2, 1000, 1, 0, 1}}, false});
  for (const char* part : {">a</text>", ">b</text>", ">10</text>", ">100</text>"})
    EXPECT_NE(two.find(part), std::string::npos) << part;
}

}  // namespace
}  // namespace fpsa::app
