// The memory that a run works in.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

namespace fpsa::plan {

/// Where every part of a workspace begins, so that no vector load straddles lines and no two workers share one.
inline constexpr int64_t kWorkspaceAlignment = 64;

/// An aligned buffer that grows and never shrinks.
///   Threads   one run at a time
class Workspace {
 public:
  Workspace() = default;
  explicit Workspace(int64_t bytes) { reserve(bytes); }

  /// Holds at least `bytes` afterwards; what it held before may be lost.
  ///   Errors    std::bad_alloc
  void reserve(int64_t bytes);
  std::span<std::byte> bytes() { return {memory_.get(), static_cast<size_t>(bytes_)}; }

 private:
  struct Free {
    void operator()(std::byte* memory) const;
  };
  std::unique_ptr<std::byte, Free> memory_;
  int64_t bytes_ = 0;
};

}  // namespace fpsa::plan
