#include "fpsa/plan/thread_pool.h"

#include "fpsa/base/check.h"

namespace fpsa::plan {

ThreadPool::ThreadPool(int workers) {
  FPSA_CHECK(workers >= 1 && workers <= kMaxWorkers, "threads: expected 1 to ", kMaxWorkers, ", got ", workers);
  threads_.reserve(static_cast<size_t>(workers - 1));
  try {
    for (int worker = 1; worker < workers; ++worker)
      threads_.emplace_back([this, worker] { serve(worker); });
  } catch (...) {
    stop();
    throw;
  }
}

ThreadPool::~ThreadPool() {
  stop();
}

void ThreadPool::stop() {
  stopping_ = true;
  round_.fetch_add(1, std::memory_order_release);
  round_.notify_all();
  for (std::thread& thread : threads_)
    thread.join();
}

void ThreadPool::run(int count, Function function, void* context) {
  if (count == 1) return function(context, 0);
  const std::lock_guard lock(busy_);
  function_ = function;
  context_ = context;
  count_ = count;
  // Every thread answers every round, so that none can still read this one's fields while the next is written.
  running_.store(static_cast<uint32_t>(threads_.size()), std::memory_order_relaxed);
  round_.fetch_add(1, std::memory_order_release);
  round_.notify_all();
  function(context, 0);
  for (uint32_t left; (left = running_.load(std::memory_order_acquire)) != 0;)
    running_.wait(left, std::memory_order_acquire);
}

void ThreadPool::serve(int worker) {
  for (uint32_t round = 0;; ++round) {
    round_.wait(round, std::memory_order_acquire);
    if (stopping_) return;
    if (worker < count_) function_(context_, worker);
    if (running_.fetch_sub(1, std::memory_order_acq_rel) == 1) running_.notify_one();
  }
}

}  // namespace fpsa::plan
