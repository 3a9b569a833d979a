#include "fpsa/app/flags.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <sstream>

#include "fpsa/app/usage_error.h"

namespace fpsa::app {
namespace {

std::string first_long_name(const std::string& names) {
  const auto begin = names.find("--");
  return names.substr(begin, names.find(',', begin) - begin);
}

// Edit distance with insertions, deletions, substitutions; names are short.
size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j)
    row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t substituted = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({substituted, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row[b.size()];
}

CLI::Option* add_parsed(CLI::App& command, const std::string& names, std::function<void(const std::string&)> store,
                        const std::string& type, const std::string& help) {
  // A flag given twice counts as given last, as in argparse: scripts append to a common prefix.
  return command.add_option_function<std::string>(names, std::move(store), help)->type_name(type)->take_last();
}

std::string as_text(const nlohmann::json& value, const std::string& where) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_boolean() || value.is_number()) return value.dump();
  throw UsageError(join(where, ": expected a string, a number or a boolean, got ", value.dump().substr(0, 60)));
}

}  // namespace

std::vector<std::string> with_dashes(int argc, const char* const* argv) {
  std::vector<std::string> result;
  bool flags = true;
  for (int i = 1; i < argc; ++i) {
    std::string argument = argv[i];
    if (argument == "--") flags = false;
    if (flags && argument.starts_with("--")) {
      const auto end = std::min(argument.find('='), argument.size());
      std::replace(argument.begin(), argument.begin() + static_cast<std::ptrdiff_t>(end), '_', '-');
    }
    result.push_back(std::move(argument));
  }
  return result;
}

std::optional<std::string> nearest_name(const std::string& name, const std::vector<std::string>& candidates) {
  std::optional<std::string> best;
  size_t best_distance = name.size() / 3 + 2;  // further away than this is no typing error
  for (const auto& candidate : candidates) {
    // A prefix of a longer name is a likelier slip than its edit distance says.
    const size_t distance = name.size() >= 3 && candidate.starts_with(name) ? 1 : edit_distance(name, candidate);
    if (distance < best_distance) {
      best_distance = distance;
      best = candidate;
    }
  }
  return best;
}

std::vector<std::string> flag_names(const CLI::App& command) {
  std::vector<std::string> names;
  for (const auto* option : command.get_options())
    for (const auto& name : option->get_lnames())
      names.push_back(name);
  return names;
}

int64_t parse_integer(const std::string& flag, const std::string& text, int64_t low, int64_t high) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  FPSA_USAGE_CHECK(error == std::errc() && end == text.data() + text.size() && value >= low && value <= high, flag,
                   ": expected a whole number from ", low, " to ", high, ", got '", text, "'");
  return value;
}

double parse_number(const std::string& flag, const std::string& text, double low, double high) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  FPSA_USAGE_CHECK(error == std::errc() && end == text.data() + text.size() && value >= low && value <= high, flag,
                   ": expected a number from ", low, " to ", high, ", got '", text, "'");
  return value;
}

CLI::Option* add_integer(CLI::App& command, const std::string& names, int64_t& target, int64_t low, int64_t high,
                         const std::string& help) {
  return add_parsed(
      command, names,
      [flag = first_long_name(names), &target, low, high](const std::string& text) {
        target = parse_integer(flag, text, low, high);
      },
      "INT", help);
}

CLI::Option* add_number(CLI::App& command, const std::string& names, double& target, double low, double high,
                        const std::string& help) {
  return add_parsed(
      command, names,
      [flag = first_long_name(names), &target, low, high](const std::string& text) {
        target = parse_number(flag, text, low, high);
      },
      "FLOAT", help);
}

CLI::Option* add_number(CLI::App& command, const std::string& names, std::optional<double>& target, double low,
                        double high, const std::string& help) {
  return add_parsed(
      command, names,
      [flag = first_long_name(names), &target, low, high](const std::string& text) {
        target = parse_number(flag, text, low, high);
      },
      "FLOAT", help);
}

CLI::Option* add_rope_scale(CLI::App& command, const std::string& names, models::wan::RopeStretch& target) {
  return add_parsed(
      command, names,
      [flag = first_long_name(names), &target](const std::string& text) {
        std::vector<std::string> parts(1);
        for (const char c : text)
          if (c == ',')
            parts.emplace_back();
          else
            parts.back() += c;
        FPSA_USAGE_CHECK(parts.size() == 3, flag, ": expected three factors for time, rows and columns, as in 1,0.5,0.5",
                         "; got '", text, "'");
        const auto factor = [&](int axis) { return parse_number(flag, parts[static_cast<size_t>(axis)], 1e-3, 1e3); };
        target = {factor(0), factor(1), factor(2)};
      },
      "T,Y,X", "Factors on token positions: 1,0.5,0.5 at twice the trained height and width [1,1,1, or the model's own]");
}

