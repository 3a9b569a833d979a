// A choice between two integers that compilers keep branch-free.
#pragma once

#include <cstdint>

namespace fpsa::numeric {

/// Returns a if the condition holds, else b. Written with a mask because g++ 12 turns a chain of `?:` over
/// several operations back into branches, which then keep a loop from being vectorised.
constexpr int32_t select(bool condition, int32_t a, int32_t b) {
  const int32_t mask = -static_cast<int32_t>(condition);
  return (a & mask) | (b & ~mask);
}

}  // namespace fpsa::numeric
