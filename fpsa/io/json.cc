#include "fpsa/io/json.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <set>
#include <vector>

#include "fpsa/base/check.h"

namespace fpsa::io {

nlohmann::json parse_json(std::string_view text, std::string_view origin) {
  // One set of seen keys per open object; the library itself keeps the last of two equal keys in silence.
  std::vector<std::set<std::string>> open_objects;
  using Event = nlohmann::json::parse_event_t;
  const auto reject_duplicates = [&](int, Event event, nlohmann::json& parsed) {
    if (event == Event::object_start) open_objects.emplace_back();
    if (event == Event::object_end) open_objects.pop_back();
    if (event == Event::key) {
      const auto& key = parsed.get_ref<const std::string&>();
      FPSA_CHECK(open_objects.back().insert(key).second, origin, ": key '", key,
                 "' appears twice in one JSON object; remove one of them");
    }
    return true;
  };
  try {
    return nlohmann::json::parse(text.begin(), text.end(), reject_duplicates);
  } catch (const nlohmann::json::exception& error) {
    throw Error(join(origin, ": not valid JSON: ", error.what()));
  }
}

std::string read_text_file(const std::filesystem::path& path, uint64_t limit_bytes) {
  std::error_code failure;
  const auto status = std::filesystem::status(path, failure);
  FPSA_CHECK(std::filesystem::exists(status), "cannot read '", path.string(), "': no such file");
  FPSA_CHECK(std::filesystem::is_regular_file(status), "cannot read '", path.string(), "': not a regular file");
  const uint64_t size = std::filesystem::file_size(path, failure);
  FPSA_CHECK(!failure, "cannot read '", path.string(), "': ", failure.message());
  FPSA_CHECK(size <= limit_bytes, "cannot read '", path.string(), "': expected at most ", limit_bytes,
             " bytes of text, received ", size);
  std::ifstream in(path, std::ios::binary);
  FPSA_CHECK(in, "cannot read '", path.string(), "': ", std::strerror(errno));
  std::string text(size, '\0');
  in.read(text.data(), static_cast<std::streamsize>(size));
  FPSA_CHECK(static_cast<uint64_t>(in.gcount()) == size, "cannot read '", path.string(), "': expected ", size,
             " bytes, received ", in.gcount());
  return text;
}

nlohmann::json read_json(const std::filesystem::path& path) {
  return parse_json(read_text_file(path), path.string());
}

}  // namespace fpsa::io
