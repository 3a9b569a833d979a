#include "fpsa/train/finetune_config.h"

#include <toml++/toml.h>

#include <algorithm>
#include <initializer_list>
#include <string_view>

#include "fpsa/base/check.h"

namespace fpsa::train {
namespace {

void check_keys(const toml::table& table, const std::string& where, std::initializer_list<std::string_view> known) {
  for (const auto& [key, value] : table)
    FPSA_CHECK(std::find(known.begin(), known.end(), key.str()) != known.end(), where, key.str(),
               ": unknown key; remove it or correct its name");
}

// A text that is not empty; empty when the key is absent.
std::string read_text(const toml::table& table, const std::string& where, const char* key) {
  if (!table.contains(key)) return "";
  const auto text = table[key].value<std::string>();
  FPSA_CHECK(text && !text->empty(), where, key, ": expected a text that is not empty");
  return *text;
}

std::filesystem::path read_path(const toml::table& table, const std::string& where, const char* key,
                                const std::string& origin) {
  const std::string text = read_text(table, where, key);
  return text.empty() ? std::filesystem::path() : std::filesystem::path(origin).parent_path() / text;
}

int64_t read_count(const toml::table& table, const std::string& where, const char* key, int64_t otherwise,
                   int64_t most) {
  if (!table.contains(key)) return otherwise;
  const auto count = table[key].value_exact<int64_t>();
  FPSA_CHECK(count && *count >= 1 && *count <= most, where, key, ": expected a whole number from 1 to ", most);
  return *count;
}

double read_positive(const toml::table& table, const std::string& where, const char* key, double otherwise) {
  if (!table.contains(key)) return otherwise;
  const auto value = table[key].value<double>();
  FPSA_CHECK(value && *value > 0 && *value <= 1e6, where, key, ": expected a number above 0");
  return *value;
}

DataConfig read_data_table(const toml::table& table, const std::string& origin) {
  const std::string where = origin + ": data.";
  check_keys(table, where, {"folder", "captions", "cache", "fps", "clips"});
  DataConfig data;
  FPSA_CHECK(table.contains("folder"), where, "folder: expected a folder of videos, found no such key");
  data.folder = read_path(table, where, "folder", origin);
  data.captions = read_path(table, where, "captions", origin);
  data.cache = read_path(table, where, "cache", origin);
  data.fps = read_positive(table, where, "fps", data.fps);
  data.clips = read_count(table, where, "clips", data.clips, 100000);
  return data;
}

LoraConfig read_lora_table(const toml::table& table, const std::string& origin) {
  const std::string where = origin + ": lora.";
  check_keys(table, where, {"rank", "alpha", "targets"});
  LoraConfig lora;
  lora.rank = read_count(table, where, "rank", lora.rank, 4096);
  lora.alpha = read_positive(table, where, "alpha", static_cast<double>(lora.rank));
  if (!table.contains("targets")) return lora;
  const toml::array* list = table["targets"].as_array();
  FPSA_CHECK(list && !list->empty(), where, "targets: expected a list of module names, such as [\"to_q\", \"to_v\"]");
  lora.targets.clear();
  for (const auto& node : *list) {
    const auto name = node.value<std::string>();
    FPSA_CHECK(name && !name->empty(), where, "targets: expected module names, such as \"to_q\"");
    lora.targets.push_back(*name);
  }
  return lora;
}

// A table of the recipe, through `read`; nothing when the recipe has no such table.
template <class Config>
std::optional<Config> config_of(std::string_view text, const std::string& origin, const char* key,
                                Config (*read)(const toml::table&, const std::string&)) {
  try {
    const toml::table recipe = toml::parse(text, origin);
    const toml::table* table = recipe[key].as_table();
    return table ? std::optional(read(*table, origin)) : std::nullopt;
  } catch (const toml::parse_error& error) {
    throw Error(join(origin, ": the recipe in it: ", error.description()));
  }
}

}  // namespace

std::optional<DataConfig> data_of_recipe(std::string_view text, const std::string& origin) {
  return config_of(text, origin, "data", read_data_table);
}

std::optional<LoraConfig> lora_of_recipe(std::string_view text, const std::string& origin) {
  return config_of(text, origin, "lora", read_lora_table);
}

}  // namespace fpsa::train
