// Values that are slow to make and asked for again: the most recent ones, shared by all threads.
#pragma once

#include <cstddef>
#include <iterator>
#include <list>
#include <memory>
#include <utility>

#include "fpsa/ops/fork.h"

namespace fpsa::ops {

/// At most `kMax` values by their keys; the one that was not asked for longest goes first. Make it a function's static
/// reference to a new object, so that threads that still compute while the process ends find it whole.
///   Threads   safe, also in a child that was forked while another thread was inside. Values are made and freed outside
///             the lock, since both take long: two threads that want the same new one make it twice
template <class Key, class Value, size_t kMax>
class Recent {
 public:
  /// The value of a key, or make(), a std::shared_ptr to one. What make() throws passes through.
  template <class Make>
  std::shared_ptr<const Value> get(const Key& key, const Make& make) {
    {
      const auto lock = fork_safe_lock();
      for (auto at = entries_.begin(); at != entries_.end(); ++at)
        if (at->first == key) {
          entries_.splice(entries_.begin(), entries_, at);
          return at->second;
        }
    }
    std::list<Entry> fresh, dropped;
    fresh.emplace_back(key, make());
    std::shared_ptr<const Value> made = fresh.front().second;
    {
      const auto lock = fork_safe_lock();
      entries_.splice(entries_.begin(), fresh);
      if (entries_.size() > kMax) dropped.splice(dropped.begin(), entries_, std::prev(entries_.end()));
    }
    return made;
  }

 private:
  using Entry = std::pair<Key, std::shared_ptr<const Value>>;
  std::list<Entry> entries_;  // most recently used first
};

}  // namespace fpsa::ops
