// The operators on CUDA tensors against the same operators on the CPU.
#pragma once

#include <string>
#include <vector>

namespace fpsa::gpu {

struct OperatorVerdict {
  std::string name;
  std::string failure;  // empty where it passed
};

/// Forward and backward, both precisions and head dims, heads first and not, F16 and F32; keys of another number than
/// queries; the pre-pass; codes bit for bit; a call with
/// strides that must be copied; a captured plan that is not on the device.
std::vector<OperatorVerdict> check_operators(int device);

}  // namespace fpsa::gpu
