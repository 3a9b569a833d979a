#include "fpsa/plan/workspace.h"

#include <new>

namespace fpsa::plan {

void Workspace::Free::operator()(std::byte* memory) const {
  ::operator delete (memory, std::align_val_t{kWorkspaceAlignment});
}

void Workspace::reserve(int64_t bytes) {
  if (bytes <= bytes_) return;
  memory_.reset();  // first, so that the old and the new one need not fit together
  bytes_ = 0;
  memory_.reset(
      static_cast<std::byte*>(::operator new (static_cast<size_t>(bytes), std::align_val_t{kWorkspaceAlignment})));
  bytes_ = bytes;
}

}  // namespace fpsa::plan
