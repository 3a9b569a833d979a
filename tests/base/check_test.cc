#include "fpsa/base/check.h"

#include <gtest/gtest.h>

namespace fpsa {
namespace {

TEST(Check, ThrowsTheJoinedMessageOnlyWhenTheConditionFails) {
  EXPECT_NO_THROW(FPSA_CHECK(1 + 1 == 2, "never seen"));
  try {
    FPSA_CHECK(false, "window t = ", 0, ": expected at least ", 1.5, ", received '", std::string("x"), "'");
    FAIL() << "expected an error";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "window t = 0: expected at least 1.5, received 'x'");
  }
}

TEST(Check, EvaluatesTheMessageOnlyOnFailure) {
  int calls = 0;
  const auto message = [&] { return ++calls; };
  FPSA_CHECK(true, message());
  EXPECT_EQ(calls, 0);
}

TEST(Check, IsOneStatement) {
  if (false)
    FPSA_CHECK(false, "not reached");
  else
    SUCCEED();
}

}  // namespace
}  // namespace fpsa
