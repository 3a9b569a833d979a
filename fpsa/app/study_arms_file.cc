// Arms that a user describes in TOML.
#include <toml++/toml.h>

#include <algorithm>
#include <array>

#include "fpsa/app/study_arms.h"
#include "fpsa/app/study_variation.h"
#include "fpsa/base/check.h"
#include "fpsa/io/json.h"

namespace fpsa::app {
namespace {

namespace fs = std::filesystem;
using pattern::Grid;

constexpr std::array<std::string_view, 12> kKeys = {"name",   "label",       "model", "method", "schedule", "tile",
                                                    "window", "granularity", "quant", "phase",  "prompts",  "judge"};
constexpr std::array<std::string_view, 5> kMethods = {"dense", "sta", "fp8", "int8", "fps"};

std::string listed(std::span<const std::string_view> words) {
  std::string text;
  for (const auto word : words)
    text += (text.empty() ? "" : ", ") + std::string(word);
  return text;
}

class ArmReader {
 public:
  ArmReader(const fs::path& path, const ArmRequest& request) : path_(path), request_(request) {}

  Arm read(const toml::table& table) const {
    for (const auto& [key, node] : table)
      check(std::ranges::find(kKeys, key.str()) != kKeys.end(), node, std::string(key.str()),
            "expected one of " + listed(kKeys) + ", got an unknown key");
    Arm arm;
    arm.group = ArmGroup::kOwn;
    arm.name = required(table, "name");
    arm.method = required(table, "method");
    check(std::ranges::find(kMethods, arm.method) != kMethods.end(), *table.get("method"), "method",
          "expected one of " + listed(kMethods) + ", got '" + arm.method + "'");
    arm.label = text(table, "label").value_or(arm.name);
    arm.model = request_.model;
    if (const auto model = text(table, "model")) {
      arm.model = beside(*model);
      arm.trained = true;
    }
    arm.prompts = std::min(request_.prompts, integer(table, "prompts", 1).value_or(request_.ablation_prompts));
    arm.judged = judge(table);
    if (arm.method != "dense") arm.schedule = schedule_of(table);
    for (const auto key : {"schedule", "tile", "window", "granularity", "quant", "phase"})
      check(arm.schedule || !table.contains(key), table, key, "expected none beside method = 'dense'");
    return arm;
  }

 private:
  void check(bool good, const toml::node& node, std::string_view key, const std::string& what) const {
    FPSA_CHECK(good, path_.string(), ":", node.source().begin.line, ": ", key, ": ", what);
  }

  std::optional<std::string> text(const toml::table& table, std::string_view key) const {
    const auto* node = table.get(key);
    if (!node) return std::nullopt;
    check(node->is_string() && !node->as_string()->get().empty(), *node, key, "expected a text");
    return node->as_string()->get();
  }

  std::string required(const toml::table& table, std::string_view key) const {
    const auto value = text(table, key);
    check(value.has_value(), table, key, "expected one in every [[arm]], got none");
    return *value;
  }

  std::optional<int64_t> integer(const toml::table& table, std::string_view key, int64_t low) const {
    const auto* node = table.get(key);
    if (!node) return std::nullopt;
    check(node->is_integer() && node->as_integer()->get() >= low, *node, key,
          join("expected a whole number from ", low, " on"));
    return node->as_integer()->get();
  }

  bool judge(const toml::table& table) const {
    const auto* node = table.get("judge");
    if (!node) return false;
    check(node->is_boolean(), *node, "judge", "expected true or false");
    check(!node->as_boolean()->get() || request_.judged, *node, "judge",
          "expected false: the checker judges the procedural prompts only, and this study has others");
    return node->as_boolean()->get();
  }

  std::optional<Grid> grid(const toml::table& table, std::string_view key, bool all) const {
    const auto* node = table.get(key);
    if (!node) return std::nullopt;
    const auto* array = node->as_array();
    check(array != nullptr && array->size() == 3, *node, key, "expected three extents [t, y, x]");
    std::array<int64_t, 3> extent{};
    for (size_t i = 0; i < 3; ++i) {
      const auto& part = *array->get(i);
      const bool whole = all && part.is_string() && part.as_string()->get() == "all";
      check(whole || (part.is_integer() && part.as_integer()->get() >= 1), part, key,
            all ? "expected extents from 1 on, or 'all'" : "expected extents from 1 on");
      extent[i] = whole ? pattern::kAllTiles : part.as_integer()->get();
    }
    return Grid{extent[0], extent[1], extent[2]};
  }

  fs::path beside(const fs::path& other) const { return other.is_absolute() ? other : path_.parent_path() / other; }

  schedule::Schedule schedule_of(const toml::table& table) const {
    auto schedule = request_.schedule;
    if (const auto file = text(table, "schedule"))
      schedule = schedule::parse_toml(io::read_text_file(beside(*file)), beside(*file).string());
    if (const auto phase = integer(table, "phase", 1)) {
      check(*phase <= static_cast<int64_t>(schedule.phases.size()), *table.get("phase"), "phase",
            join("expected 1 to ", schedule.phases.size(), " of this schedule, got ", *phase));
      schedule = one_phase(schedule, static_cast<size_t>(*phase - 1));
    }
    if (const auto tile = grid(table, "tile", false)) schedule = with_tile(schedule, *tile);
    if (const auto window = grid(table, "window", true)) schedule = with_window(schedule, *window);
    if (const auto group = grid(table, "granularity", false)) schedule = with_granularity(schedule, *group);
    if (const auto quant = text(table, "quant")) {
      const auto found =
          std::ranges::find_if(schedule::kQuants, [&](schedule::Quant q) { return schedule::name(q) == *quant; });
      check(found != std::end(schedule::kQuants), *table.get("quant"), "quant",
            "expected none, e4m3 or int8, got '" + *quant + "'");
      schedule = with_quant(schedule, *found);
    }
    try {
      schedule::validate(schedule);
    } catch (const Error& error) {
      check(false, table, "arm", error.what());
    }
    return schedule;
  }

  const fs::path& path_;
  const ArmRequest& request_;
};

}  // namespace

void add_arms_of_file(const fs::path& path, const ArmRequest& request, std::vector<Arm>& arms) {
  const auto content = io::read_text_file(path);
  toml::table root;
  try {
    root = toml::parse(content, path.string());
  } catch (const toml::parse_error& error) {
    throw Error(
        join(path.string(), ":", error.source().begin.line, ": expected TOML, got an error: ", error.description()));
  }
  for (const auto& [key, node] : root)
    FPSA_CHECK(key.str() == "arm", path.string(), ":", node.source().begin.line, ": ", key.str(),
               ": expected [[arm]] tables only");
  const auto* list = root.get_as<toml::array>("arm");
  FPSA_CHECK(list != nullptr && list->is_array_of_tables(), path.string(), ": expected [[arm]] tables, got none");
  for (const auto& entry : *list) {
    auto arm = ArmReader(path, request).read(*entry.as_table());
    const auto place = join(path.string(), ":", entry.source().begin.line, ": name");
    check_arm_name(place, arm.name);
    FPSA_CHECK(std::ranges::none_of(arms, [&](const Arm& other) { return other.name == arm.name; }), place,
               ": expected one that no other arm has, got '", arm.name, "' again");
    arms.push_back(std::move(arm));
  }
}

}  // namespace fpsa::app
