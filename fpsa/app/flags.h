// Typed command-line flags whose errors name flag, expectation, value and remedy, and the merge of settings files.
//
// CLI11 parses the line; every value passes through the checks here, so that a flag, a key of --config and a
// default of the model's folder are read by the same code and complain in the same words.
#pragma once

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "fpsa/models/wan/rope.h"

namespace fpsa::app {

/// "--num_frames=5" becomes "--num-frames=5"; values are left alone, and so is everything after "--".
std::vector<std::string> with_dashes(int argc, const char* const* argv);

/// The candidate closest to `name`, or nothing when none is close: for "did you mean".
std::optional<std::string> nearest_name(const std::string& name, const std::vector<std::string>& candidates);

/// Long names of a command's flags, without the leading dashes.
std::vector<std::string> flag_names(const CLI::App& command);

/// Flags that store into `target`. `names` is CLI11's list ("--height,-H"); its first long name appears in errors.
///   Errors    UsageError when the text is not a number of that kind or out of [low, high]
CLI::Option* add_integer(CLI::App& command, const std::string& names, int64_t& target, int64_t low, int64_t high,
                         const std::string& help);
CLI::Option* add_number(CLI::App& command, const std::string& names, double& target, double low, double high,
                        const std::string& help);
CLI::Option* add_number(CLI::App& command, const std::string& names, std::optional<double>& target, double low,
                        double high, const std::string& help);
CLI::Option* add_seed(CLI::App& command, const std::string& names, uint64_t& target, const std::string& help);
CLI::Option* add_text(CLI::App& command, const std::string& names, std::string& target, const std::string& help);
CLI::Option* add_text(CLI::App& command, const std::string& names, std::optional<std::string>& target,
                      const std::string& help);
CLI::Option* add_path(CLI::App& command, const std::string& names, std::filesystem::path& target,
                      const std::string& help);
/// One of a fixed list of words.
CLI::Option* add_choice(CLI::App& command, const std::string& names, std::string& target,
                        const std::vector<std::string>& choices, const std::string& help);
/// "--x" alone means true, "--x=false" false; a settings file gives a boolean.
CLI::Option* add_switch(CLI::App& command, const std::string& names, bool& target, const std::string& help);

/// T,Y,X: factors on the positions of a token grid.
CLI::Option* add_rope_scale(CLI::App& command, const std::string& names, models::wan::RopeStretch& target);
/// The factors as that flag takes them: "1,0.5,0.5".
std::string rope_scale_text(const models::wan::RopeStretch& factors);

/// Whole-text conversions used by the flags above; `flag` is named in the error.
int64_t parse_integer(const std::string& flag, const std::string& text, int64_t low, int64_t high);
double parse_number(const std::string& flag, const std::string& text, double low, double high);

/// Reads a settings file: JSON or TOML by its suffix.
///   Errors    UsageError on another suffix; fpsa::Error with place on bad syntax or a duplicate key
nlohmann::json read_settings(const std::filesystem::path& path);

/// Gives the flags named by the object's keys their values, unless they already have one.
///   Requires  called after the command line was parsed; call order is precedence
///   Edges     keys may use underscores; `allowed` empty means every flag but --config and --help; an allowed key that
///             is no flag of this command is skipped
///   Errors    UsageError naming `origin` on an unknown key (with the nearest known one) or a value of a wrong kind
void apply_settings(CLI::App& command, const nlohmann::json& settings, const std::string& origin,
                    const std::vector<std::string>& allowed = {});

/// Expands "--size 832*480" ('x' and ',' separate too) into width and height, which must not be given beside it.
void expand_size(CLI::App& command);

}  // namespace fpsa::app
