#include <gtest/gtest.h>

#include "tests/capi/problem.h"
#include "tests/plan/allocation_count.h"

namespace fpsa::capi {
namespace {

using testing_support::kGeometry;
using testing_support::kWindow;

TEST(CapiAllocation, ARunMakesNone) {
  testing_support::ThreadsHolder pool(3);
  for (const fpsa_precision precision : {FPSA_PRECISION_NONE, FPSA_PRECISION_E4M3, FPSA_PRECISION_INT8}) {
    const fpsa_spec spec = testing_support::spec_of(FPSA_F32, precision);
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
