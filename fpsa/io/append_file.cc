#include "fpsa/io/append_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "fpsa/base/check.h"
#include "fpsa/io/write_error.h"

namespace fpsa::io {
namespace {

// The length of the file up to and with its last line end.
off_t whole_lines(int descriptor, off_t size) {
  char letter = 0;
  while (size > 0 && ::pread(descriptor, &letter, 1, size - 1) == 1 && letter != '\n')
    --size;
  return size;
}

}  // namespace

AppendFile::AppendFile(const std::filesystem::path& path) : path_(path) {
  descriptor_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (descriptor_ < 0) throw Error(write_error("cannot open", path_, errno));
  struct stat status {};
  if (::fstat(descriptor_, &status) != 0 || !S_ISREG(status.st_mode)) return;
  const off_t whole = whole_lines(descriptor_, status.st_size);
  if (whole != status.st_size && ::ftruncate(descriptor_, whole) != 0) {
    const int cause = errno;
    ::close(std::exchange(descriptor_, -1));
    throw Error(write_error("cannot write", path_, cause));
  }
}

AppendFile::~AppendFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

AppendFile::AppendFile(AppendFile&& other) noexcept
    : path_(std::move(other.path_)), descriptor_(std::exchange(other.descriptor_, -1)) {}

AppendFile& AppendFile::operator=(AppendFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(descriptor_, other.descriptor_);
  return *this;
}

void AppendFile::write_line(std::string_view text) {
  std::string line(text);
  line += '\n';
  struct stat before {};
  const bool regular = ::fstat(descriptor_, &before) == 0 && S_ISREG(before.st_mode);
  for (size_t done = 0; done < line.size();) {
    const ssize_t written = ::write(descriptor_, line.data() + done, line.size() - done);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) {
      const int cause = errno;
      if (regular) (void)!::ftruncate(descriptor_, before.st_size);  // what fails here is cut off at the next opening
      throw Error(write_error("cannot append to", path_, cause));
    }
    done += static_cast<size_t>(written);
  }
}

}  // namespace fpsa::io
