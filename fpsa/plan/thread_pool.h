// Threads that stay: the runner of programs that bring none of their own.
#pragma once

#include <atomic>
#include <mutex>
#include <thread>
#include <vector>

#include "fpsa/plan/parallel.h"

namespace fpsa::plan {

/// The calling thread and workers - 1 threads that sleep between runs.
///   Threads   any thread may call run(); runs of one pool follow each other. A run inside a worker of the same pool
///             would wait for itself
class ThreadPool final : public ParallelRunner {
 public:
  /// Errors    fewer than 1 worker or more than kMaxWorkers; std::system_error when the system has no more threads
  explicit ThreadPool(int workers);
  ~ThreadPool() override;
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  static constexpr int kMaxWorkers = 4096;

  int workers() const override { return static_cast<int>(threads_.size()) + 1; }
  void run(int count, Function function, void* context) override;

 private:
  void serve(int worker);
  void stop();

  std::mutex busy_;
  // What the current run is; written before round_ rises.
  Function function_ = nullptr;
  void* context_ = nullptr;
  int count_ = 0;
  bool stopping_ = false;
  alignas(64) std::atomic<uint32_t> round_{0};
  alignas(64) std::atomic<uint32_t> running_{0};
  std::vector<std::thread> threads_;
};

}  // namespace fpsa::plan
