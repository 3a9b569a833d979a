// What the operators say of CUDA where there is none, and of calls that the kernels do not take anywhere.
#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <gtest/gtest.h>

#include <cmath>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "fpsa/base/check.h"
#include "fpsa/kernel/cuda/cuda.h"
#include "fpsa/kernel/cuda/tiling/work_list.h"
#include "fpsa/ops/cuda_attention.h"
#include "fpsa/ops/cuda_names.h"
#include "fpsa/ops/cuda_plan.h"
#include "fpsa/ops/cuda_steps.h"
#include "fpsa/ops/cuda_stream.h"
#include "fpsa/ops/views.h"

namespace fpsa::ops {
namespace {

// A tensor on cuda:0 without memory, which may be looked at and nothing else, on any machine.
at::Tensor on_cuda(at::IntArrayRef sizes, at::ScalarType type = at::kBFloat16) {
  const c10::Device device(at::kCUDA, 0);
  auto x = at::detail::make_tensor<c10::TensorImpl>(
      c10::Storage(c10::Storage::use_byte_size_t(), 0, at::DataPtr(nullptr, device), nullptr, /*resizable=*/false),
      c10::DispatchKeySet(c10::DispatchKey::CUDA), c10::scalarTypeToTypeMeta(type));
  x.unsafeGetTensorImpl()->set_sizes_contiguous(sizes);
  return x;
}

AttentionOptions coded_options() {
  AttentionOptions options;
  options.precision = Precision::kE4m3;
  return options;
}

template <class Function>
std::string error_of(const Function& function) {
  try {
    function();
  } catch (const c10::Error& error) {
    return error.what_without_backtrace();
  }
  return "no error";
}

void expect_words(const std::string& text, std::initializer_list<const char*> words) {
  for (const char* word : words)
    EXPECT_NE(text.find(word), std::string::npos) << "expected '" << word << "' in: " << text;
}

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

// torch lets a dimension of one have any stride, and launches take multiples of 16 bytes alone.
TEST(CudaAttention, NobodyStepsAlongADimensionOfOne) {
  const auto strides_of = [](const at::Tensor& x) {
    const auto [batch, row, head] = kernel_strides(x);
    return std::vector<int64_t>{batch, row, head};
  };
  const auto x = at::zeros({4096}, at::kBFloat16);
  const auto one = x.as_strided({1, 5, 1, 64}, {3, 64, 5, 1});
  EXPECT_TRUE(readable_by_kernels(one));
  EXPECT_EQ(strides_of(one), (std::vector<int64_t>{0, 64, 0}));
  EXPECT_EQ(strides_of(x.as_strided({2, 1, 3, 64}, {192, 7, 64, 1})), (std::vector<int64_t>{192, 0, 64}));
  EXPECT_EQ(strides_of(x.as_strided({2, 3, 4, 64}, {768, 256, 64, 1})), (std::vector<int64_t>{768, 256, 64}));
  EXPECT_FALSE(readable_by_kernels(x.as_strided({2, 5, 1, 64}, {3, 64, 5, 1})));
}

TEST(CudaAttention, ReadableAreStridesOfSixteenBytes) {
  const auto floats = at::zeros({2, 5, 3, 68}, at::kFloat).narrow(3, 0, 64);
  EXPECT_TRUE(readable_by_kernels(floats));
  EXPECT_FALSE(readable_by_kernels(at::zeros({2, 5, 3, 66}, at::kFloat).narrow(3, 0, 64)));
  const auto x = at::zeros({2, 5, 3, 64}, at::kBFloat16);
  EXPECT_TRUE(readable_by_kernels(x));
  EXPECT_TRUE(readable_by_kernels(x.transpose(1, 2)));
  EXPECT_TRUE(readable_by_kernels(x.narrow(2, 1, 1)));
  EXPECT_FALSE(readable_by_kernels(x.transpose(2, 3)));
  EXPECT_FALSE(readable_by_kernels(at::zeros({2, 5, 3, 68}, at::kBFloat16).narrow(3, 0, 64)));
}

TEST(CudaAttention, TheKernelsNameSaysItsTypeAndWhetherPairsRan) {
  EXPECT_EQ(cuda_names(at::kBFloat16, Precision::kE4m3, 2).kernel, "attention_fwd_e4m3_sm90a (paired)");
  EXPECT_EQ(cuda_names(at::kBFloat16, Precision::kE4m3, 1).kernel, "attention_fwd_e4m3_sm90a (single)");
  EXPECT_EQ(cuda_names(at::kHalf, Precision::kNone, 2).kernel, "attention_fwd_f16_sm90a (paired)");
  EXPECT_EQ(cuda_names(at::kBFloat16, Precision::kNone, 1).kernel, "attention_fwd_bf16_sm90a (single)");
  EXPECT_EQ(cuda_names(at::kBFloat16, Precision::kNone, 0).kernel, "attention_fwd_bf16_sm90a");
}

TEST(CudaAttention, AProjectionOnTheCpuIsTakenAsBefore) {
  EXPECT_TRUE(projectable(at::zeros({1, 4, 128}), 2, Precision::kInt8));
  EXPECT_FALSE(projectable(at::zeros({1, 4, 128}), 3, Precision::kE4m3));
}

TEST(CudaAttention, DenseAttentionWithCodesIsRefusedBeforeItWouldRunWithoutThem) {
  const auto q = on_cuda({1, 700, 2, 64}), k = on_cuda({1, 77, 2, 64});
  const AttentionOptions coded = coded_options();
  expect_words(error_of([&] { cuda_dense_attention(q, k, k, coded); }),
               {"dense_attention: expected precision none", "call attention with a plan"});
  expect_words(error_of([&] { cuda_dense_attention_backward(q, q, k, k, {}, coded); }),
               {"dense_attention_backward: expected precision none", "call attention with a plan"});
}

// Tensors without memory cannot be copied: whatever is cast or copied before it is checked ends in another error.
TEST(CudaAttention, ArgumentsAreCheckedBeforeAnythingIsCopied) {
  const auto plan = cuda_dense_plan(700);
  const auto q = on_cuda({1, 700, 2, 64}, at::kHalf), short_q = on_cuda({1, 699, 2, 64}, at::kHalf);
  const AttentionOptions coded = coded_options();
  const auto forward = [&](const at::Tensor& x, const at::Tensor& y, const AttentionOptions& options) {
    return error_of([&] { cuda_attention(x, y, y, *plan, options); });
  };
  expect_words(forward(short_q, short_q, coded), {"q must have the 700 tokens", "got 699"});
  expect_words(forward(q, short_q, coded), {"k must have the 700 tokens", "got 699"});
  expect_words(forward(on_cuda({1, 700, 2, 64}, at::kHalf).set_requires_grad(true), q, coded), {"requires a gradient"});
  AttentionOptions odd;
  odd.want_row_max = true;
  expect_words(forward(q, q, odd), {"row_max and exact are of codes", "got none"});
  odd = coded;
  odd.scale = NAN;
  expect_words(forward(q, q, odd), {"scale must be finite", "nan", "leave it out"});
  expect_words(forward(q, at::zeros({1, 700, 2, 64}, at::kHalf), coded),
               {"k must be on the device of q, cuda:0", "[1, 700, 2, 64] Half on cpu", "move it there"});
  expect_words(error_of([&] { cuda_attention(on_cuda({700, 64}), q, q, *plan, coded); }),
               {"q must be [B,L,H,D], got 2 dimensions"});
  AttentionOptions into = coded;
  into.out = on_cuda({1, 699, 2, 64});
  expect_words(forward(q, q, into), {"out must have q's shape [1, 700, 2, 64]", "got [1, 699, 2, 64]", "leave it out"});
  // Rows of 66 elements of two bytes.
  into.out = on_cuda({1, 700, 2, 64});
  into.out->unsafeGetTensorImpl()->set_sizes_and_strides(at::IntArrayRef({1, 700, 2, 64}),
                                                         at::IntArrayRef({700 * 132, 132, 66, 1}));
  expect_words(forward(q, q, into), {"out must have rows at multiples of 16 bytes", "132", "leave it out"});
  if (!kernel::cuda::available()) expect_words(forward(q, q, coded), {"q is on cuda:0: "});
}

TEST(CudaAttention, TheBackwardSaysWhatItReceived) {
  const auto plan = cuda_dense_plan(700);
  const auto q = on_cuda({1, 700, 2, 64}, at::kHalf), lse = on_cuda({1, 2, 700}, at::kFloat);
  const AttentionOptions coded = coded_options();
  const auto backward = [&](const at::Tensor& d_out, const AttentionResult& saved) {
    return error_of([&] { cuda_attention_backward(d_out, q, q, q, saved, *plan, coded); });
  };
  AttentionResult saved;
  expect_words(backward(q, saved), {"exact must have q's shape", "got an undefined tensor", "saving(options)"});
  saved.exact = q;
  saved.lse = on_cuda({1, 700, 2}, at::kFloat);
  expect_words(backward(q, saved),
               {"lse must be the contiguous Float [1, 2, 700]", "got [1, 700, 2] Float on cuda:0", "saving(options)"});
  saved.lse = lse;
  expect_words(backward(q, saved), {"row_max must be", "got an undefined tensor", "saving(options)"});
  saved.row_max = lse;
  expect_words(backward(on_cuda({1, 700, 2, 64}, at::kDouble), saved),
               {"d_out must have q's shape", "got [1, 700, 2, 64] Double on cuda:0", "cast or move it first"});
  if (!kernel::cuda::available()) expect_words(backward(q, saved), {"q is on cuda:0: "});
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
