// Checks of where results will go, made before any work is done.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace fpsa::app {

/// Throws unless a file of about `bytes` can be created at `path`.
///   Edges     devices and pipes pass: they are written directly
///   Errors    fpsa::Error naming `flag`: the folder is missing or read-only, the path is a folder, too little space
void check_writable_file(const std::string& flag, const std::filesystem::path& path, int64_t bytes);

/// The same for a folder of files; creates it when only its last part is missing.
void check_writable_folder(const std::string& flag, const std::filesystem::path& path, int64_t bytes);

/// "clip.mp4" -> "clip-0003.mp4"; the path itself when there is only one output.
std::filesystem::path numbered(const std::filesystem::path& path, int64_t index, int64_t count);

}  // namespace fpsa::app
