// What the files that register operators share.
#pragma once

#include <ATen/ATen.h>
#include <torch/library.h>

#include <cstdint>
#include <vector>

#include "fpsa/base/check.h"
#include "fpsa/pattern/grid.h"

namespace fpsa::ops {

/// Runs fn(); errors of the rooms below, which know nothing of torch, become Python's ValueError.
template <class Function>
auto translated(const Function& fn) {
  try {
    return fn();
  } catch (const Error& error) {
    TORCH_CHECK_VALUE(false, error.what());
  }
}

/// A list of three as a grid.
inline pattern::Grid triple(at::IntArrayRef values, const char* name) {
  TORCH_CHECK_VALUE(values.size() == 3, name, ": expected [t, y, x], got ", values);
  return {values[0], values[1], values[2]};
}

/// The numbers of a 1-D integer tensor.
std::vector<int32_t> int32_values(const at::Tensor& x, const char* name);

}  // namespace fpsa::ops
