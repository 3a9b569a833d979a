// Text files that grow line by line: logs and metrics.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace fpsa::io {

/// A file whose every line is whole, whatever happens while it is written.
///   Edges     opening cuts off a last line that a killed process left unfinished; devices are written as they are
///   Threads   one object and one writer at a time
///   Errors    fpsa::Error with path, cause and remedy (missing folder, no permission, full disk)
class AppendFile {
 public:
  AppendFile() = default;
  explicit AppendFile(const std::filesystem::path& path);
  ~AppendFile();
  AppendFile(AppendFile&& other) noexcept;
  AppendFile& operator=(AppendFile&& other) noexcept;

  /// Appends the text and a line end. When it does not fit on the disk the file is as before, and this throws.
  void write_line(std::string_view text);

 private:
  std::filesystem::path path_;
  int descriptor_ = -1;
};

}  // namespace fpsa::io
