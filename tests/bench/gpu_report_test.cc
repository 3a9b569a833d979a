// The bench on a GPU as far as no GPU is needed: figures, report, clock, peers' lines, the walk over the table of cases.
#include <gtest/gtest.h>

#include <stdexcept>

#include "fpsa/bench/gpu_clock.h"
#include "fpsa/bench/gpu_peers.h"
#include "fpsa/bench/gpu_report.h"
#include "fpsa/bench/json_text.h"
#include "tests/gpu/cases.h"

namespace fpsa::bench {
namespace {

GpuCase timed(const char* group, const char* name, const char* kernel, double seconds, double operations,
              double density = 1) {
  GpuCase item;
  item.group = group;
  item.name = name;
  item.kernel = kernel;
  item.dim = 128;
  item.seconds = seconds;
  item.operations = operations;
  item.density = density;
  item.samples = 7;
  return item;
}

GpuCase failed(GpuCase item, const char* why) {
  item.failure = why;
  return item;
}

GpuReport whole() {
  GpuReport report;
  report.about = {{"device", "a \"card\""}};
  report.cases = {
      timed(kDenseGroup, "32K", kFp8Kernel, 0.01, 1.2e13),
      timed(kDenseGroup, "32K", kBf16Kernel, 0.01, 6e12),
      timed(kLadderGroup, "all", kFp8Kernel, 0.01, 1.2e13),
      timed(kLadderGroup, "half", kFp8Kernel, 0.006, 6e12, 0.5),
      timed(kLadderGroup, "a tenth", kFp8Kernel, 0.00125, 1.2e12, 0.1),
      timed(kLadderGroup, "less", kFp8Kernel, 0.01, 0.6e12, 0.05),
      timed(kPaperGroup, "window", kPrepass, 0.001, 0),
      timed(kPaperGroup, "window", kWithPrepass, 0.0125, 1.17e13, 0.1),
      timed(kPaperGroup, "torch cudnn bf16", "peer: torch cudnn bf16", 0.15, 1.17e14),
      timed(kPaperGroup, "torch flash bf16", "peer: torch flash bf16", 0.2, 1.17e14),
      timed(kPaperGroup, "flash3 fp8", "peer: flash3 fp8", 0.1, 1.17e14),
      failed(timed(kPaperGroup, "flash3 bf16", "peer: flash3 bf16", 0, 0), "ModuleNotFoundError"),
  };
  return report;
}

const GpuFigure& figure(const std::vector<GpuFigure>& figures, std::string_view name) {
  for (const GpuFigure& one : figures)
    if (one.name == name) return one;
  throw std::runtime_error("no such figure");
}

TEST(GpuReport, FiguresComeFromTheirCases) {
  const auto figures = whole().figures();
  EXPECT_NEAR(*figure(figures, "fp8_dense_tflops").value, 1200, 1e-9);
  EXPECT_TRUE(figure(figures, "fp8_dense_tflops").met());
  EXPECT_NEAR(*figure(figures, "bf16_dense_tflops").value, 600, 1e-9);
  EXPECT_FALSE(figure(figures, "bf16_dense_tflops").met());
  // The slowest of density 0.1 and more: 960 of 1200; what is sparser does not count.
  EXPECT_NEAR(*figure(figures, "sparse_fraction_of_dense").value, 0.8, 1e-9);
  EXPECT_NEAR(*figure(figures, "paper_speedup").value, 12, 1e-9);
  EXPECT_NEAR(*figure(figures, "prepass_share").value, 0.08, 1e-9);
  EXPECT_TRUE(figure(figures, "prepass_share").met());
  EXPECT_FALSE(figure(figures, "backward_tflops").value);
  EXPECT_EQ(figure(figures, "backward_tflops").why, "no such case in this run");
}

TEST(GpuReport, AFailedCaseOfOursIsAFailureAndLeavesNoFigure) {
  auto report = whole();
  EXPECT_TRUE(report.failures().empty()) << "a peer may be missing";
  report.cases[0].failure = "wrong rows";
  report.cases[4].failure = "wrong rows";
  EXPECT_EQ(report.failures().size(), 2u);
  EXPECT_FALSE(figure(report.figures(), "fp8_dense_tflops").value);
  EXPECT_EQ(figure(report.figures(), "sparse_fraction_of_dense").why, "a tenth: wrong rows");
  report.cases = {};
  for (const GpuFigure& one : report.figures())
    EXPECT_FALSE(one.value || one.met()) << one.name;
}

TEST(GpuReport, TextAndJsonHoldWhatWasMeasured) {
  auto report = whole();
  report.cases[0].variant = "paired";
  const std::string json = report.to_json(), text = report.to_text();
  EXPECT_NE(json.find("\"device\": \"a \\\"card\\\"\""), std::string::npos);
  EXPECT_NE(json.find("\"name\": \"paper_speedup\""), std::string::npos);
  EXPECT_NE(json.find("\"failure\": \"ModuleNotFoundError\""), std::string::npos);
  EXPECT_NE(text.find("paper_speedup               12.000  (aim: at least 11, met)"), std::string::npos) << text;
  EXPECT_NE(text.find("FAILED: ModuleNotFoundError"), std::string::npos);
  // Where a case has no variant, neither says one.
  EXPECT_NE(json.find("\"kernel\": \"attention_fwd_e4m3_sm90a\",\n      \"variant\": \"paired\""), std::string::npos)
      << json;
  EXPECT_EQ(json.find("variant"), json.rfind("variant"));
  EXPECT_NE(text.find("1200 TFLOP/s  paired"), std::string::npos) << text;
  EXPECT_EQ(text.find("paired"), text.rfind("paired"));
}

TEST(JsonText, EscapesAndNests) {
  JsonText json;
  json.begin_object().key("a\n").value("\\\"\x01").key("list").begin_array().value(1).value(true).null();
  json.value(std::numeric_limits<double>::infinity()).end_array().key("none").begin_array().end_array().end_object();
  EXPECT_EQ(json.text(), "{\n  \"a\\u000a\": \"\\\\\\\"\\u0001\",\n  \"list\": [\n    1,\n    true,\n    null,\n    null\n  ],"
                         "\n  \"none\": []\n}");
}

// Times that a test gives, one for each call.
class FakeClock final : public GpuClock {
 public:
  explicit FakeClock(std::vector<double> times) : times_(std::move(times)) {}
  double seconds(const std::function<void()>& enqueue) override {
    enqueue();
    return times_.at(calls++);
  }
  size_t calls = 0;

