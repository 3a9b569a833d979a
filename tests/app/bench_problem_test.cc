// The right answers that the bench holds results against.
#include "fpsa/app/bench_problem.h"

#include <gtest/gtest.h>

#include <limits>
#include <string>

#include "fpsa/base/check.h"
#include "fpsa/ops/attention.h"

namespace fpsa::app::bench {
namespace {

const Shape kShape{{3, 5, 8}, 2, 64};

std::shared_ptr<const ops::Plan> sparse_plan() {
  return ops::plan_for(kShape.grid, {2, 4, 4}, {2, 4, 4}, "sta", {1, 2, 2});
}

at::Tensor ours(const Inputs& inputs, const ops::Plan& plan, const Format& format, bool smooth_keys) {
  ops::AttentionOptions how;
  how.precision = format.precision;
  how.smooth_keys = smooth_keys;
  return ops::attention(inputs.q, inputs.k, inputs.v, plan, how).out;
}

double distance(const at::Tensor& out, const Rows& rows, const Format& format) {
  return check_rows(rows_of(out, rows), rows, format.error_limit, format.name());
}

TEST(BenchProblem, EveryFormatIsTheOperatorsWithinItsLimit) {
  const auto plan = sparse_plan();
  for (const Format& format : formats()) {
    const auto inputs = make_inputs(kShape, format.input);
    const auto rows = reference_rows(inputs, *plan, format);
    EXPECT_EQ(rows.values.sizes(), at::IntArrayRef({24, kShape.dim})) << format.name();
    EXPECT_NO_THROW(distance(ours(inputs, *plan, format, format.smooth_keys), rows, format)) << format.name();
  }
}

// What all keys have in common takes the range of the codes unless it is subtracted first.
TEST(BenchProblem, Int8IsTheEnginesWithSmoothedKeys) {
  const auto plan = sparse_plan();
  for (const Format& format : formats())
    EXPECT_EQ(format.smooth_keys, format.dtype == kernel::Dtype::kInt8) << format.name();
  const Format& int8 = format_of(kernel::Dtype::kInt8);
  auto inputs = make_inputs(kShape, int8.input);
  inputs.k = inputs.k + 64;
  const auto rows = reference_rows(inputs, *plan, int8);
  EXPECT_NO_THROW(distance(ours(inputs, *plan, int8, true), rows, int8));
  EXPECT_THROW(distance(ours(inputs, *plan, int8, false), rows, int8), Error);
}

TEST(BenchProblem, AWrongRowIsRefusedByName) {
  const auto plan = sparse_plan();
  const Format& bf16 = format_of(kernel::Dtype::kBf16);
  const auto inputs = make_inputs(kShape, bf16.input);
  const auto rows = reference_rows(inputs, *plan, bf16);
  const auto right = rows.values;
  EXPECT_EQ(check_rows(right, rows, bf16.error_limit, "case"), 0.0);
  for (const double bad : {0.0, std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    auto got = right.clone();
    got[11].fill_(bad);
    try {
      check_rows(got, rows, bf16.error_limit, "a case");
      ADD_FAILURE() << bad;
    } catch (const Error& error) {
      EXPECT_TRUE(std::string(error.what()).starts_with("a case")) << error.what();
    }
  }
}

TEST(BenchProblem, ThePrepassHasTheReferencesBitsOrIsRefused) {
  const auto plan = sparse_plan();
  for (const Format& format : formats()) {
    if (!format.eight_bit()) continue;
    const PrepassCall call(make_inputs(kShape, format.input), plan, format);
    call.run();
    EXPECT_NO_THROW(call.check("a call")) << format.name();
    for (const int64_t part : {0, 1, 2}) {
      auto code = call.codes()[part][kShape.dim];
      const auto right = code.clone();
      code.bitwise_xor_(1);
      EXPECT_THROW(call.check("a call"), Error) << format.name() << ' ' << part;
      code.copy_(right);
    }
  }
}

}  // namespace
}  // namespace fpsa::app::bench
