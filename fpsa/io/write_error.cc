#include "fpsa/io/write_error.h"

#include <cerrno>
#include <cstring>

#include "fpsa/base/check.h"

namespace fpsa::io {
namespace {

std::string remedy(int error_number) {
  switch (error_number) {
    case ENOSPC:
    case EDQUOT:
      return "; free some space or choose an output on another disk";
    case EFBIG:
      return "; the file size limit of this process or file system is reached (ulimit -f)";
    case ENOENT:
      return "; create the folder first";
    case EACCES:
    case EPERM:
    case EROFS:
      return "; choose a folder that you may write to";
    default:
      return "";
  }
}

}  // namespace

std::string write_error(const char* action, const std::filesystem::path& path, int error_number) {
  return join(action, " '", path.string(), "': ", std::strerror(error_number), remedy(error_number));
}

}  // namespace fpsa::io
