#include "fpsa/kernel/cuda/emulation/order.h"

#include <algorithm>

namespace fpsa::kernel::cuda::emulation {
namespace {

void join(Order::Clock& into, const Order::Clock& from) {
  if (into.size() < from.size()) into.resize(from.size());
  for (size_t i = 0; i < from.size(); ++i)
    into[i] = std::max(into[i], from[i]);
}

}  // namespace

// Times begin at 1, so that nobody knows of another's first.
Order::Order(int threads) : clocks_(static_cast<size_t>(threads), Clock(static_cast<size_t>(threads))) {
  for (size_t i = 0; i < clocks_.size(); ++i)
    clocks_[i][i] = 1;
}

void Order::release(int thread, Clock& into) {
  Clock& mine = clocks_[static_cast<size_t>(thread)];
  join(into, mine);
  ++mine[static_cast<size_t>(thread)];
}

void Order::acquire(int thread, const Clock& from) {
  join(clocks_[static_cast<size_t>(thread)], from);
}

void Order::meet(int first, int count) {
  Clock all;
  for (int i = first; i < first + count; ++i)
    release(i, all);
  for (int i = first; i < first + count; ++i)
    acquire(i, all);
}

}  // namespace fpsa::kernel::cuda::emulation
