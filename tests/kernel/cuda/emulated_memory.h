// Memory of emulated kernels: aligned as copies need it, and outputs that notice what is written outside of them.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "fpsa/kernel/cuda/attention_params.h"
#include "fpsa/kernel/cuda/ptx/math.h"
#include "fpsa/numeric/bf16.h"

namespace fpsa::kernel::cuda::testing_support {

inline constexpr float kGuard = -12345.0f;

/// 16-bit elements of either type from and to F32.
inline uint16_t bits_of(ptx::Element element, float x) {
  return element == ptx::Element::kF16 ? static_cast<uint16_t>(ptx::f16x2(x, 0)) : numeric::bf16_from_f32(x);
}
inline float value_of(ptx::Element element, uint16_t bits) {
  return element == ptx::Element::kF16 ? ptx::value_of_f16(bits) : numeric::f32_from_bf16(bits);
}

/// A buffer whose start is aligned as a tensor map needs it.
template <class T>
struct Aligned {
  explicit Aligned(size_t count) : memory(count + 64 / sizeof(T)) {
    data = memory.data();
    while (reinterpret_cast<uintptr_t>(data) % 64 != 0)
      ++data;
  }
  std::vector<T> memory;
  T* data;
};

/// Output of any type with guard values around and between its rows.
struct Cells {
  Cells(int64_t rows, int64_t dim, OutType type)
      : rows(rows), dim(dim), type(type), bytes(static_cast<size_t>((rows + 2) * pitch() * size())) {
    for (int64_t i = 0; i < (rows + 2) * pitch(); ++i)
      put(i, kGuard);
  }
  int64_t pitch() const { return dim + 8; }
  int64_t size() const { return type == OutType::kF32 ? 4 : 2; }
  void* start() { return bytes.data + pitch() * size(); }
  void put(int64_t i, float x) {
    if (type == OutType::kF32)
      std::memcpy(bytes.data + i * 4, &x, 4);
    else {
      const uint32_t bits = type == OutType::kBf16 ? numeric::bf16_from_f32(x) : ptx::f16x2(x, 0);
      std::memcpy(bytes.data + i * 2, &bits, 2);
    }
  }
  float get(int64_t i) const {
    float x;
    uint16_t bits;
    if (type == OutType::kF32) return std::memcpy(&x, bytes.data + i * 4, 4), x;
    std::memcpy(&bits, bytes.data + i * 2, 2);
    return type == OutType::kBf16 ? numeric::f32_from_bf16(bits) : ptx::value_of_f16(bits);
  }
  // Values without the gaps, which must be untouched.
  std::vector<float> take() const {
    std::vector<float> values;
    const float guard = Cells(0, 8, type).get(0);
    for (int64_t row = -1; row <= rows; ++row)
      for (int64_t d = 0; d < pitch(); ++d) {
        const float x = get((row + 1) * pitch() + d);
        if (row >= 0 && row < rows && d < dim)
          values.push_back(x);
        else
          EXPECT_EQ(x, guard) << "written outside, row " << row << " element " << d;
      }
    return values;
  }
  int64_t rows, dim;
  OutType type;
  Aligned<uint8_t> bytes;
};

}  // namespace fpsa::kernel::cuda::testing_support
