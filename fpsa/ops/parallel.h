// torch's threads for the plan room, and the workspace that calls share.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "fpsa/plan/parallel.h"
#include "fpsa/plan/workspace.h"

namespace fpsa::ops {

/// at::parallel_for as a runner: at::get_num_threads() workers, one inside a parallel region or a forked child.
class TorchRunner final : public plan::ParallelRunner {
 public:
  int workers() const override;
  void run(int count, Function function, void* context) override;
};

/// A workspace for one call. The last one given back is kept for the next call, whichever thread makes it: pages
/// of a fresh one would be faulted in each time.
class BorrowedWorkspace {
 public:
  explicit BorrowedWorkspace(int64_t bytes);
  ~BorrowedWorkspace();
  BorrowedWorkspace(const BorrowedWorkspace&) = delete;
  BorrowedWorkspace& operator=(const BorrowedWorkspace&) = delete;

  std::span<std::byte> bytes() { return workspace_.bytes(); }

 private:
  plan::Workspace workspace_;
};

}  // namespace fpsa::ops
