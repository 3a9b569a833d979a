// What the operators say of CUDA where there is none, and of calls that the kernels do not take anywhere.
#include <gtest/gtest.h>

#include "fpsa/base/check.h"
#include "fpsa/kernel/cuda/cuda.h"
#include "fpsa/ops/cuda_attention.h"
#include "fpsa/ops/cuda_steps.h"
#include "fpsa/ops/cuda_stream.h"
#include "fpsa/ops/views.h"

namespace fpsa::ops {
namespace {

TEST(CudaAttention, RefusalsNameTheArgumentAndTheRemedy) {
  EXPECT_EQ(cuda_refusal(CudaRequest{}), "");
  EXPECT_EQ(cuda_refusal({.dim = 64, .precision = Precision::kE4m3}), "");
  EXPECT_EQ(cuda_refusal({.dim = 80}),
            "head_dim: expected 64 or 128 on CUDA, got 80; pad it with zeros, or use torch's "
            "scaled_dot_product_attention");
  EXPECT_EQ(cuda_refusal({.dtype = at::kFloat}), "dtype: expected bfloat16 on CUDA, got Float; cast it first");
  EXPECT_EQ(cuda_refusal({.precision = Precision::kInt8}),
            "precision int8 is the CPU's own, expected e4m3 or none on CUDA; choose e4m3");
  EXPECT_EQ(cuda_refusal({.precision = Precision::kE4m3, .smooth_keys = true}),
            "smooth_keys is for INT8 on the CPU, expected false on CUDA; leave it off");
}

TEST(CudaAttention, ReadableAreStridesOfSixteenBytes) {
  const auto x = at::zeros({2, 5, 3, 64}, at::kBFloat16);
  EXPECT_TRUE(readable_by_kernels(x));
  EXPECT_TRUE(readable_by_kernels(x.transpose(1, 2)));
  EXPECT_TRUE(readable_by_kernels(x.narrow(2, 1, 1)));
  EXPECT_FALSE(readable_by_kernels(x.transpose(2, 3)));
  EXPECT_FALSE(readable_by_kernels(at::zeros({2, 5, 3, 68}, at::kBFloat16).narrow(3, 0, 64)));
}

TEST(CudaAttention, AProjectionOnTheCpuIsTakenAsBefore) {
  EXPECT_TRUE(projectable(at::zeros({1, 4, 128}), 2, Precision::kInt8));
  EXPECT_FALSE(projectable(at::zeros({1, 4, 128}), 3, Precision::kE4m3));
}

TEST(CudaAttention, WithoutADeviceThePlanAndTheStreamSayWhy) {
  if (kernel::cuda::available()) GTEST_SKIP() << "this machine has a device that runs the kernels";
  const auto plan = cuda_dense_plan(700);
  EXPECT_EQ(plan->order().tile_count(), 2);
  EXPECT_TRUE(plan->dense());
  EXPECT_THROW(plan_on_device(*plan, 0, nullptr), Error);
  if (!at::hasCUDA()) {
    EXPECT_THROW(current_cuda_stream(0), c10::Error);
  }
}

}  // namespace
}  // namespace fpsa::ops
