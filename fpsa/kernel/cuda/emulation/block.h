// One block in emulation: its threads, its memory, what is under way, and the choice of what happens next.
#pragma once

#include <functional>
#include <map>
#include <random>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "fpsa/kernel/cuda/emulation/barriers.h"
#include "fpsa/kernel/cuda/emulation/cluster.h"
#include "fpsa/kernel/cuda/emulation/copies.h"
#include "fpsa/kernel/cuda/emulation/fibers.h"
#include "fpsa/kernel/cuda/emulation/run.h"
#include "fpsa/kernel/cuda/emulation/shared_memory.h"
#include "fpsa/kernel/cuda/emulation/warp.h"
#include "fpsa/kernel/cuda/emulation/warpgroup.h"

namespace fpsa::kernel::cuda::emulation {

/// What a thread waits for, for the message of a deadlock: "parity 1 of barrier 64".
struct Waiting {
  const char* what = "";
  uint32_t value = 0;
  const char* where = "";
  uint32_t id = 0;
  Site site;
};

class Block {
 public:
  Block(const Launch& launch, const Options& options, int index, const std::function<void()>& kernel, Report& report,
        Cluster& cluster);

  /// Goes on for some steps, fewer when it has to wait for another block of its cluster; false when every thread has
  /// ended and nothing is under way.
  bool advance(uint64_t steps);
  /// Whether a thread can go on or something is under way.
  bool can_go_on() const;
  /// Who waits for what, a line for each thing.
  std::string waiting_threads() const;
  bool threads_ended() const { return left_ == 0; }

  /// The block whose thread is running.
  static Block& current();
  int self() const { return fibers_.current(); }
  int threads() const { return launch_.threads; }
  int index() const { return index_; }
  int rank() const { return index_ % launch_.cluster; }
  const Launch& launch() const { return launch_; }
  const Options& options() const { return options_; }
  uint64_t draw(uint64_t below) { return random_() % below; }

  Cluster& cluster() { return cluster_; }
  const Cluster& cluster() const { return cluster_; }
  /// Of all threads of the cluster, which number() names one.
  Order& order() { return cluster_.order(); }
  int number(int thread) const { return rank() * threads() + thread; }
  SharedMemory& shared() { return shared_; }
  Barriers& barriers() { return barriers_; }
  Copies& copies() { return copies_; }
  Warp& warp() { return warps_[static_cast<size_t>(self() / 32)]; }
  Warpgroup& warpgroup() { return warpgroups_[static_cast<size_t>(self() / 128)]; }
  RegisterPool& registers() { return registers_; }

  /// Begins an instruction of the current thread: notes the call and may let others go first.
  void begin(const char* function, Site site);
  /// Whether this call is the one to be mutated in this way.
  bool mutated(Mutation::Kind kind, const char* function, Site site) const;

  /// Stops the current thread until notify(key); the caller checks its condition again. Nothing that owns memory may be
  /// on the stack: after an error elsewhere the thread does not come back.
  void block_on(const void* key, const Waiting& waiting);
  void notify(const void* key);
  /// Lets others go on, other blocks too, until a counter in global memory has reached a value.
  void wait_for_others(const uint32_t* counter, uint32_t value, Site site);

  template <class... Parts>
  [[noreturn]] void fail(Site site, const Parts&... parts) const {
    fail_for(self(), site, parts...);
  }
  /// thread -1: no thread of its own.
  template <class... Parts>
  [[noreturn]] void fail_for(int thread, Site site, const Parts&... parts) const {
    std::ostringstream text;
    text << "block " << index_ << ", ";
    if (thread >= 0) text << "thread " << thread << " (warp " << thread / 32 << "): ";
    (text << ... << parts);
    if (site.line > 0) text << ", at " << site.file << ":" << site.line;
    throw Error(text.str());
  }

 private:
  int choose();   // the thread that goes on
  bool happen();  // something that is under way; false when nothing is

  const Launch& launch_;
  const Options& options_;
  int index_;
  const std::function<void()>& kernel_;
  Report& report_;
  Cluster& cluster_;
  std::set<std::pair<const char*, int>> seen_;
  std::mt19937_64 random_;
  Fibers fibers_;
  SharedMemory shared_;
  Barriers barriers_;
  Copies copies_;
  std::vector<Warp> warps_;
  std::vector<Warpgroup> warpgroups_;
  RegisterPool registers_;
  std::vector<std::vector<int>> runnable_;  // by warp
  int runnable_count_ = 0, left_ = 0;       // threads that can go on, that have not ended
  // Who is favoured, who is kept back and how seldom something that is under way happens, for a while each: so that
  // a producer runs far ahead, a lane falls far behind, a copy takes long.
  int favoured_warp_ = 0, starved_thread_ = 0;
  uint64_t calm_ = 8, picks_ = 0, starved_until_ = 0;
  std::map<const void*, std::vector<int>> blocked_;
  std::vector<Waiting> waiting_;  // by thread
  std::exception_ptr failure_;
};

}  // namespace fpsa::kernel::cuda::emulation
