// The operators as a program sees them that links only the shared library: through the dispatcher.
#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/tolerance.h"

namespace fpsa::ops {
namespace {

template <class... Arguments>
std::vector<at::Tensor> call(const char* name, Arguments&&... arguments) {
  const auto op = c10::Dispatcher::singleton().findSchemaOrThrow(name, "");
  torch::jit::Stack stack = {c10::IValue(std::forward<Arguments>(arguments))...};
  op.callBoxed(&stack);
  std::vector<at::Tensor> tensors;
  for (const auto& value : stack)
    tensors.push_back(value.toTensor());
  return tensors;
}

using Triple = std::vector<int64_t>;
const c10::IValue kNone;

std::vector<at::Tensor> attention(const at::Tensor& q, const Triple& window, const char* quant, bool smooth = false) {
  return call("fpsa::attention", q, q, q, Triple{3, 8, 8}, Triple{3, 4, 4}, window, "sta", quant, kNone, kNone, false,
              smooth);
}

TEST(Operators, AttentionRunsThroughTheDispatcher) {
  at::manual_seed(1);
  const auto q = at::randn({1, 192, 2, 16});
  const auto got = attention(q, {1, 2, 2}, "none");  // every tile: dense
  const auto h = q.transpose(1, 2).to(at::kDouble);
  const auto scores = at::matmul(h, h.transpose(2, 3)) / 4.0;
  const auto want = at::matmul(at::softmax(scores, -1), h).transpose(1, 2);
  EXPECT_LT((got[0] - want).abs().max().item<double>(), tolerance::kOpsF32 * 5);
  EXPECT_LT((got[1] - at::logsumexp(scores, -1)).abs().max().item<double>(), 1e-5);
  EXPECT_FALSE(at::equal(attention(q, {1, 1, 2}, "none")[0], got[0]));
  EXPECT_TRUE(at::equal(call("fpsa::dense_attention", q, q, q, kNone, false)[0], got[0]));
}

TEST(Operators, MaskedAttentionTakesTheSameMaskInCsrForm) {
  at::manual_seed(2);
  const auto q = at::randn({1, 192, 2, 16});
  // Window (1,1,2) on 1x2x2 tiles: a tile sees its row of two.
  const auto row_begin = at::tensor({0, 2, 4, 6, 8}), col = at::tensor({0, 1, 0, 1, 2, 3, 2, 3});
  const auto got = call("fpsa::masked_attention", q, q, q, Triple{3, 8, 8}, Triple{3, 4, 4}, row_begin, col, "e4m3",
                        kNone, kNone, false, false);
  EXPECT_TRUE(at::equal(got[0], attention(q, {1, 1, 2}, "e4m3")[0]));
}

TEST(Operators, AttentionNamesItsPrecisions) {
  at::manual_seed(3);
  const auto q = at::randn({1, 192, 2, 16});
  const auto int8 = attention(q, {1, 2, 2}, "int8"), smooth = attention(q, {1, 2, 2}, "int8", true);
  EXPECT_FALSE(at::equal(int8[0], attention(q, {1, 2, 2}, "e4m3")[0]));
  EXPECT_FALSE(at::equal(int8[0], smooth[0]));
  EXPECT_THROW(attention(q, {1, 2, 2}, "int4"), c10::Error);
  EXPECT_THROW(attention(q, {1, 2, 2}, "none", true), c10::Error);
}

TEST(Operators, MetaFunctionsGiveTheShapesOfTheRealOnes) {
  const auto q = at::randn({2, 192, 2, 16}).to(at::kBFloat16), meta = at::empty_like(q, q.options().device(at::kMeta));
  auto expect_same = [](const std::vector<at::Tensor>& real, const std::vector<at::Tensor>& shape) {
    ASSERT_EQ(real.size(), shape.size());
    for (size_t i = 0; i < real.size(); ++i) {
      EXPECT_EQ(real[i].sizes(), shape[i].sizes());
      EXPECT_EQ(real[i].scalar_type(), shape[i].scalar_type());
      EXPECT_TRUE(shape[i].is_meta());
    }
  };
  expect_same(attention(q, {1, 1, 1}, "e4m3"), attention(meta, {1, 1, 1}, "e4m3"));
  auto quantize = [](const at::Tensor& x, const Triple& granularity) {
    return call("fpsa::quantize_tokens", x, Triple{3, 8, 8}, Triple{3, 4, 4}, granularity, false);
  };
  for (const auto& granularity : {Triple{3, 4, 4}, Triple{1, 4, 2}, Triple{6, 8, 8}})
    expect_same(quantize(q, granularity), quantize(meta, granularity));
  auto channels = [](const at::Tensor& x) {
    return call("fpsa::quantize_channels", x, Triple{3, 8, 8}, Triple{3, 4, 4}, false);
  };
  expect_same(channels(q), channels(meta));
}

TEST(Operators, ErrorsAreTorchErrors) {
  const auto q = at::randn({1, 192, 2, 16});
  EXPECT_THROW(attention(q, {0, 1, 1}, "none"), c10::Error);
  EXPECT_THROW(attention(q, {1, 1}, "none"), c10::Error);
  EXPECT_THROW(attention(q, {1, 1, 1}, "int4"), c10::Error);
  EXPECT_THROW(attention(q.clone().set_requires_grad(true), {1, 1, 1}, "none"), c10::Error);
  EXPECT_THROW(call("fpsa::force_isa", "sse9"), c10::Error);
}

}  // namespace
}  // namespace fpsa::ops
