#include "fpsa/nn/checkpoint.h"

#include <gtest/gtest.h>

#include "fpsa/base/check.h"
#include "tests/io/scratch.h"

namespace fpsa::nn {
namespace {

using testing::error_of;

TEST(CheckpointSource, HandsOutTheStoredTensorWhereTheTypeFits) {
  const at::Tensor w = at::randn({2, 3}).to(at::kBFloat16), norm = at::randn({3});
  CheckpointSource source({{"w", w}, {"norm", norm}}, at::kBFloat16);
  const Scope scope(source);
  EXPECT_EQ(scope.param("w", {2, 3}).const_data_ptr(), w.const_data_ptr());
  EXPECT_EQ(scope.param("norm", {3}, Init::zeros(), /*keep_f32=*/true).const_data_ptr(), norm.const_data_ptr());
  const CheckpointReport report = source.finish();
  EXPECT_EQ(report.used, 2);
  EXPECT_EQ(report.converted, 0);
}

TEST(CheckpointSource, ConvertsToTheComputeTypeOrToF32) {
  const at::Tensor w = at::randn({4}).to(at::kBFloat16), norm = at::randn({4}).to(at::kBFloat16);
  CheckpointSource source({{"w", w}, {"norm", norm}}, at::kHalf);
  const Scope scope(source);
  EXPECT_EQ(scope.param("w", {4}).scalar_type(), at::kHalf);
  const at::Tensor kept = scope.param("norm", {4}, Init::zeros(), true);
  EXPECT_EQ(kept.scalar_type(), at::kFloat);
  EXPECT_TRUE(at::equal(kept, norm.to(at::kFloat)));
  EXPECT_EQ(source.finish().converted_bytes, 4 * 2 + 4 * 4);
}

TEST(CheckpointSource, ScaledF8IsCodeTimesScale) {
  const at::Tensor codes = at::tensor({1.0, -2.0, 448.0}).to(at::kFloat8_e4m3fn);
  CheckpointSource source({{"w", codes}}, at::kFloat, "f", {{"w", at::tensor({0.5f})}});
  const at::Tensor w = Scope(source).param("w", {3});
  EXPECT_TRUE(at::equal(w, at::tensor({0.5f, -1.0f, 224.0f})));
}

TEST(CheckpointSource, EveryFaultIsNamedInOneError) {
  CheckpointSource source({{"a.w", at::zeros({2, 3})},
                           {"extra.1", at::zeros({1})},
                           {"extra.2", at::zeros({1})},
                           {"ids", at::zeros({2}, at::kLong)}},
                          at::kFloat, "model.safetensors");
  const Scope scope(source);
  const at::Tensor stand_in = (scope / "a").param("w", {3, 2});
  EXPECT_EQ(stand_in.sizes(), (std::vector<int64_t>{3, 2}));
  (scope / "b").param("w", {1'000'000, 1'000'000, 1'000});  // stands in without memory
  (scope / "b").param("bias", {4});
  scope.param("ids", {2});
  EXPECT_FALSE(source.report().ok());
  const std::string message = error_of<Error>([&] { source.finish(); });
  for (const char* part :
       {"model.safetensors", "missing (2)", "b.w", "b.bias", "unexpected (2)", "extra.1", "extra.2", "mis-shaped (2)",
        "a.w: expected [3, 2], received [2, 3]", "ids: expected a floating-point tensor, received Long"})
    FPSA_EXPECT_CONTAINS(message, part);
}

TEST(CheckpointSource, AModuleMayAskTwiceForATiedTensor) {
  CheckpointSource source({{"w", at::zeros({2})}}, at::kFloat);
  const Scope scope(source);
  scope.param("w", {2});
  scope.param("w", {2});
  EXPECT_TRUE(source.finish().ok());
}

}  // namespace
}  // namespace fpsa::nn
