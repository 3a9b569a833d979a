// The error that means "the command line or a setting is wrong": exit code 2 where other errors give 1.
#pragma once

#include "fpsa/base/check.h"

namespace fpsa::app {

/// A wrong flag, value or setting; nothing has been done yet.
class UsageError : public Error {
 public:
  using Error::Error;
};

}  // namespace fpsa::app

/// Throws UsageError with the joined message unless the condition holds.
#define FPSA_USAGE_CHECK(condition, ...)                        \
  do {                                                          \
    if (!(condition)) [[unlikely]]                              \
      throw ::fpsa::app::UsageError(::fpsa::join(__VA_ARGS__)); \
  } while (false)
