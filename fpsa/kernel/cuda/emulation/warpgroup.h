// Matrix products of a warpgroup: deposited by 128 threads, executed in order at a time that the seed decides.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

#include "fpsa/kernel/cuda/emulation/site.h"

namespace fpsa::kernel::cuda::emulation {

class Block;

/// One wgmma.mma_async as one thread issues it.
struct Product {
  enum Type { kE4m3, kBf16, kF16 };
  Type type = kE4m3;
  int columns = 0;  // of D
  bool accumulate = false;
  bool a_in_registers = false, b_rows_along_k = false;
  uint64_t a = 0, b = 0;  // descriptors
  bool a_rows_along_k = false;

  /// The name that calls of it have in a Report and a Mutation, whichever function of ptx/wgmma.h issued it.
  const char* function() const { return type == kE4m3 ? "wgmma_e4m3" : type == kF16 ? "wgmma_f16" : "wgmma_bf16"; }
  int element_bytes() const { return type == kE4m3 ? 1 : 2; }
};

class Warpgroup {
 public:
  Warpgroup(Block& block, int index) : block_(&block), index_(index) {}

  // By the current thread. d has columns / 2 registers, a has 4 or is null.
  void fence() { threads_[lane()].fenced = true; }
  void deposit(const Product& product, float* d, const uint32_t* a, Site site);
  void commit() { threads_[lane()].commits.push_back(threads_[lane()].issued); }
  void wait(int groups, Site site);
  void check_idle_at_exit();

  bool has_ready() const { return !open_.empty() && open_.front().deposited == 128; }
  void execute();

 private:
  struct Open {
    Product product;
    Site site;
    int deposited = 0;
    std::array<float*, 128> d = {};
    std::array<const uint32_t*, 128> a = {};
  };
  // Registers of one thread that belong to products under way.
  struct Accumulator {
    float* registers;
    std::vector<float> value;
    uint64_t last;   // the product after which they are ready
    bool swap_pair;  // mutation
  };
  // A's registers of one product, which stay as they are until the wait for it.
  struct Operand {
    const uint32_t* registers;
    std::array<uint32_t, 4> at_issue;
    uint64_t product;
  };
  struct Thread {
    uint64_t issued = 0;
    bool fenced = false;
    std::vector<uint64_t> commits;  // products issued before each
    std::vector<Accumulator> accumulators;
    std::vector<Operand> operands;
  };
  size_t lane() const;
  void check_operand(uint64_t descriptor, int rows, bool along_k, Site site) const;
  /// A or B as [32 bytes of K as elements][rows].
  void gather(const Product& product, uint64_t descriptor, int rows, bool along_k, Site site, double* into) const;
  void gather_registers(const Open& open, double* into) const;

  Block* block_;
  int index_;
  std::deque<Open> open_;
  uint64_t executed_ = 0;
  std::array<Thread, 128> threads_;
};

}  // namespace fpsa::kernel::cuda::emulation
