#include "fpsa/ops/parallel.h"

#include <ATen/Parallel.h>

#include <mutex>
#include <utility>

namespace fpsa::ops {
namespace {

struct Kept {
  std::mutex mutex;
  plan::Workspace workspace;
};

Kept& kept() {
  static Kept one;
  return one;
}

}  // namespace

int TorchRunner::workers() const {
  return at::in_parallel_region() ? 1 : at::get_num_threads();
}

void TorchRunner::run(int count, Function function, void* context) {
  at::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t worker = begin; worker < end; ++worker)
      function(context, static_cast<int>(worker));
  });
}

BorrowedWorkspace::BorrowedWorkspace(int64_t bytes) {
  {
    const std::lock_guard lock(kept().mutex);
    std::swap(workspace_, kept().workspace);
  }
  workspace_.reserve(bytes);
}

BorrowedWorkspace::~BorrowedWorkspace() {
  const std::lock_guard lock(kept().mutex);
  if (workspace_.bytes().size() > kept().workspace.bytes().size()) std::swap(workspace_, kept().workspace);
}

}  // namespace fpsa::ops
