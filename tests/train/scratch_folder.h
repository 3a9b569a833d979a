// A folder that exists while a test runs.
#pragma once

#include <unistd.h>

#include <filesystem>
#include <string>

namespace fpsa::train {

struct ScratchFolder {
  ScratchFolder() {
    static int count = 0;
    path = std::filesystem::temp_directory_path() /
           ("fpsa-train-" + std::to_string(::getpid()) + "-" + std::to_string(count++));
    std::filesystem::create_directories(path);
  }
  ~ScratchFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;

  std::filesystem::path path;
};

}  // namespace fpsa::train
