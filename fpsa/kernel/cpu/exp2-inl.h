// 2^x for x <= 8 on vectors. Internal linkage; for ISA files only.
#pragma once

#include <cstdint>

namespace fpsa::kernel {
namespace {

// 2^n times a polynomial of the rest in [-1/2, 1/2]; coefficients minimise the largest relative error.
// Below -125 the result stays near 2^-125: nothing beside a largest term of at least 1/2. NaN stays NaN.
template <class V>
typename V::F exp2_rest(typename V::F& magic, typename V::F x) {
  const auto kMagic = V::set1(0x1.8p23f + 127.0f);  // also biases the exponent for scale_by_magic
  x = V::max(V::set1(-125.0f), x);
  magic = V::add(x, kMagic);
  return V::sub(x, V::sub(magic, kMagic));
}

// kUnit * 2^x. Relative error 2.6e-6: far below the rounding of P to BF16, E4M3 or 1/255.
template <class V, int kUnit = 1>
typename V::F exp2_degree4(typename V::F x) {
  constexpr float kFactor = kUnit;
  typename V::F n;
  const auto f = exp2_rest<V>(n, x);
  auto p = V::fma(V::set1(kFactor * 0x1.3997d6p-7f), f, V::set1(kFactor * 0x1.ca1444p-5f));
  p = V::fma(p, f, V::set1(kFactor * 0x1.ec06dap-3f));
  p = V::fma(p, f, V::set1(kFactor * 0x1.62e0dcp-1f));
  return V::scale_by_magic(V::fma(p, f, V::set1(kFactor * 0x1.ffffe8p-1f)), n);
}

// Relative error 2e-9 before rounding: F32 accuracy.
template <class V>
typename V::F exp2_degree6(typename V::F x) {
  typename V::F n;
  const auto f = exp2_rest<V>(n, x);
  auto p = V::fma(V::set1(0x1.41d334p-13f), f, V::set1(0x1.5f456ap-10f));
  p = V::fma(p, f, V::set1(0x1.3b2dbcp-7f));
  p = V::fma(p, f, V::set1(0x1.c6aed4p-5f));
  p = V::fma(p, f, V::set1(0x1.ebfbdap-3f));
  p = V::fma(p, f, V::set1(0x1.62e430p-1f));
  return V::scale_by_magic(V::fma(p, f, V::set1(1.0f)), n);
}

}  // namespace
}  // namespace fpsa::kernel
