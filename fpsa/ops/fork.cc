#include "fpsa/ops/fork.h"

#include <pthread.h>

#include <atomic>

namespace fpsa::ops {
namespace {

std::atomic<bool> forked = false;

// Never destroyed: other threads may still compute while the process ends.
std::mutex& shared_mutex() {
  static std::mutex& mutex = *new std::mutex;
  return mutex;
}

const bool registered = [] {
  return pthread_atfork([] { shared_mutex().lock(); }, [] { shared_mutex().unlock(); },
                        [] {
                          forked = true;
                          shared_mutex().unlock();
                        }) == 0;
}();

}  // namespace

std::unique_lock<std::mutex> fork_safe_lock() {
  static_cast<void>(registered);
  return std::unique_lock(shared_mutex());
}

bool is_forked() {
  return forked.load(std::memory_order_relaxed);
}

}  // namespace fpsa::ops
