// What an error says, for tests of messages.
#pragma once

#include <exception>
#include <string>

#include "fpsa/base/check.h"

namespace fpsa {

/// The message of the `Kind` that call() throws, "no error" when it returns. Another exception passes through.
template <class Kind = Error, class Call>
std::string error_of(const Call& call) {
  try {
    call();
  } catch (const Kind& error) {
    return error.what();
  }
  return "no error";
}

}  // namespace fpsa
