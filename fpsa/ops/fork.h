// fork() in a process whose threads use the operators.
//
// A child has only the thread that forked. Locks that another thread held stay locked in it, and GNU OpenMP's pool has
// lost its threads but not its count of them: the next parallel region would wait for ever. So locks are taken around
// fork(), and what runs in a child stays on one thread.
#pragma once

#include <ATen/Parallel.h>

#include <cstdint>
#include <mutex>

namespace fpsa::ops {

/// The lock of what all calls share (workspace, plans, schedules): held for a few pointer moves, never while computing.
std::unique_lock<std::mutex> fork_safe_lock();

/// Whether this process is a child of one that had loaded the operators, forked without exec.
bool is_forked();

/// at::parallel_for, on the calling thread alone in a forked child.
template <class Function>
void parallel_for(int64_t begin, int64_t end, int64_t grain, const Function& fn) {
  if (!is_forked())
    at::parallel_for(begin, end, grain, fn);
  else if (begin < end)
    fn(begin, end);
}

}  // namespace fpsa::ops
