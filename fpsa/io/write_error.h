// What a failed write says.
#pragma once

#include <filesystem>
#include <string>

namespace fpsa::io {

/// "cannot write 'out/a.json': No space left on device; free some space or choose an output on another disk".
std::string write_error(const char* action, const std::filesystem::path& path, int error_number);

}  // namespace fpsa::io
