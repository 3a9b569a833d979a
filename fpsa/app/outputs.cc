#include "fpsa/app/outputs.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <system_error>

#include <fcntl.h>
#include <unistd.h>

#include "fpsa/app/machine.h"
#include "fpsa/base/check.h"

namespace fpsa::app {
namespace {

namespace fs = std::filesystem;

// access() says yes to root on a read-only mount and in odd network folders; making a file is the only sure test.
void check_folder_takes_files(const std::string& flag, const fs::path& folder) {
  std::string probe = (folder / ".fpsa-probe-XXXXXX").string();
  const int descriptor = mkstemp(probe.data());
  FPSA_CHECK(descriptor >= 0, flag, ": expected a folder that takes new files, got ", folder.string(), " (",
             std::strerror(errno), "); choose another place or change its permissions");
  close(descriptor);
  unlink(probe.c_str());
}

void check_space(const std::string& flag, const fs::path& folder, int64_t bytes) {
  std::error_code error;
  const auto space = fs::space(folder, error);
  if (error) return;  // a file system that does not tell: the write itself will
  FPSA_CHECK(space.available >= static_cast<uintmax_t>(bytes), flag, ": expected about ", bytes_text(bytes),
             " of free space in ", folder.string(), ", got ", bytes_text(static_cast<int64_t>(space.available)),
             "; free some or choose another place");
}

}  // namespace

void check_writable_file(const std::string& flag, const fs::path& path, int64_t bytes) {
  std::error_code error;
  const auto status = fs::status(path, error);
  FPSA_CHECK(!fs::is_directory(status), flag, ": expected a file name, got the folder ", path.string());
  if (fs::exists(status) && !fs::is_regular_file(status)) {
    FPSA_CHECK(access(path.c_str(), W_OK) == 0, flag, ": expected a writable file, got ", path.string(), " (",
               std::strerror(errno), ")");
    return;
  }
  const auto folder = path.has_parent_path() ? path.parent_path() : fs::path(".");
  FPSA_CHECK(fs::is_directory(folder, error), flag, ": expected a file in an existing folder, got ", path.string(),
             "; create it first: mkdir -p '", folder.string(), "'");
  check_folder_takes_files(flag, folder);
  check_space(flag, folder, bytes);
}

void check_writable_folder(const std::string& flag, const fs::path& path, int64_t bytes) {
  std::error_code error;
  FPSA_CHECK(!fs::exists(path, error) || fs::is_directory(path, error), flag, ": expected a folder, got the file ",
             path.string());
  fs::create_directory(path, error);
  FPSA_CHECK(!error, flag, ": expected a folder that can be created, got ", path.string(), " (", error.message(),
             "); its parent must exist");
  check_folder_takes_files(flag, path);
  check_space(flag, path, bytes);
}

fs::path numbered(const fs::path& path, int64_t index, int64_t count) {
  if (count <= 1) return path;
  char suffix[24];
  std::snprintf(suffix, sizeof suffix, "-%04lld", static_cast<long long>(index));
  auto result = path;
  result.replace_filename(path.stem().string() + suffix + path.extension().string());
  return result;
}

}  // namespace fpsa::app
