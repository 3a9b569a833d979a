// What is told while clips are encoded, which may take minutes to hours.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace fpsa::train {

/// Called before each clip: how many are done, how many there will be, the file that is read or written. What it throws
/// ends the work; files that were complete are kept.
using EncodingProgress = std::function<void(int64_t done, int64_t total, const std::string& file)>;

}  // namespace fpsa::train
