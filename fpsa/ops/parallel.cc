#include "fpsa/ops/parallel.h"

#include <ATen/Parallel.h>

#include <utility>

#include "fpsa/ops/fork.h"

namespace fpsa::ops {
namespace {

plan::Workspace& kept() {
  static auto& one = *new plan::Workspace;  // never destroyed: other threads may compute while the process ends
  return one;
}

}  // namespace

int TorchRunner::workers() const {
  return at::in_parallel_region() || is_forked() ? 1 : at::get_num_threads();
}

void TorchRunner::run(int count, Function function, void* context) {
  parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t worker = begin; worker < end; ++worker)
      function(context, static_cast<int>(worker));
  });
}

BorrowedWorkspace::BorrowedWorkspace(int64_t bytes) {
  {
    const auto lock = fork_safe_lock();
    std::swap(workspace_, kept());
  }
  workspace_.reserve(bytes);
}

BorrowedWorkspace::~BorrowedWorkspace() {
  const auto lock = fork_safe_lock();
  if (workspace_.bytes().size() > kept().bytes().size()) std::swap(workspace_, kept());
}

}  // namespace fpsa::ops
