// Where threads come from: the one thing that a run needs of its surroundings.
#pragma once

#include <atomic>
#include <cstdint>

namespace fpsa::plan {

/// Runs one function on several workers at once.
class ParallelRunner {
 public:
  using Function = void (*)(void* context, int worker) noexcept;

  virtual ~ParallelRunner() = default;
  /// Most workers that run() takes, at least 1.
  virtual int workers() const = 0;
  /// Calls function(context, worker) once for every worker in [0, count) and returns when all have returned. They
  /// may also run one after another, in rising order: callers must not need them at the same time.
  ///   Requires  1 <= count <= workers()
  virtual void run(int count, Function function, void* context) = 0;
};

/// Everything on the calling thread.
class SerialRunner final : public ParallelRunner {
 public:
  int workers() const override { return 1; }
  void run(int, Function function, void* context) override { function(context, 0); }
};

/// Calls fn(i) for every i in [0, n), each taken by the first worker that is free.
template <class Fn>
void for_each(ParallelRunner& runner, int64_t n, const Fn& fn) {
  struct Shared {
    const Fn& fn;
    int64_t n;
    alignas(64) std::atomic<int64_t> next{0};
  } shared{fn, n};
  if (n < 1) return;
  const int count = n < runner.workers() ? static_cast<int>(n) : runner.workers();
  runner.run(
      count,
      [](void* context, int) noexcept {
        auto& all = *static_cast<Shared*>(context);
        for (int64_t i; (i = all.next.fetch_add(1, std::memory_order_relaxed)) < all.n;)
          all.fn(i);
      },
      &shared);
}

}  // namespace fpsa::plan
