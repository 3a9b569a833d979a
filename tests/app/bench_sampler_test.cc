// The rule by which samples count, with contenders whose samples are made up.
#include "fpsa/app/bench_sampler.h"

#include <c10/util/Exception.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <ctime>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "fpsa/app/interrupt.h"
#include "fpsa/base/check.h"

namespace fpsa::app::bench {
namespace {

constexpr double kQuiet = 0.0, kBusy = 0.5;

// Hands out samples in order, the first for the warm-up; then the last one again and again.
Contender scripted(std::vector<Sample> samples, std::vector<int>* repeats = nullptr, int most = 3) {
  return {[samples, repeats, at = size_t{0}](int n) mutable {
            if (repeats) repeats->push_back(n);
            return samples[std::min(at++, samples.size() - 1)];
          },
          most};
}

Timing timed(const Contender& contender, const SamplePolicy& policy = {}) {
  return take_turns({contender}, policy).front();
}

TEST(BenchSampler, TheMedianOfCleanSamplesCountsAndTheWarmUpDoesNot) {
  const auto timing = timed(scripted({{0.9, kQuiet}, {0.12, kQuiet}, {0.10, kQuiet}, {0.11, kQuiet}}));
  EXPECT_EQ(timing.samples.size(), 3u);
  EXPECT_DOUBLE_EQ(timing.seconds, 0.11);
  EXPECT_NEAR(timing.spread, 0.02 / 0.11, 1e-12);
  EXPECT_EQ(timing.rejected, 0);
  EXPECT_FALSE(timing.disturbed);
}

TEST(BenchSampler, DisturbedSamplesAreRepeatedAndDoNotCount) {
  const auto timing =
      timed(scripted({{0.1, kQuiet}, {9, kBusy}, {0.10, kQuiet}, {9, kBusy}, {0.12, kQuiet}, {0.11, kQuiet}}));
  EXPECT_DOUBLE_EQ(timing.seconds, 0.11);
  EXPECT_EQ(timing.samples.size(), 3u);
  EXPECT_EQ(timing.rejected, 2);
  EXPECT_FALSE(timing.disturbed);
}

TEST(BenchSampler, WithoutEnoughCleanSamplesTheLeastDisturbedStandInAndAreMarked) {
  std::vector<int> repeats;
  const auto timing =
      timed(scripted({{0.1, kBusy}, {5, 0.9}, {3, 0.3}, {1, 0.1}, {6, 0.8}, {2, 0.2}, {7, 0.7}}, &repeats));
  EXPECT_EQ(repeats.size(), 1u + 6u) << "twice as many windows as wanted, no more";
  EXPECT_TRUE(timing.disturbed);
  EXPECT_DOUBLE_EQ(timing.seconds, 2);
  EXPECT_DOUBLE_EQ(timing.others, 0.3);
}

TEST(BenchSampler, AfterTheDeadlineNothingIsRepeated) {
  SamplePolicy policy;
  policy.retry_until = std::chrono::steady_clock::now() - std::chrono::seconds(1);
  std::vector<int> repeats;
  const auto timing = timed(scripted({{0.1, kBusy}}, &repeats), policy);
  EXPECT_EQ(repeats.size(), 1u + 3u);
  EXPECT_TRUE(timing.disturbed);
}

TEST(BenchSampler, ShortCallsAreRepeatedToFillTheWindow) {
  SamplePolicy policy;
  policy.window_seconds = 0.3;
  std::vector<int> repeats;
  timed(scripted({{0.01, kQuiet}}, &repeats), policy);
  EXPECT_EQ(repeats, (std::vector<int>{1, 30, 30, 30}));
}

TEST(BenchSampler, LongCallsAreTheirOwnWarmUpAndGetFewerSamples) {
  const auto count = [](double seconds) {
    std::vector<int> repeats;
    const auto timing = timed(scripted({{seconds, kQuiet}}, &repeats, 5));
    EXPECT_EQ(timing.samples.size(), repeats.size()) << seconds;
    return repeats.size();
  };
  EXPECT_EQ(count(3), 3u);
  EXPECT_EQ(count(6), 2u);
  EXPECT_EQ(count(20), 1u);
}

TEST(BenchSampler, ContendersTakeTurns) {
  std::string order;
  const auto contender = [&order](char name) {
    return Contender{[&order, name](int) {
                       order += name;
                       return Sample{0.5, kQuiet};
                     },
                     2};
  };
  take_turns({contender('a'), contender('b')}, {});
  EXPECT_EQ(order, "ababab");
}

TEST(BenchSampler, AContenderThatFailsLeavesTheOthersAlone) {
  int calls = 0;
  const Contender broken{[&calls](int) -> Sample {
    if (++calls < 2) return {0.1, kQuiet};
    throw Error("it broke");
  }};
  const auto timings = take_turns({broken, scripted({{0.2, kQuiet}})}, {});
  EXPECT_EQ(timings[0].failure, "it broke");
  EXPECT_EQ(timings[0].to_json(), nlohmann::json({{"failure", "it broke"}}));
  EXPECT_EQ(calls, 2);
  EXPECT_TRUE(timings[1].failure.empty());
  EXPECT_DOUBLE_EQ(timings[1].seconds, 0.2);
}

// torch's errors, the allocator's and JSON's are failures as ours are; Ctrl-C is none.
TEST(BenchSampler, WhateverAContenderThrowsIsItsFailureButForAnInterruption) {
  const auto throwing = [](auto make) { return Contender{[make](int) -> Sample { throw make(); }}; };
  const auto timings =
      take_turns({throwing([] {
                    return c10::Error({"f", "f.cc", 1}, "torch refused");
                  }),
                  throwing([] { return std::bad_alloc(); }), throwing([] { return std::out_of_range("no such call"); }),
                  scripted({{0.2, kQuiet}})},
                 {});
  EXPECT_EQ(timings[0].failure, "torch refused") << "without a backtrace";
  EXPECT_EQ(timings[1].failure, "out of memory; smaller inputs need less");
  EXPECT_EQ(timings[2].failure, "no such call");
  EXPECT_DOUBLE_EQ(timings[3].seconds, 0.2);
  EXPECT_THROW(timed(throwing([] { return Interrupted(2); })), Interrupted);
}

TEST(BenchSampler, OnesOwnWorkIsNotThatOfOthers) {
  // This thread's processor time, not a number of calls: the machine may be busy.
  const auto spent = [] {
    timespec now = {};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
  };
  const OthersWatch watch;
  const double begin = spent();
  while (spent() - begin < 0.5) {
  }
  // All processors of the mask were busy at most all the time; what this thread used is not part of it.
  const double processors = std::max(1.0, static_cast<double>(std::thread::hardware_concurrency()));
  EXPECT_GE(watch.seconds(), 0.5);
  EXPECT_GE(watch.others(), 0.0);
  EXPECT_LE(watch.others() * watch.seconds(), processors * watch.seconds() - 0.5 + 0.1 * processors);
}

}  // namespace
}  // namespace fpsa::app::bench
