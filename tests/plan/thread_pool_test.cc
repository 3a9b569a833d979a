#include "fpsa/plan/thread_pool.h"

#include <gtest/gtest.h>

#include <array>
#include <thread>

#include "fpsa/base/check.h"

namespace fpsa::plan {
namespace {

using Counts = std::array<std::atomic<int>, 8>;

void count(void* context, int worker) noexcept {
  ++(*static_cast<Counts*>(context))[static_cast<size_t>(worker)];
}

TEST(ThreadPool, CallsEveryWorkerOnceRoundAfterRound) {
  ThreadPool pool(4);
  EXPECT_EQ(pool.workers(), 4);
  for (int round = 0; round < 100; ++round) {
    const int workers = 1 + round % 4;
    Counts counts{};
    pool.run(workers, count, &counts);
    for (int w = 0; w < 8; ++w)
      ASSERT_EQ(counts[static_cast<size_t>(w)], w < workers ? 1 : 0) << "round " << round << " worker " << w;
  }
}

TEST(ThreadPool, WorkersRunAtTheSameTime) {
  ThreadPool pool(3);
  std::atomic<int> arrived{0};
  pool.run(
      3,
      [](void* context, int) noexcept {
        auto& all = *static_cast<std::atomic<int>*>(context);
        ++all;
        while (all < 3)
          std::this_thread::yield();
      },
      &arrived);
  EXPECT_EQ(arrived, 3);
}

TEST(ThreadPool, RunsOfSeveralThreadsFollowEachOther) {
  ThreadPool pool(3);
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      for (int i = 0; i < 25; ++i) {
        Counts counts{};
        pool.run(3, count, &counts);
        for (int w = 0; w < 3; ++w)
          wrong += counts[static_cast<size_t>(w)] != 1;
      }
    });
  for (auto& thread : threads)
    thread.join();
  EXPECT_EQ(wrong, 0);
}

TEST(ThreadPool, RefusesANumberThatIsNone) {
  EXPECT_THROW(ThreadPool(0), Error);
  EXPECT_THROW(ThreadPool(-3), Error);
  EXPECT_THROW(ThreadPool(ThreadPool::kMaxWorkers + 1), Error);
}

TEST(ForEach, VisitsEveryIndexOnce) {
  ThreadPool pool(4);
  SerialRunner serial;
  for (ParallelRunner* runner : std::initializer_list<ParallelRunner*>{&pool, &serial})
    for (const int64_t n : {0, 1, 3, 1000}) {
      std::vector<std::atomic<int>> visits(static_cast<size_t>(n));
      for_each(*runner, n, [&](int64_t i) { ++visits[static_cast<size_t>(i)]; });
      for (const auto& v : visits)
        ASSERT_EQ(v, 1);
    }
}

}  // namespace
}  // namespace fpsa::plan
