// Arrays of heads as callers have them.
#pragma once

#include <cstdint>

#include "fpsa/kernel/attention.h"

namespace fpsa::plan {

/// A [B,H,L,D] array: element (b, h, l, d) lies at b * batch + h * head + l * token + d, strides in elements. So
/// [B,L,H,D] is another choice of strides.
template <class Pointer>
struct Strided {
  Pointer data = nullptr;
  int64_t batch = 0, head = 0, token = 0;
};
using Source = Strided<const void*>;
using Target = Strided<void*>;

inline int64_t element_bytes(kernel::Dtype dtype) {
  return dtype == kernel::Dtype::kF32 ? 4 : dtype == kernel::Dtype::kBf16 ? 2 : 1;
}

/// Rows of head job % heads of batch job / heads.
inline kernel::RowsView head_rows(const Source& x, kernel::Dtype dtype, int64_t job, int64_t heads,
                                  const int32_t* index) {
  const int64_t elements = job / heads * x.batch + job % heads * x.head;
  return {static_cast<const char*>(x.data) + elements * element_bytes(dtype), x.token, index};
}

}  // namespace fpsa::plan
