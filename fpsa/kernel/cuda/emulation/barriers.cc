#include "fpsa/kernel/cuda/emulation/barriers.h"

#include "fpsa/kernel/cuda/emulation/block.h"

namespace fpsa::kernel::cuda::emulation {

Barriers::Barriers(Block& block)
    : block_(block),
      observed_(static_cast<size_t>(block.threads())),
      last_wait_(static_cast<size_t>(block.threads())) {}

void Barriers::init(uint32_t address, uint32_t arrivals, Site site) {
  if (arrivals < 1) block_.fail(site, "mbarrier at ", address, " for ", arrivals, " arrivals: expected 1 or more");
  if (mbarriers_.contains(address)) block_.fail(site, "mbarrier at ", address, " is made twice");
  block_.shared().reserve(address, site);
  Mbarrier& barrier = mbarriers_[address];
  barrier.arrivals = barrier.pending = arrivals;
  barrier.owner = block_.self();
  barrier.made_at = named_[0].generation;
  barrier.made_at_of_cluster = block_.cluster().generation();
}

void Barriers::fence_init() {
  for (auto& [address, barrier] : mbarriers_)
    if (barrier.owner == block_.self()) barrier.fenced = true;
}

Barriers::Mbarrier& Barriers::find(const Block& from, uint32_t address, Site site) {
  const bool own = &from == &block_;
  const auto found = mbarriers_.find(address);
  if (found == mbarriers_.end()) from.fail(site, "there is no mbarrier at shared address ", address);
  Mbarrier& barrier = found->second;
  if (own && barrier.owner == block_.self()) return barrier;
  const bool met = barrier.made_at_of_cluster != block_.cluster().generation();
  if (!met && !(own && named_[0].generation != barrier.made_at))
    from.fail(site, "mbarrier at ", address, ", which thread ", barrier.owner, own ? "" : " of another block",
              " made, is used without a barrier of the ", own ? "block" : "cluster", " in between");
  if (!own && !barrier.fenced)
    from.fail(site, "mbarrier at ", address, " of another block, made by thread ", barrier.owner,
              " without fence.mbarrier_init since");
  return barrier;
}

void Barriers::check_bytes(const Mbarrier& barrier, uint32_t address, const Block& from, int thread, Site site) const {
  if (barrier.bytes < 0 && (barrier.pending == 0 || &from == &block_))
    from.fail_for(thread, site, "barrier ", address, " got ", -barrier.bytes, " bytes more than phase ", barrier.phase,
                  " expects");
}

void Barriers::end_phase_if_complete(uint32_t address, Mbarrier& barrier) {
  if (barrier.pending != 0 || barrier.bytes != 0) return;
  for (const auto& [to, bytes] : barrier.landings)
    block_.shared().landed(to, bytes, address, barrier.phase);
  barrier.landings.clear();
  barrier.clocks.end(barrier.phase);
  ++barrier.phase;
  barrier.pending = barrier.arrivals;
  block_.notify(&barrier);
}

void Barriers::arrive_from(const Block& from, uint32_t address, uint32_t expect_bytes, Site site) {
  Mbarrier& barrier = find(from, address, site);
  if (barrier.pending == 0)
    from.fail(site, "arrival ", barrier.arrivals + 1, " at barrier ", address, ", whose phase ", barrier.phase, " has ",
              barrier.arrivals);
  // The instruction's scope is the block: what the thread wrote is not known to another one.
  if (&from == &block_) barrier.clocks.arrive(block_.order(), block_.number(block_.self()));
  barrier.bytes += expect_bytes;
  --barrier.pending;
  if (barrier.pending == 0) check_bytes(barrier, address, from, from.self(), site);
  end_phase_if_complete(address, barrier);
}

void Barriers::wait(uint32_t address, uint32_t parity, Site site) {
  if (parity > 1) block_.fail(site, "parity ", parity, " for barrier ", address, ": expected 0 or 1");
  Mbarrier& barrier = find(block_, address, site);
  const auto thread = static_cast<size_t>(block_.self());
  auto& last = last_wait_[thread];
  const auto before = last.find(address);
  if (before != last.end() && before->second == parity)
    block_.fail(site, "wrong phase: waits for parity ", parity, " of barrier ", address, " a second time, phase ",
                barrier.phase);
  last[address] = parity;
  while ((barrier.phase & 1) == parity)
    block_.block_on(&barrier, {"parity", parity, "of barrier", address, site});
  barrier.clocks.wait(block_.order(), block_.number(block_.self()), parity);
  observed_[thread][address] = barrier.phase;
}

void Barriers::expect_landing(const Block& from, uint32_t address, uint32_t to, uint32_t bytes, Site site) {
  Mbarrier& barrier = find(from, address, site);
  if (!barrier.fenced)
    from.fail(site, "a copy uses barrier ", address, ", made by thread ", barrier.owner,
              " without fence.mbarrier_init since");
  barrier.landings.emplace_back(to, bytes);
}

void Barriers::complete_bytes(const Block& from, uint32_t address, uint32_t bytes, int thread, Site site) {
  Mbarrier& barrier = mbarriers_.at(address);
  barrier.bytes -= bytes;
  check_bytes(barrier, address, from, thread, site);
  end_phase_if_complete(address, barrier);
}

uint64_t Barriers::observed(int thread, uint32_t address) const {
  const auto& known = observed_[static_cast<size_t>(thread)];
  const auto found = known.find(address);
  return found == known.end() ? 0 : found->second;
}

void Barriers::named(int barrier, int threads, bool wait, Site site) {
  if (barrier < 0 || barrier > 15) block_.fail(site, "named barrier ", barrier, ": expected 0 to 15");
  if (threads % 32 != 0 || threads < 32 || threads > block_.threads())
    block_.fail(site, "named barrier ", barrier, " of ", threads, " threads: expected a multiple of 32 up to ",
                block_.threads());
  Named& at = named_[static_cast<size_t>(barrier)];
  if (at.arrived == 0) at.threads = threads;
  if (at.threads != threads)
    block_.fail(site, "named barrier ", barrier, " of ", threads, " threads, which others use with ", at.threads);
  const auto thread = static_cast<size_t>(block_.self());
  if (at.who[thread]) block_.fail(site, "arrives twice at named barrier ", barrier, " before the others have come");
  at.who.set(thread);
  const uint64_t generation = at.generation;
  at.clocks.arrive(block_.order(), block_.number(block_.self()));
  if (++at.arrived == threads) {
    at.who.reset();
    at.arrived = 0;
    at.clocks.end(generation);
    ++at.generation;
    block_.notify(&at);
  }
  if (!wait) return;
  while (at.generation == generation)
    block_.block_on(
        &at, {"threads", static_cast<uint32_t>(threads), "at named barrier", static_cast<uint32_t>(barrier), site});
  at.clocks.wait(block_.order(), block_.number(block_.self()), generation);
}

void Barriers::check_idle_at_exit() {
  for (int i = 0; i < 16; ++i) {
    const Named& at = named_[static_cast<size_t>(i)];
    if (at.arrived != 0)
      block_.fail_for(-1, {}, "named barrier ", i, " is left with ", at.arrived, " of ", at.threads, " arrivals");
  }
  for (const auto& [address, barrier] : mbarriers_)
    if (barrier.bytes != 0)
      block_.fail_for(-1, {}, "barrier ", address, " is left with ", barrier.bytes, " bytes that have not landed");
}

}  // namespace fpsa::kernel::cuda::emulation
