// Error type and the check macro used at every border (files, configuration, command line, ops).
//
// A message says four things: the argument, what was expected, what was received, and the remedy. g++ 12 has
// no <format>, so the parts are joined by streaming.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace fpsa {

/// A user-facing error: bad input, a file that breaks its format, a request that cannot be met.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Joins its arguments by operator<< into one string.
template <class... Parts>
std::string join(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

}  // namespace fpsa

/// Throws fpsa::Error with the joined message unless the condition holds.
#define FPSA_CHECK(condition, ...)                    \
  do {                                                \
    if (!(condition)) [[unlikely]]                    \
      throw ::fpsa::Error(::fpsa::join(__VA_ARGS__)); \
  } while (false)
