#include "fpsa/kernel/cuda/emulation/shared_memory.h"

#include <cstring>

#include "fpsa/kernel/cuda/emulation/block.h"

namespace fpsa::kernel::cuda::emulation {

SharedMemory::SharedMemory(Block& block, uint32_t base, uint32_t bytes)
    : block_(block),
      base_(base),
      bytes_(base + bytes, 0xa5),
      history_(bytes_.size()),
      fences_(static_cast<size_t>(block.threads())) {}

void SharedMemory::check_bounds(uint32_t address, uint32_t bytes, Site site, const char* what) {
  if (address < base_ || uint64_t{address} + bytes > bytes_.size())
    block_.fail(site, what, " of ", bytes, " bytes at shared address ", address, ", beyond the block's ",
                bytes_.size() - base_, " bytes from ", base_);
}

void SharedMemory::check_there(const History& byte, uint32_t address, int thread, Site site, const char* what) {
  switch (byte.state) {
    case State::kUnwritten:
      block_.fail_for(thread, site, what, " of shared address ", address, ", which nothing has written");
    case State::kInFlight:
      block_.fail_for(thread, site, what, " of shared address ", address, ", whose bytes have not landed: barrier ",
                      byte.barrier, " has not ended its phase");
    case State::kBarrier:
      block_.fail_for(thread, site, what, " of shared address ", address, ", which holds an mbarrier");
    case State::kLanded:
      if (block_.barriers().observed(thread, byte.barrier) <= byte.mark)
        block_.fail_for(thread, site, what, " of shared address ", address,
                        " by a thread that has not waited for phase ", byte.mark, " of barrier ", byte.barrier);
      break;
    case State::kGeneric:
      check_ordered(byte, address, thread, site, what);
      break;
  }
}

void SharedMemory::check_ordered(const History& byte, uint32_t address, int thread, Site site, const char* what) {
  if (byte.state == State::kGeneric && !block_.order().knows(thread, byte.writer, byte.time))
    block_.fail_for(thread, site, what, " of shared address ", address, ", which thread ", byte.writer,
                    " wrote, without a barrier between the two threads since");
}

void SharedMemory::check_fenced(const History& byte, uint32_t address, int thread, Site site, const char* what) {
  if (byte.state == State::kGeneric && fences_[static_cast<size_t>(byte.writer)] == byte.mark)
    block_.fail_for(thread, site, what, " of shared address ", address, ", which thread ", byte.writer,
                    " wrote with an ordinary store and no fence.proxy.async since");
}

void SharedMemory::read(uint32_t address, void* into, uint32_t bytes, Site site) {
  check_bounds(address, bytes, site, "read");
  if (address % bytes != 0) block_.fail(site, "read of ", bytes, " bytes at shared address ", address, ": misaligned");
  for (uint32_t i = 0; i < bytes; ++i)
    check_there(history_[address + i], address + i, block_.self(), site, "read");
  std::memcpy(into, bytes_.data() + address, bytes);
}

void SharedMemory::write(uint32_t address, const void* from, uint32_t bytes, Site site) {
  check_bounds(address, bytes, site, "write");
  if (address % bytes != 0) block_.fail(site, "write of ", bytes, " bytes at shared address ", address, ": misaligned");
  const int thread = block_.self();
  for (uint32_t i = 0; i < bytes; ++i) {
    History& byte = history_[address + i];
    if (byte.state == State::kInFlight || byte.state == State::kBarrier)
      check_there(byte, address + i, thread, site, "write");
    check_ordered(byte, address + i, thread, site, "write");
    byte = {State::kGeneric, static_cast<int16_t>(thread), block_.order().now(thread), 0,
            fences_[static_cast<size_t>(thread)]};
  }
  std::memcpy(bytes_.data() + address, from, bytes);
}

void SharedMemory::fence() {
  ++fences_[static_cast<size_t>(block_.self())];
}

void SharedMemory::reserve(uint32_t address, Site site) {
  check_bounds(address, 8, site, "mbarrier");
  if (address % 8 != 0) block_.fail(site, "mbarrier at shared address ", address, ": expected a multiple of 8");
  for (uint32_t i = 0; i < 8; ++i)
    history_[address + i].state = State::kBarrier;
}

void SharedMemory::check_readable(uint32_t address, uint32_t bytes, Site site) {
  check_bounds(address, bytes, site, "product");
  for (uint32_t i = 0; i < bytes; ++i) {
    check_there(history_[address + i], address + i, block_.self(), site, "product");
    check_fenced(history_[address + i], address + i, block_.self(), site, "product");
  }
}

const uint8_t* SharedMemory::async_read(uint32_t address, uint32_t bytes, int thread, Site site) {
  check_bounds(address, bytes, site, "async read");
  for (uint32_t i = 0; i < bytes; ++i) {
    check_there(history_[address + i], address + i, thread, site, "async read");
    check_fenced(history_[address + i], address + i, thread, site, "async read");
  }
  return bytes_.data() + address;
}

void SharedMemory::begin_load(uint32_t address, uint32_t bytes, uint32_t barrier, Site site) {
  check_bounds(address, bytes, site, "load");
  for (uint32_t i = 0; i < bytes; ++i) {
    History& byte = history_[address + i];
    if (byte.state == State::kInFlight || byte.state == State::kBarrier)
      check_there(byte, address + i, block_.self(), site, "load over bytes");
    check_ordered(byte, address + i, block_.self(), site, "load over bytes");
    check_fenced(byte, address + i, block_.self(), site, "load over bytes");
    byte = {State::kInFlight, -1, 0, barrier, 0};
  }
}

void SharedMemory::landed(uint32_t address, uint32_t bytes, uint32_t barrier, uint64_t phase) {
  for (uint32_t i = 0; i < bytes; ++i)
    history_[address + i] = {State::kLanded, -1, 0, barrier, phase};
}

}  // namespace fpsa::kernel::cuda::emulation
