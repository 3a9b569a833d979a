// Settings files: JSON or TOML with one flat table, whose keys are the flags' names.
#include <toml++/toml.h>

#include <sstream>

#include "fpsa/app/flags.h"
#include "fpsa/app/usage_error.h"
#include "fpsa/io/json.h"

namespace fpsa::app {
namespace {

nlohmann::json json_from(const toml::node& node, const std::string& where) {
  if (const auto* text = node.as_string()) return text->get();
  if (const auto* integer = node.as_integer()) return integer->get();
  if (const auto* number = node.as_floating_point()) return number->get();
  if (const auto* boolean = node.as_boolean()) return boolean->get();
  throw UsageError(join(where, " (line ", node.source().begin.line,
                        "): expected a string, a number or a boolean; nested tables, lists and dates are no settings"));
}

nlohmann::json read_toml(const std::filesystem::path& path) {
  const auto text = io::read_text_file(path);
  try {
    const auto table = toml::parse(text, path.string());
    auto result = nlohmann::json::object();
    for (const auto& [key, node] : table)
      result[std::string(key.str())] = json_from(node, join(path.string(), ": ", key.str()));
    return result;
  } catch (const toml::parse_error& error) {
    throw Error(join(path.string(), " (line ", error.source().begin.line,
                     "): expected TOML, got an error: ", error.description()));
  }
}

}  // namespace

nlohmann::json read_settings(const std::filesystem::path& path) {
  const auto suffix = path.extension();
  if (suffix == ".json") return io::read_json(path);
  if (suffix == ".toml") return read_toml(path);
  throw UsageError(join("--config: expected a file that ends in .json or .toml, got '", path.string(), "'"));
}

}  // namespace fpsa::app
