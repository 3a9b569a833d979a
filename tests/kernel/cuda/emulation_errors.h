// The errors that small kernels run into.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <initializer_list>
#include <string>

#include "fpsa/kernel/cuda/emulation/run.h"

namespace fpsa::kernel::cuda::testing_support {

/// The message of the error, which every seed must find.
inline std::string error_of(const std::function<void()>& kernel,
                            emulation::Launch launch = {.threads = 64, .shared_bytes = 8192}) {
  std::string message;
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    try {
      emulation::Options options;
      options.seed = seed;
      emulation::run(launch, options, kernel);
      return "none with seed " + std::to_string(seed);
    } catch (const emulation::Error& error) {
      message = error.what();
    }
  }
  return message;
}

inline void expect_error(const std::string& message, std::initializer_list<const char*> parts) {
  for (const char* part : parts)
    EXPECT_NE(message.find(part), std::string::npos) << "expected '" << part << "' in: " << message;
}

}  // namespace fpsa::kernel::cuda::testing_support
