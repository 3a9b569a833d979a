#include "fpsa/kernel/cuda/emulation/fibers.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

namespace fpsa::kernel::cuda::emulation {
namespace {

// makecontext passes only ints to a fiber, so it finds its owner here.
thread_local Fibers* entering = nullptr;

// AddressSanitizer must know which stack is in use.
void leave_stack([[maybe_unused]] void** save, [[maybe_unused]] const void* bottom, [[maybe_unused]] size_t bytes) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(save, bottom, bytes);
#endif
}
void arrive_on_stack([[maybe_unused]] void* saved, [[maybe_unused]] const void** bottom,
                     [[maybe_unused]] size_t* bytes) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(saved, bottom, bytes);
#endif
}

}  // namespace

Fibers::Fibers(int count, std::function<void(int)> body)
    : body_(std::move(body)),
      contexts_(static_cast<size_t>(count)),
      ended_(static_cast<size_t>(count)),
      shadow_stacks_(static_cast<size_t>(count)) {
  for (int i = 0; i < count; ++i) {
    stacks_.push_back(std::make_unique_for_overwrite<char[]>(kStackBytes));
    ucontext_t& context = contexts_[static_cast<size_t>(i)];
    getcontext(&context);
    context.uc_stack.ss_sp = stacks_.back().get();
    context.uc_stack.ss_size = kStackBytes;
    context.uc_link = nullptr;
    makecontext(&context, &Fibers::enter, 0);
  }
}

void Fibers::enter() {
  Fibers& self = *entering;
  arrive_on_stack(nullptr, &self.outside_stack_, &self.outside_bytes_);
  self.body_(self.current_);
  self.ended_[static_cast<size_t>(self.current_)] = true;
  leave_stack(nullptr, self.outside_stack_, self.outside_bytes_);
  setcontext(&self.outside_);
}

void Fibers::resume(int fiber) {
  const auto at = static_cast<size_t>(fiber);
  current_ = fiber;
  entering = this;
  void* shadow = nullptr;
  leave_stack(&shadow, stacks_[at].get(), kStackBytes);
  swapcontext(&outside_, &contexts_[at]);
  arrive_on_stack(shadow, nullptr, nullptr);
  current_ = -1;
}

void Fibers::yield() {
  const auto at = static_cast<size_t>(current_);
  leave_stack(&shadow_stacks_[at], outside_stack_, outside_bytes_);
  swapcontext(&contexts_[at], &outside_);
  arrive_on_stack(shadow_stacks_[at], &outside_stack_, &outside_bytes_);
}

}  // namespace fpsa::kernel::cuda::emulation
