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

SharedMemory::Thread SharedMemory::self() const {
  return {block_, block_.self()};
}

std::string SharedMemory::named(uint32_t address, const Thread& by) const {
  const std::string text = "shared address " + std::to_string(address);
  return &by.block == &block_ ? text : text + " of block " + std::to_string(block_.index());
}

void SharedMemory::check_bounds(uint32_t address, uint32_t bytes, const Thread& by, Site site, const char* what) {
  if (address < base_ || uint64_t{address} + bytes > bytes_.size())
    by.block.fail_for(by.index, site, what, " of ", bytes, " bytes at ", named(address, by), ", beyond the block's ",
                      bytes_.size() - base_, " bytes from ", base_);
}

void SharedMemory::check_there(const History& byte, uint32_t address, const Thread& by, Site site, const char* what) {
  switch (byte.state) {
    case State::kUnwritten:
      by.block.fail_for(by.index, site, what, " of ", named(address, by), ", which nothing has written");
    case State::kInFlight:
      by.block.fail_for(by.index, site, what, " of ", named(address, by), ", whose bytes have not landed: barrier ",
                        byte.barrier, " has not ended its phase");
    case State::kBarrier:
      by.block.fail_for(by.index, site, what, " of ", named(address, by), ", which holds an mbarrier");
    case State::kLanded:
      if (block_.barriers().observed(by.index, byte.barrier) <= byte.mark)
        by.block.fail_for(by.index, site, what, " of ", named(address, by),
                          " by a thread that has not waited for phase ", byte.mark, " of barrier ", byte.barrier);
      break;
    case State::kGeneric:
      check_ordered(byte, address, by, site, what);
      break;
  }
}

void SharedMemory::check_ordered(const History& byte, uint32_t address, const Thread& by, Site site, const char* what) {
  if (byte.state != State::kGeneric ||
      block_.order().knows(by.block.number(by.index), block_.number(byte.writer), byte.time))
    return;
  by.block.fail_for(by.index, site, what, " of ", named(address, by), ", which thread ", byte.writer,
                    &by.block == &block_ ? "" : " there", " wrote, without a barrier between the two threads since");
}

void SharedMemory::check_fenced(const History& byte, uint32_t address, const Thread& by, Site site, const char* what) {
  if (byte.state == State::kGeneric && fences_[static_cast<size_t>(byte.writer)] == byte.mark)
    by.block.fail_for(by.index, site, what, " of ", named(address, by), ", which thread ", byte.writer,
                      &by.block == &block_ ? "" : " there",
                      " wrote with an ordinary store and no fence.proxy.async since");
}

void SharedMemory::read(uint32_t address, void* into, uint32_t bytes, Site site) {
  const Thread by = self();
  check_bounds(address, bytes, by, site, "read");
  if (address % bytes != 0) block_.fail(site, "read of ", bytes, " bytes at shared address ", address, ": misaligned");
  for (uint32_t i = 0; i < bytes; ++i)
    check_there(history_[address + i], address + i, by, site, "read");
  std::memcpy(into, bytes_.data() + address, bytes);
}

void SharedMemory::write(uint32_t address, const void* from, uint32_t bytes, Site site) {
  const Thread by = self();
  check_bounds(address, bytes, by, site, "write");
  if (address % bytes != 0) block_.fail(site, "write of ", bytes, " bytes at shared address ", address, ": misaligned");
  for (uint32_t i = 0; i < bytes; ++i) {
    History& byte = history_[address + i];
    if (byte.state == State::kInFlight || byte.state == State::kBarrier)
      check_there(byte, address + i, by, site, "write");
    check_ordered(byte, address + i, by, site, "write");
    byte = {State::kGeneric, static_cast<int16_t>(by.index), block_.order().now(block_.number(by.index)), 0,
            fences_[static_cast<size_t>(by.index)]};
  }
  std::memcpy(bytes_.data() + address, from, bytes);
}

void SharedMemory::fence() {
  ++fences_[static_cast<size_t>(block_.self())];
}

void SharedMemory::reserve(uint32_t address, Site site) {
  check_bounds(address, 8, self(), site, "mbarrier");
  if (address % 8 != 0) block_.fail(site, "mbarrier at shared address ", address, ": expected a multiple of 8");
  for (uint32_t i = 0; i < 8; ++i)
    history_[address + i].state = State::kBarrier;
}

void SharedMemory::check_readable(uint32_t address, uint32_t bytes, Site site) {
  const Thread by = self();
  check_bounds(address, bytes, by, site, "product");
  for (uint32_t i = 0; i < bytes; ++i) {
    check_there(history_[address + i], address + i, by, site, "product");
    check_fenced(history_[address + i], address + i, by, site, "product");
  }
}

const uint8_t* SharedMemory::async_read(uint32_t address, uint32_t bytes, int thread, Site site) {
  const Thread by{block_, thread};
  check_bounds(address, bytes, by, site, "async read");
  for (uint32_t i = 0; i < bytes; ++i) {
    check_there(history_[address + i], address + i, by, site, "async read");
    check_fenced(history_[address + i], address + i, by, site, "async read");
  }
  return bytes_.data() + address;
}

void SharedMemory::begin_load(const Block& from, uint32_t address, uint32_t bytes, uint32_t barrier, Site site) {
  const Thread by{from, from.self()};
  check_bounds(address, bytes, by, site, "load");
  for (uint32_t i = 0; i < bytes; ++i) {
    History& byte = history_[address + i];
    if (byte.state == State::kInFlight || byte.state == State::kBarrier)
      check_there(byte, address + i, by, site, "load over bytes");
    check_ordered(byte, address + i, by, site, "load over bytes");
    check_fenced(byte, address + i, by, site, "load over bytes");
    byte = {State::kInFlight, -1, 0, barrier, 0};
  }
}

void SharedMemory::landed(uint32_t address, uint32_t bytes, uint32_t barrier, uint64_t phase) {
  for (uint32_t i = 0; i < bytes; ++i)
    history_[address + i] = {State::kLanded, -1, 0, barrier, phase};
}

}  // namespace fpsa::kernel::cuda::emulation
