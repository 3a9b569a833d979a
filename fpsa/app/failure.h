// What the program says when a command fails, and how it exits.
#pragma once

#include <exception>
#include <optional>
#include <string>

namespace fpsa::app {

constexpr int kFailed = 1, kUsage = 2;

struct Failure {
  std::string text;  // one message without a backtrace
  int exit_code = kFailed;
};

/// What an exception says, without a backtrace and without the allocators' internals.
std::string message_of(const std::exception& error);

/// The failure that an exception stands for.
Failure failure_of(const std::exception& error);

/// "out of memory: 4.0 GiB could not be allocated" when that is what the exception says (the C++ allocator's or
/// torch's, whose message is a page of internals); nothing otherwise.
std::optional<std::string> out_of_memory(const std::exception& error);

}  // namespace fpsa::app
