// What is made of a constant object once and should live as long as it, such as a copy on a device.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>

namespace fpsa::plan {

class Derived {
 public:
  /// The object under `key`, made when first asked for.
  ///   Threads   safe; two that ask for a new one wait for one make()
  ///   Errors    those of make(), after which nothing is kept
  std::shared_ptr<const void> get(int key, const std::function<std::shared_ptr<const void>()>& make) const {
    const std::lock_guard lock(mutex_);
    auto& kept = kept_[key];
    if (!kept) kept = make();
    return kept;
  }

 private:
  mutable std::mutex mutex_;
  mutable std::map<int, std::shared_ptr<const void>> kept_;
};

}  // namespace fpsa::plan
