#include "fpsa/io/atomic_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <string>

#include "fpsa/base/check.h"
#include "fpsa/io/write_error.h"

namespace fpsa::io {
namespace fs = std::filesystem;
namespace {

// Where a symbolic link points, also when the file there does not exist yet.
fs::path follow_links(fs::path path) {
  // 40 is Linux's own limit on links in one path.
  for (int hops = 0; hops < 40; ++hops) {
    std::error_code ignored;
    if (!fs::is_symlink(path, ignored)) return path;
    const fs::path link = fs::read_symlink(path, ignored);
    path = link.is_absolute() ? link : path.parent_path() / link;
  }
  throw Error(join("cannot write '", path.string(), "': too many symbolic links"));
}

fs::path temporary_name(const fs::path& target) {
  static std::atomic<unsigned> counter{0};
  return target.parent_path() /
         join(".", target.filename().string(), ".", ::getpid(), ".", counter.fetch_add(1), ".partial");
}

// A rename survives a power cut only when the folder itself is on disk. File systems without that notion refuse
// the call, which is no reason to fail.
void sync_folder(const fs::path& folder) {
  const int descriptor = ::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return;
  (void)::fsync(descriptor);
  ::close(descriptor);
}

}  // namespace

AtomicFile::AtomicFile(const fs::path& target) : target_(follow_links(target)) {
  FPSA_CHECK(!target_.empty() && target_.has_filename(), "cannot write '", target.string(),
             "': expected the path of a file, received a folder or nothing");
  struct stat status {};
  const bool exists = ::stat(target_.c_str(), &status) == 0;
  FPSA_CHECK(!exists || !S_ISDIR(status.st_mode), "cannot write '", target.string(),
             "': expected the path of a file, received a folder");
  const bool direct = exists && !S_ISREG(status.st_mode);
  if (exists && !direct && ::access(target_.c_str(), W_OK) != 0) fail("cannot write", errno);
  if (!direct) temporary_ = temporary_name(target_);
  const fs::path& opened = direct ? target_ : temporary_;
  const int flags = direct ? O_WRONLY | O_CLOEXEC : O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC;
  descriptor_ = ::open(opened.c_str(), flags, 0666);
  if (descriptor_ < 0) {
    temporary_.clear();
    fail("cannot create", errno);
  }
}

AtomicFile::~AtomicFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicFile::fail(const char* action, int error_number) const {
  throw Error(write_error(action, target_, error_number));
}

void AtomicFile::write(const void* data, size_t size_bytes) {
  const char* next = static_cast<const char*>(data);
  while (size_bytes > 0) {
    const ssize_t written = ::write(descriptor_, next, size_bytes);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail("cannot write", errno);
    next += written;
    size_bytes -= static_cast<size_t>(written);
    position_bytes_ += static_cast<uint64_t>(written);
  }
}

void AtomicFile::seek(uint64_t offset_bytes) {
  if (::lseek(descriptor_, static_cast<off_t>(offset_bytes), SEEK_SET) < 0) fail("cannot seek in", errno);
  position_bytes_ = offset_bytes;
}

void AtomicFile::commit() {
  FPSA_CHECK(descriptor_ >= 0, "'", target_.string(), "' is committed twice");
  // Devices and pipes cannot be synced, and need not be.
  if (!temporary_.empty() && ::fsync(descriptor_) != 0) fail("cannot write", errno);
  const int closed = ::close(descriptor_);
  descriptor_ = -1;
  if (closed != 0) fail("cannot write", errno);
  if (temporary_.empty()) return;
  if (::rename(temporary_.c_str(), target_.c_str()) != 0) fail("cannot rename a finished file to", errno);
  temporary_.clear();
  sync_folder(target_.parent_path());
}

void write_file(const fs::path& target, std::string_view content) {
  AtomicFile file(target);
  file.write(content.data(), content.size());
  file.commit();
}

}  // namespace fpsa::io
