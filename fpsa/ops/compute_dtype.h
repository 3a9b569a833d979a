// The type in which torch's own products are fast on this machine's CPU.
#pragma once

#include <ATen/core/TensorBody.h>

namespace fpsa::ops {

/// BF16 where torch has blocked BF16 products and convolutions: with AVX-512 (BW, VL, DQ) and above. Below that it runs
/// them as plain loops on one thread, tens of times slower than F32, so F32. FPSA_ISA does not change it: that variable
/// chooses among our kernels only.
at::ScalarType fast_compute_dtype();

}  // namespace fpsa::ops
