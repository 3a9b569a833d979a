// The threads of a block as coroutines with stacks of their own (ucontext: in every glibc, no package, and it needs no
// more than a switch; its two system calls per switch cost less than the products that are emulated between them).
#pragma once

#include <ucontext.h>

#include <functional>
#include <memory>
#include <vector>

namespace fpsa::kernel::cuda::emulation {

class Fibers {
 public:
  /// `body` runs once in each fiber, and must not throw.
  Fibers(int count, std::function<void(int)> body);
  Fibers(const Fibers&) = delete;
  Fibers& operator=(const Fibers&) = delete;

  /// Goes on with a fiber until it yields or ends; called from outside all fibers.
  void resume(int fiber);
  /// Goes back to resume(); called from inside the current fiber.
  void yield();
  int current() const { return current_; }
  bool ended(int fiber) const { return ended_[static_cast<size_t>(fiber)]; }

 private:
  static constexpr size_t kStackBytes = 256 * 1024;
  static void enter();

  std::function<void(int)> body_;
  std::vector<ucontext_t> contexts_;
  std::vector<std::unique_ptr<char[]>> stacks_;
  std::vector<bool> ended_;
  std::vector<void*> shadow_stacks_;  // AddressSanitizer's, while a fiber does not run
  ucontext_t outside_ = {};
  const void* outside_stack_ = nullptr;
  size_t outside_bytes_ = 0;
  int current_ = -1;
};

}  // namespace fpsa::kernel::cuda::emulation
