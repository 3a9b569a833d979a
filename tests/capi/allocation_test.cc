#include <gtest/gtest.h>

#include <initializer_list>
#include <utility>

#include "tests/capi/problem.h"
#include "tests/plan/allocation_count.h"

namespace fpsa::capi {
namespace {

using testing_support::kGeometry;
using testing_support::kWindow;

TEST(CapiAllocation, ARunMakesNone) {
  testing_support::ThreadsHolder pool(3);
  for (const auto& [precision, smooth_keys] :
       std::initializer_list<std::pair<fpsa_precision, int32_t>>{{FPSA_PRECISION_NONE, 0},
                                                                 {FPSA_PRECISION_E4M3, 0},
                                                                 {FPSA_PRECISION_E4M3, 1},
                                                                 {FPSA_PRECISION_INT8, 0},
                                                                 {FPSA_PRECISION_INT8, 1}}) {
    fpsa_spec spec = testing_support::spec_of(FPSA_F32, precision);
    spec.smooth_keys = smooth_keys;
    testing_support::PlanHolder holder;
    ASSERT_EQ(fpsa_plan_sliding_tile(&spec, &kGeometry, &kWindow, &holder.plan), FPSA_OK);
    testing_support::Problem problem(holder.plan, FPSA_F32, 3);
    problem.args.threads = pool.threads;
    const int64_t before = fpsa::testing_support::allocation_count();
    const fpsa_status first = fpsa_run(holder.plan, &problem.args), second = fpsa_run(holder.plan, &problem.args);
    const int64_t after = fpsa::testing_support::allocation_count();
    EXPECT_EQ(first, FPSA_OK);
    EXPECT_EQ(second, FPSA_OK);
    EXPECT_EQ(after - before, 0);
  }
}

}  // namespace
}  // namespace fpsa::capi
