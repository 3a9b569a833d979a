// Strict JSON: what other tools read loosely is an error here, with file and place.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace fpsa::io {

/// Parses one JSON document; `origin` (a path) begins every error message.
///   Errors    fpsa::Error on bad syntax, bad UTF-8, a key that appears twice in one object, trailing content
nlohmann::json parse_json(std::string_view text, std::string_view origin);

/// Reads a whole file of at most `limit_bytes`.
std::string read_text_file(const std::filesystem::path& path, uint64_t limit_bytes = 100'000'000);

/// parse_json of a file's content.
nlohmann::json read_json(const std::filesystem::path& path);

}  // namespace fpsa::io