 private:
  std::vector<double> times_;
};

TEST(GpuClock, ACaseIsTheMedianAfterTwoWarmUps) {
  FakeClock clock({9, 8, 3, 1, 2, 5, 4});
  GpuCase item;
  int runs = 0;
  time_case(clock, [&] { ++runs; }, 5, item);
  EXPECT_EQ(runs, 7);
  EXPECT_EQ(item.seconds, 3);
  EXPECT_DOUBLE_EQ(item.spread, 4.0 / 3.0);
  EXPECT_EQ(item.samples, 5);
  FakeClock even({9, 8, 1, 3});
  time_case(even, [] {}, 2, item);
  EXPECT_EQ(item.seconds, 2);
}

TEST(GpuClock, WhatACallThrowsIsTheCasesFailure) {
  FakeClock clock({1, 1, 1});
  GpuCase item;
  time_case(clock, [] { throw std::runtime_error("CUDA says no"); }, 1, item);
  EXPECT_EQ(item.failure, "CUDA says no");
  EXPECT_EQ(item.seconds, 0);
}

TEST(GpuPeers, LinesBecomeCasesAndVersions) {
  const std::vector<PeerProblem> problems = {{"dense", 1024, 2, 128, false}, {"backward", 1024, 2, 128, true}};
  const auto results = parse_peers(
      "version\ttorch\t2.13.0\nversion\ttorch\t2.13.0\ncase\t0\ttorch cudnn bf16\t0.001\t0.02\t7\n"
      "failure\t1\tflash3 bf16\tImportError: no\n",
      problems);
  ASSERT_EQ(results.versions.size(), 1u);
  EXPECT_EQ(results.versions[0].second, "2.13.0");
  ASSERT_EQ(results.cases.size(), 2u);
  EXPECT_EQ(results.cases[0].seconds, 0.001);
  EXPECT_EQ(results.cases[0].operations, 4.0 * 1024 * 1024 * 128 * 2);
  EXPECT_EQ(results.cases[0].kernel, "peer: torch cudnn bf16");
  EXPECT_EQ(results.cases[1].failure, "ImportError: no");
}

TEST(GpuPeers, ALineThatIsNoneIsAFailure) {
  const std::vector<PeerProblem> problems = {{"dense", 1024, 2, 128, false}};
  for (const char* line : {"Traceback", "case\t1\tx\t1\t0\t7", "case\t0\tx\tfast\t0\t7", "case\t0\tx\t0\t0\t7"}) {
    const auto results = parse_peers(line, problems);
    ASSERT_EQ(results.cases.size(), 1u) << line;
    EXPECT_TRUE(results.cases[0].failed()) << line;
  }
}

TEST(GpuPeers, AProgramThatCannotStartOrFailsIsSaid) {
  const std::vector<PeerProblem> problems = {{"dense", 64, 1, 128, false}};
  const auto missing = time_peers("/no/such/python", 0, problems, 1);
  ASSERT_EQ(missing.cases.size(), 1u);
  EXPECT_NE(missing.cases[0].failure.find("/no/such/python"), std::string::npos);
  const auto ended = time_peers("false", 0, problems, 1);
  ASSERT_EQ(ended.cases.size(), 1u);
  EXPECT_NE(ended.cases[0].failure.find("exit code 1"), std::string::npos);
}

}  // namespace
}  // namespace fpsa::bench

