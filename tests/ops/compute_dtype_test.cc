#include "fpsa/ops/compute_dtype.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <gtest/gtest.h>

namespace fpsa::ops {
namespace {

TEST(ComputeDtype, IsBf16ExactlyWhereTorchHasBlockedBf16Products) {
  const auto torch_says = c10::Dispatcher::singleton()
                              .findSchemaOrThrow("mkldnn::_is_mkldnn_bf16_supported", "")
                              .typed<bool()>()
                              .call();
  EXPECT_EQ(fast_compute_dtype(), torch_says ? at::kBFloat16 : at::kFloat);
}

}  // namespace
}  // namespace fpsa::ops
