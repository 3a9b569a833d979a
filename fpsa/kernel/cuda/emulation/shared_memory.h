// The shared memory of a block, with the history of each byte.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "fpsa/kernel/cuda/emulation/site.h"

namespace fpsa::kernel::cuda::emulation {

class Block;

class SharedMemory {
 public:
  SharedMemory(Block& block, uint32_t base, uint32_t bytes);

  // Ordinary accesses of the current thread (the generic proxy).
  void read(uint32_t address, void* into, uint32_t bytes, Site site);
  void write(uint32_t address, const void* from, uint32_t bytes, Site site);
  /// fence.proxy.async of the current thread.
  void fence();
  /// The 8 bytes of an mbarrier: only barrier instructions may touch them.
  void reserve(uint32_t address, Site site);

  // Accesses of copies and products (the async proxy). `site` is where they were issued, `thread` by whom.
  /// The current thread may issue something that reads these bytes.
  void check_readable(uint32_t address, uint32_t bytes, Site site);
  const uint8_t* async_read(uint32_t address, uint32_t bytes, int thread, Site site);
  /// A load into these bytes is issued, by the current thread of a block of the cluster; they are lost until landed()
  /// says that its barrier's phase has ended.
  void begin_load(const Block& from, uint32_t address, uint32_t bytes, uint32_t barrier, Site site);
  uint8_t* landing(uint32_t address) { return bytes_.data() + address; }
  void landed(uint32_t address, uint32_t bytes, uint32_t barrier, uint64_t phase);

 private:
  enum class State : uint8_t { kUnwritten, kGeneric, kInFlight, kLanded, kBarrier };
  struct History {
    State state = State::kUnwritten;
    int16_t writer = -1;   // kGeneric: the thread, of the block; its fences until then in `mark`
    uint32_t time = 0;     // kGeneric: of the writer (order.h)
    uint32_t barrier = 0;  // kInFlight, kLanded
    uint64_t mark = 0;     // kLanded: the phase
  };
  // Who does something with the memory: a thread of the block, or of another one that brings bytes.
  struct Thread {
    const Block& block;
    int index;
  };
  Thread self() const;
  std::string named(uint32_t address, const Thread& by) const;
  void check_bounds(uint32_t address, uint32_t bytes, const Thread& by, Site site, const char* what);
  /// Whether the bytes are there for a thread, through either proxy.
  void check_there(const History& byte, uint32_t address, const Thread& by, Site site, const char* what);
  /// That a barrier stands between what an ordinary store wrote and the thread.
  void check_ordered(const History& byte, uint32_t address, const Thread& by, Site site, const char* what);
  void check_fenced(const History& byte, uint32_t address, const Thread& by, Site site, const char* what);

  Block& block_;
  uint32_t base_;
  std::vector<uint8_t> bytes_;  // by address, those below base_ too
  std::vector<History> history_;
  std::vector<uint64_t> fences_;  // of each thread
};

}  // namespace fpsa::kernel::cuda::emulation
