#include <gtest/gtest.h>

#include <memory>

#include "tests/plan/allocation_count.h"
#include "tests/plan/problem.h"

namespace fpsa::plan {
namespace {

using testing_support::Layout;

TEST(Allocation, TheCountSeesNewAndMalloc) {
  const int64_t before = fpsa::testing_support::allocation_count();
  const auto one = std::make_unique<std::vector<int>>(1000);
  void* volatile two = std::malloc(10);
  std::free(two);
  EXPECT_GE(fpsa::testing_support::allocation_count() - before, 3) << one->size();
}

TEST(Allocation, ARunMakesNone) {
  ThreadPool pool(3);
  SerialRunner serial;
  for (const auto precision : {Precision::kNone, Precision::kE4m3, Precision::kInt8}) {
    AttentionSpec spec;
    spec.heads = 70;  // more than there are slots
    spec.precision = precision;
    const AttentionPlan plan(testing_support::sliding({2, 8, 8}, {2, 4, 4}, {1, 1, 2}), spec);
    const testing_support::Problem problem(plan, 1, 6);
    Workspace workspace(plan.workspace_bytes(1, 3));
    auto result = problem.empty_result();
    const auto layout = Layout::kTokensFirst;
    const Inputs inputs{problem.source(problem.q, 128, layout), problem.source(problem.k, 128, layout),
                        problem.source(problem.v, 128, layout)};
    const Output output = problem.output(result, layout);
    const int64_t before = fpsa::testing_support::allocation_count();
    run(plan, 1, inputs, problem.scale, output, workspace.bytes(), serial);
    run(plan, 1, inputs, problem.scale, output, workspace.bytes(), pool);
    EXPECT_EQ(fpsa::testing_support::allocation_count() - before, 0);
    EXPECT_TRUE(result == problem.one_by_one());
  }
}

}  // namespace
}  // namespace fpsa::plan