std::string rope_scale_text(const models::wan::RopeStretch& factors) {
  return join(factors.t, ',', factors.y, ',', factors.x);
}

CLI::Option* add_seed(CLI::App& command, const std::string& names, uint64_t& target, const std::string& help) {
  return add_parsed(
      command, names,
      [flag = first_long_name(names), &target](const std::string& text) {
        const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), target);
        FPSA_USAGE_CHECK(error == std::errc() && end == text.data() + text.size(), flag,
                         ": expected a whole number from 0 to 2^64-1, got '", text, "'");
      },
      "UINT", help);
}

CLI::Option* add_text(CLI::App& command, const std::string& names, std::string& target, const std::string& help) {
  return add_parsed(
      command, names, [&target](const std::string& text) { target = text; }, "TEXT", help);
}

CLI::Option* add_text(CLI::App& command, const std::string& names, std::optional<std::string>& target,
                      const std::string& help) {
  return add_parsed(
      command, names, [&target](const std::string& text) { target = text; }, "TEXT", help);
}

CLI::Option* add_path(CLI::App& command, const std::string& names, std::filesystem::path& target,
                      const std::string& help) {
  return add_parsed(
      command, names,
      [flag = first_long_name(names), &target](const std::string& text) {
        FPSA_USAGE_CHECK(!text.empty(), flag, ": expected a path, got an empty text");
        target = text;
      },
      "PATH", help);
}

CLI::Option* add_choice(CLI::App& command, const std::string& names, std::string& target,
                        const std::vector<std::string>& choices, const std::string& help) {
  std::string list;
  for (const auto& choice : choices)
    list += (list.empty() ? "" : "|") + choice;
  return add_parsed(
      command, names,
      [flag = first_long_name(names), &target, choices, list](const std::string& text) {
        FPSA_USAGE_CHECK(std::find(choices.begin(), choices.end(), text) != choices.end(), flag, ": expected ", list,
                         ", got '", text, "'");
        target = text;
      },
      list, help);
}

CLI::Option* add_switch(CLI::App& command, const std::string& names, bool& target, const std::string& help) {
  return command.add_flag_function(
      names, [&target](int64_t count) { target = count > 0; }, help);
}

void apply_settings(CLI::App& command, const nlohmann::json& settings, const std::string& origin,
                    const std::vector<std::string>& allowed) {
  FPSA_USAGE_CHECK(settings.is_object(), origin, ": expected an object of settings, got ", settings.type_name());
  auto known = allowed.empty() ? flag_names(command) : allowed;
  std::erase_if(known, [](const std::string& name) { return name == "config" || name == "help"; });
  // Only what was absent before this file may be set by it; --size in the file stands for two keys.
  std::vector<std::pair<CLI::Option*, std::string>> values;
  const auto remember = [&](const std::string& name, const std::string& text) {
    auto* option = command.get_option_no_throw("--" + name);
    if (option && option->count() == 0) values.emplace_back(option, text);
  };
  for (const auto& [key, value] : settings.items()) {
    std::string name = key;
    std::replace(name.begin(), name.end(), '_', '-');
    const std::string where = join(origin, ": ", key);
    if (std::find(known.begin(), known.end(), name) == known.end()) {
      const auto near = nearest_name(name, known);
      throw UsageError(
          join(where, ": expected a known setting, got an unknown one", near ? "; did you mean '" + *near + "'?" : ""));
    }
    const auto text = as_text(value, where);
    if (name != "size") {
      remember(name, text);
      continue;
    }
    const auto cut = text.find_first_of("*xX,");
    FPSA_USAGE_CHECK(cut != std::string::npos, where, ": expected WIDTH*HEIGHT, got '", text, "'");
    remember("width", text.substr(0, cut));
    remember("height", text.substr(cut + 1));
  }
  for (const auto& [option, text] : values) {
    if (option->get_expected_max() == 0) {  // a switch
      FPSA_USAGE_CHECK(text == "true" || text == "false", origin, ": ", option->get_lnames().front(),
                       ": expected true or false, got '", text, "'");
      option->add_result(text == "true" ? "1" : "-1");
    } else {
      option->add_result(text);
    }
    try {
      option->run_callback();
    } catch (const UsageError& error) {
      throw UsageError(join(origin, ": ", error.what()));
    }
  }
}

void expand_size(CLI::App& command) {
  const auto* size = command.get_option("--size");
  if (size->count() == 0) return;
  FPSA_USAGE_CHECK(command.count("--width") == 0 && command.count("--height") == 0,
                   "--size: expected either --size or --width and --height, got both");
  apply_settings(command, {{"size", size->as<std::string>()}}, "command line");
}

}  // namespace fpsa::app
