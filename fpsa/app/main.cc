// The program: parses the command line, runs one command, turns errors into messages and exit codes.
//   0 done   1 failed   2 wrong command line or setting   130 interrupted
#include <algorithm>
#include <iostream>

#include "fpsa/app/cli_bench.h"
#include "fpsa/app/cli_calibrate.h"
#include "fpsa/app/cli_compare.h"
#include "fpsa/app/cli_generate.h"
#include "fpsa/app/cli_info.h"
#include "fpsa/app/cli_study.h"
#include "fpsa/app/console.h"
#include "fpsa/app/failure.h"
#include "fpsa/app/flags.h"
#include "fpsa/app/train_command.h"
#include "fpsa/app/usage_error.h"

namespace {

using fpsa::app::kUsage;

// The innermost command of the line: "attention" of "fpsa bench attention".
const CLI::App& chosen_command(const CLI::App& app) {
  const auto chosen = app.get_subcommands();
  return chosen.empty() ? app : chosen_command(*chosen.front());
}

// "fpsa bench attention".
std::string full_name(const CLI::App& command) {
  return command.get_parent() ? fpsa::join(full_name(*command.get_parent()), " ", command.get_name()) : "fpsa";
}

// The command, or the only one below it, that has a flag of exactly this name; null when there is none or several.
const CLI::App* owner_of_flag(const CLI::App& command, const std::string& flag) {
  if (command.get_option_no_throw("--" + flag)) return &command;
  const CLI::App* owner = nullptr;
  for (const auto* below : command.get_subcommands({})) {
    const CLI::App* found = below->get_group().empty() ? nullptr : owner_of_flag(*below, flag);
    if (found && owner) return nullptr;
    if (found) owner = found;
  }
  return owner;
}

int report_unknown(const CLI::App& app, const std::vector<std::string>& arguments) {
  const auto& command = chosen_command(app);
  for (const auto& argument : arguments) {
    std::cerr << "fpsa: error: " << argument << ": expected ";
    std::vector<std::string> known;
    for (const auto* subcommand : command.get_subcommands({}))
      if (!subcommand->get_group().empty()) known.push_back(subcommand->get_name());
    const bool is_command = !argument.starts_with("-") && !known.empty();
    if (is_command) {
      std::cerr << "a command";
    } else {
      known = fpsa::app::flag_names(command);
      std::cerr << "one of the flags of '" << full_name(command) << "'";
    }
    const auto dashes = argument.find_first_not_of('-');
    const auto name = dashes == std::string::npos ? argument : argument.substr(dashes);
    const auto near = fpsa::app::nearest_name(name.substr(0, name.find('=')), known);
    std::cerr << ", got an unknown one; ";
    if (near) std::cerr << "did you mean " << (is_command ? "" : "--") << *near << "? ";
    if (const auto* owner = is_command ? nullptr : owner_of_flag(command, name.substr(0, name.find('='))))
      std::cerr << "it goes after '" << full_name(*owner) << "'; ";
    std::cerr << "all: " << full_name(command) << " --help\n";
  }
  return kUsage;
}

int run(int argc, const char* const* argv) {
  CLI::App app{"Video diffusion with FP8 and tile-sparse attention", "fpsa"};
  app.require_subcommand(0, 1);  // "no command" is reported below, after unknown words
  app.set_version_flag("--version", FPSA_VERSION);
  fpsa::app::add_generate_command(app);
  fpsa::app::add_calibrate_command(app);
  fpsa::app::add_info_command(app);
  fpsa::app::add_compare_commands(app);
  fpsa::app::add_train_command(app);
  fpsa::app::add_bench_command(app);
  fpsa::app::add_study_command(app);

  auto arguments = fpsa::app::with_dashes(argc, argv);
  std::reverse(arguments.begin(), arguments.end());  // CLI11 takes them from the back
  try {
    app.parse(arguments);
    FPSA_USAGE_CHECK(!app.get_subcommands().empty(),
                     "command: expected one of generate, calibrate, info, compare, sheet, train, bench, study, ",
                     "got none; all: fpsa --help");
    return 0;
  } catch (const CLI::Success& success) {  // --help, --version
    return app.exit(success);
  } catch (const CLI::ExtrasError&) {
    auto unknown = app.remaining(true);
    std::erase_if(unknown, [](const std::string& argument) { return argument.empty(); });
    return report_unknown(app, unknown);
  } catch (const CLI::ParseError& error) {
    std::cerr << "fpsa: error: " << error.what() << "; usage: " << full_name(chosen_command(app)) << " --help\n";
    return kUsage;
  }
}

}  // namespace

int main(int argc, char** argv) {
  fpsa::app::prepare_console();
  try {
    const int code = run(argc, argv);
    fpsa::app::finish_console();
    return code;
  } catch (const std::exception& error) {
    const auto failure = fpsa::app::failure_of(error);
    std::cerr << "fpsa: " << failure.text << '\n';
    return failure.exit_code;
  }
}
