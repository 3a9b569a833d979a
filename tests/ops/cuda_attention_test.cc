// What the operators say of CUDA where there is none, and of calls that the kernels do not take anywhere.
#include <ATen/Context.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>

#include "fpsa/base/check.h"
#include "fpsa/kernel/cuda/cuda.h"
#include "fpsa/kernel/cuda/tiling/work_list.h"
#include "fpsa/ops/cuda_attention.h"
#include "fpsa/ops/cuda_plan.h"
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
  EXPECT_EQ(cuda_refusal({.dtype = at::kDouble}),
            "dtype: expected bfloat16, float16 or float32 on CUDA, got Double; cast it first");
  EXPECT_EQ(cuda_refusal({.precision = Precision::kInt8}),
            "precision int8 is the CPU's own, expected e4m3 or none on CUDA; choose e4m3");
  EXPECT_EQ(cuda_refusal({.precision = Precision::kE4m3, .smooth_keys = true}),
            "smooth_keys is for INT8 on the CPU, expected false on CUDA; leave it off");
}

TEST(CudaAttention, TakesF16AsItIsAndF32WhereRoundingItWasAskedFor) {
  const Precision none = Precision::kNone, e4m3 = Precision::kE4m3;
  EXPECT_EQ(cuda_refusal({.dtype = at::kHalf}), "");
  EXPECT_EQ(cuda_refusal({.dtype = at::kHalf, .precision = e4m3}), "");
  EXPECT_EQ(cuda_operand_type(at::kHalf, none), at::kHalf);
  // Codes are of BF16: the request for 8 bits is one for coarser values than that.
  EXPECT_EQ(cuda_operand_type(at::kHalf, e4m3), at::kBFloat16);
  EXPECT_EQ(cuda_refusal({.dtype = at::kFloat, .precision = e4m3}), "");
  EXPECT_EQ(cuda_operand_type(at::kFloat, e4m3), at::kBFloat16);
  const auto refused = cuda_refusal({.dtype = at::kFloat});
  for (const char* words : {"expected bfloat16 or float16 for precision none", "got Float", "cast it",
                            "set_float32_matmul_precision('medium')"})
    EXPECT_NE(refused.find(words), std::string::npos) << refused;
  EXPECT_EQ(cuda_refusal({.dtype = at::kFloat, .rounds_f32 = true}), "");
  EXPECT_EQ(cuda_operand_type(at::kFloat, none), at::kBFloat16);
}

TEST(CudaAttention, RoundingF32IsTorchsSetting) {
  for (const auto& [name, rounds] : {std::pair("highest", false), {"high", false}, {"medium", true}}) {
    at::globalContext().setFloat32MatmulPrecision(name);
    EXPECT_EQ(float32_as_bfloat16(), rounds) << name;
  }
  at::globalContext().setFloat32MatmulPrecision("highest");  // as torch begins
}

TEST(CudaAttention, QueriesAndKeysOfTheirOwnNumberHaveOnePlan) {
  const auto plan = cuda_cross_plan(700, 1100);
  EXPECT_EQ(plan->queries->tokens(), 700);
  EXPECT_EQ(plan->keys->tokens(), 1100);
  EXPECT_EQ(plan->mask.rows, 2);
  EXPECT_EQ(plan->mask.cols, 3);
  EXPECT_EQ(cuda_cross_plan(700, 1100), plan);
  EXPECT_NE(cuda_cross_plan(1100, 700), plan);
  // Every key once in the list that all items share, and with sides exchanged every query.
  const kernel::cuda::SegmentLayout queries(plan->queries->order().tile_begin());
  const kernel::cuda::SegmentLayout keys(plan->keys->order().tile_begin());
  const auto count = [](const kernel::cuda::WorkList& work) {
    int64_t seen = 0;
    for (const int32_t entry : work.entries)
      seen += kernel::cuda::entry_valid(entry);
    for (const auto& item : work.items) {
      EXPECT_EQ(item.first_entry, 0);
      EXPECT_EQ(static_cast<size_t>(item.entries), work.entries.size());
    }
    return seen;
  };
  EXPECT_EQ(count({plan->mask, queries, keys}), 1100);
  EXPECT_EQ(count({kernel::cuda::exchanged(plan->mask), keys, queries}), 700);
}

TEST(CudaAttention, ReadableAreStridesOfSixteenBytes) {
  const auto x = at::zeros({2, 5, 3, 64}, at::kBFloat16);
  EXPECT_TRUE(readable_by_kernels(x));
  EXPECT_TRUE(readable_by_kernels(x.transpose(1, 2)));
  EXPECT_TRUE(readable_by_kernels(x.narrow(2, 1, 1)));
  EXPECT_FALSE(readable_by_kernels(x.transpose(2, 3)));
  EXPECT_FALSE(readable_by_kernels(at::zeros({2, 5, 3, 68}, at::kBFloat16).narrow(3, 0, 64)));
}

TEST(CudaAttention, TheKernelsNameSaysItsTypeAndWhetherPairsRan) {
  EXPECT_EQ(cuda_kernel_name(at::kBFloat16, /*coded=*/true, 2), "attention_fwd_e4m3_sm90a (paired)");
  EXPECT_EQ(cuda_kernel_name(at::kBFloat16, /*coded=*/true, 1), "attention_fwd_e4m3_sm90a (single)");
  EXPECT_EQ(cuda_kernel_name(at::kHalf, false, 2), "attention_fwd_f16_sm90a (paired)");
  EXPECT_EQ(cuda_kernel_name(at::kBFloat16, false, 1), "attention_fwd_bf16_sm90a (single)");
  EXPECT_EQ(cuda_kernel_name(at::kBFloat16, false, 0), "attention_fwd_bf16_sm90a");
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
  EXPECT_THROW(cross_work_on_device(*cuda_cross_plan(5, 7), false, 0, nullptr), Error);
  if (!at::hasCUDA()) {
    EXPECT_THROW(current_cuda_stream(0), c10::Error);
  }
}

}  // namespace
}  // namespace fpsa::ops