namespace fpsa::kernel::cuda::testing_support {
namespace {

AttentionRows right(const AttentionOnCodes& attention, bool, DeviceOutType) {
  return attention.reference();
}

TEST(GpuCases, EveryCaseOfTheTablePassesOnTheReferenceItself) {
  EXPECT_EQ(attention_cases().size(), 20u);
  const auto verdicts = walk(right, 0, " D64");  // half of them: the reference is slow
  EXPECT_EQ(verdicts.size(), 10u);
  for (const Verdict& verdict : verdicts)
    EXPECT_EQ(verdict.failure, "") << verdict.name;
  EXPECT_NE(verdicts_json(verdicts).find("\"passed\": true"), std::string::npos);
}

TEST(GpuCases, ADeviceThatIsWrongUnsteadyOrThrowsFails) {
  int calls = 0;
  const auto wrong = [](const AttentionOnCodes& attention, bool, DeviceOutType) {
    auto rows = attention.reference();
    rows.out[5] = rows.exact[5] = 7;
    return rows;
  };
  const auto unsteady = [&](const AttentionOnCodes& attention, bool, DeviceOutType) {
    auto rows = attention.reference();
    if (++calls % 2 == 0) rows.out[5] += 1e-6f, rows.exact[5] += 1e-6f;
    return rows;
  };
  const auto throws = [](const AttentionOnCodes&, bool, DeviceOutType) -> AttentionRows {
    throw std::runtime_error("CUDA says no");
  };
  for (const Device& device : {Device(wrong), Device(unsteady), Device(throws)})
    for (const Verdict& verdict : walk(device, 0, "window"))
      EXPECT_NE(verdict.failure, "") << verdict.name;
}

}  // namespace
}  // namespace fpsa::kernel::cuda::testing_support
