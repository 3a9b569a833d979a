// The operators on CUDA tensors against the same operators on the CPU.
#pragma once

#include <string>
#include <vector>

namespace fpsa::gpu {

struct OperatorVerdict {
  std::string name;
  std::string failure;  // empty where it passed
};

/// Forward and backward in BF16, F16 and F32, both precisions and head dims, heads first and not, with the kernel that
/// must have run; through autograd; keys of another number than queries; the pre-pass; codes bit for bit; strides that
/// must be copied, and odd ones along dimensions of one; a plan first used on another stream; F32 refused where torch
/// does not allow its rounding.
std::vector<OperatorVerdict> check_operators(int device);

}  // namespace fpsa::gpu
