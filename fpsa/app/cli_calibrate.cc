#include "fpsa/app/cli_calibrate.h"

#include <filesystem>
#include <memory>

#include "fpsa/app/calibrate.h"
#include "fpsa/app/clip_flags.h"
#include "fpsa/app/flags.h"
#include "fpsa/app/usage_error.h"
#include "fpsa/schedule/search.h"

namespace fpsa::app {
namespace {

namespace fs = std::filesystem;

void add_search_flags(CLI::App& command, CalibrateOptions& options) {
  const std::string group = "Calibration";
  add_path(
      command, "--candidates", options.candidates,
      "TOML: tile and [[candidate]] tables of granularity, window, quant [windows of density 1 to 1/8, "
      "granularities of a token, a tile, 2x2x2 tiles; with --per head also whole axes beside one tile of the others]")
      ->group(group);
  add_choice(command, "--quant", options.quant, {"e4m3", "int8", "none"}, "Precision of the default candidates [e4m3]")
      ->group(group);
  add_number(command, "--density", options.density, 0, 1,
             "Most mean share of visible pairs; the error is made small [0.25]")
      ->group(group);
  add_number(command, "--max-error", options.max_error, 0, 1e6, "Most mean relative L2; the density is made small")
      ->group(group);
  add_choice(command, "--per", options.per, {"phases", "layer", "head"},
             "What gets candidates of its own: three phases, and within them every layer or head [phases]")
      ->group(group);
  add_integer(command, "--step-stride", options.step_stride, 1, 1000,
              "Measure every n-th step; it stands for the ones up to the next [1]")
      ->group(group);
  add_integer(command, "--layer-stride", options.layer_stride, 1, 1000,
              "Measure every n-th layer; with --per phases only [1]")
      ->group(group);
}

void add_output_flags(CLI::App& command, CalibrateOptions& options) {
  const std::string group = "Output";
  add_path(command, "--output,-o", options.output, "The schedule, .toml [schedule.toml]")->group(group);
  add_path(command, "--report", options.report, "Page with the measurements and the choice, .html [calibrate.html]")
      ->group(group);
  add_path(command, "--json", options.json, "Also write every measurement as JSON")->group(group);
  add_config_flag(command);
}

// An argument that a shell reads back as it is.
std::string quoted(const std::string& text) {
  constexpr char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_=+,./:@%";
  if (!text.empty() && text.find_first_not_of(plain) == std::string::npos) return text;
  std::string result = "'";
  for (const char c : text)
    result += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return result + "'";
}

// The command with every setting that was given, in whatever way.
std::string command_line(const CLI::App& command) {
  std::string text = "fpsa " + command.get_name();
  for (const auto* option : command.get_options()) {
    const auto& names = option->get_lnames();
    if (names.empty() || option->count() == 0 || names[0] == "config" || names[0] == "size") continue;
    // A flag given twice counts as given last, but every --lora counts; a switch takes its value by '=' only.
    const auto& results = option->results();
    for (size_t i = names[0] == "lora" ? 0 : results.size() - 1; i < results.size(); ++i)
      text += " --" + names[0] + (option->get_expected_max() > 0 ? " " : "=") + quoted(results[i]);
  }
  return text;
}

void check_paths(const CalibrateOptions& options) {
  struct Place {
    const char* flag;
    const fs::path& path;
    const char* suffix;
  };
  const Place places[] = {
      {"--output", options.output, ".toml"}, {"--report", options.report, ".html"}, {"--json", options.json, ".json"}};
  for (const auto& [flag, path, suffix] : places)
    FPSA_USAGE_CHECK(path.empty() || path.extension() == suffix || fs::is_other(path), flag,
                     ": expected a name that ends in ", suffix, ", got '", path.string(), "'");
}

void check_combinations(const CLI::App& command, const CalibrateOptions& options) {
  check_prompts(command, options.run);
  check_paths(options);
  FPSA_USAGE_CHECK(!options.density || !options.max_error,
                   "--density: expected at most one of --density and --max-error, got both");
  FPSA_USAGE_CHECK(options.candidates.empty() || command.count("--quant") == 0,
                   "--quant: expected none beside --candidates, which names it; drop one of the two");
  FPSA_USAGE_CHECK(options.layer_stride == 1 || options.per == "phases", "--layer-stride: expected 1 with --per ",
                   options.per, ", which needs every layer's error, got ", options.layer_stride);
  FPSA_USAGE_CHECK(options.run.steps >= schedule::kPhases, "--num-inference-steps: expected at least ",
                   schedule::kPhases, " for as many phases, got ", options.run.steps);
  const auto widest = (options.run.steps - 1) / (schedule::kPhases - 1);
  FPSA_USAGE_CHECK(options.step_stride <= widest, "--step-stride: expected at most ", widest, " for ",
                   options.run.steps, " steps, so that ", schedule::kPhases, " are measured, got ",
                   options.step_stride);
}

}  // namespace

void add_calibrate_command(CLI::App& app) {
  auto* command = app.add_subcommand("calibrate", "Measure attention settings on a model and derive a schedule");
  auto options = std::make_shared<CalibrateOptions>();
  add_content_flags(*command, options->run);
  add_sampling_flags(*command, options->run);
  add_search_flags(*command, *options);
  add_machine_flags(*command, options->run);
  add_output_flags(*command, *options);
  command->footer(kPrecedence);
  command->final_callback([command, options] {
    merge_settings(*command, options->run);
    check_combinations(*command, *options);
    options->command = command_line(*command);
    calibrate(*options);
  });
}

}  // namespace fpsa::app
