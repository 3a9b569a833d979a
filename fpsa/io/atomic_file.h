// Output files that appear whole or not at all.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string_view>

namespace fpsa::io {

/// A file that is written under a temporary name beside its target and renamed onto it by commit().
///   Edges     a symbolic link is followed; a target that is a device or a pipe is written directly
///   Threads   one object belongs to one thread
///   Errors    fpsa::Error with path and cause (missing folder, no permission, full disk); whatever happens before
///             commit() leaves an older file of that name untouched, and the destructor removes the temporary one
class AtomicFile {
 public:
  explicit AtomicFile(const std::filesystem::path& target);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  /// Appends all bytes at the current position.
  void write(const void* data, size_t size_bytes);

  /// Moves the write position, from the start of the file. For containers that go back to fix up an index.
  void seek(uint64_t offset_bytes);

  /// Position of the next write, from the start of the file.
  uint64_t position_bytes() const { return position_bytes_; }

  /// Makes the content durable and gives it its final name.
  void commit();

  const std::filesystem::path& target() const { return target_; }

 private:
  [[noreturn]] void fail(const char* action, int error_number) const;

  std::filesystem::path target_, temporary_;  // temporary_ is empty when the target is written directly
  uint64_t position_bytes_ = 0;
  int descriptor_ = -1;
};

/// Writes one text or binary blob atomically.
void write_file(const std::filesystem::path& target, std::string_view content);

}  // namespace fpsa::io
