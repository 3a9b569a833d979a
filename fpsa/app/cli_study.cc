#include "fpsa/app/cli_study.h"

#include <memory>

#include "fpsa/app/clip_flags.h"
#include "fpsa/app/flags.h"
#include "fpsa/app/lpips.h"
#include "fpsa/app/study.h"
#include "fpsa/app/usage_error.h"

namespace fpsa::app {
namespace {

namespace fs = std::filesystem;

// What the flags of clips offer beyond what all arms of a study can share.
constexpr const char* kForeign[] = {"--vae", "--text-encoder", "--tokenizer", "--prompt", "--prompt-embeds", "--lora"};

void add_study_flags(CLI::App& command, StudyOptions& options) {
  const std::string group = "Study";
  add_path(command, "--out", options.out, "Folder of the study; the same command again goes on where it stopped")
      ->group(group);
  command
      .add_option_function<std::vector<std::string>>(
          "--trained",
          [&options](const std::vector<std::string>& values) {
            for (const auto& text : values) {
              const auto cut = text.find('=');
              FPSA_USAGE_CHECK(cut != std::string::npos && cut > 0 && cut + 1 < text.size(),
                               "--trained: expected NAME=FOLDER, got '", text, "'");
              options.trained.emplace_back(text.substr(0, cut), text.substr(cut + 1));
            }
          },
          "Weights trained for a schedule, which they carry; once for each")
      ->type_name("NAME=FOLDER")
      ->take_all()
      ->expected(1)
      ->group(group);
  add_path(command, "--schedule", options.run.schedule,
           "TOML schedule of the untrained arms [the weights', fps.toml in the model's folder, the built-in one]")
      ->group(group);
  add_path(command, "--arms", options.arms_file,
           "TOML with [[arm]] tables of your own: name, method, schedule, window, ...")
      ->group(group);
  command
      .add_option_function<std::vector<std::string>>(
          "--only", [&options](const std::vector<std::string>& names) { options.only = names; },
          "These arms and the dense one, separated by commas [all]")
      ->type_name("NAMES")
      ->delimiter(',')
      ->take_all()
      ->group(group);
  add_integer(command, "--prompts", options.prompts, 1, 100000,
              "Prompts of the main arms, procedural without --prompt-file [400]")
      ->group(group);
  add_integer(command, "--ablation-prompts", options.ablation_prompts, 1, 100000, "Prompts of all others [32]")
      ->group(group);
  add_path(command, "--lpips-weights", options.lpips_weights, kLpipsHelp)->group(group);
  add_integer(command, "--samples", options.samples, 1, 100, "Clips of every prompt [1; VBench wants 5]")->group(group);
  add_switch(command, "--full", options.full, "Also the frontier of densities, 25, 15, 10 and 6%")->group(group);
  add_switch(command, "--budget", options.budget, "First time a few steps of every arm and print the hours")
      ->group(group);
  add_switch(command, "--dry-run", options.dry_run, "Print what would be made, write nothing")->group(group);
  add_switch(command, "--report", options.report_only, "Write the report of what is there, make nothing")->group(group);
}

void add_output_flags(CLI::App& command, StudyOptions& options) {
  const std::string group = "Output";
  add_integer(command, "--clips", options.shown_clips, 0, 1000, "Clips of each main arm that the page plays [3]")
      ->group(group);
  add_path(command, "--vbench-layout", options.vbench_layout,
           "Also write every clip as DIR/ARM/PROMPT-I.mp4, the names that VBench expects")
      ->group(group);
  add_number(command, "--fps", options.run.fps, 0.1, 1000, "Frames per second of the videos [16]")->group(group);
  add_config_flag(command);
}

void check(const StudyOptions& options) {
  FPSA_USAGE_CHECK(!options.out.empty(), "--out: expected a folder for results and report, got nothing");
  FPSA_USAGE_CHECK(!options.report_only || !(options.budget || options.dry_run),
                   "--report: expected neither --budget nor --dry-run beside it, which plan what it does not make");
  FPSA_USAGE_CHECK(options.run.prompt_file.empty() || fs::exists(options.run.prompt_file),
                   "--prompt-file: expected a file, got ", options.run.prompt_file.string(), ", which does not exist");
}

}  // namespace

void add_study_command(CLI::App& app) {
  auto* command = app.add_subcommand("study", "The paper's tables on a model: speed and quality of all methods");
  auto options = std::make_shared<StudyOptions>();
  options->run.model = "models/tiny";
  add_content_flags(*command, options->run);
  for (const auto* flag : kForeign)
    command->remove_option(command->get_option(flag));
  command->get_option("--model")->description("Folder of a Wan2.1 text-to-video checkpoint [models/tiny]");
  command->get_option("--prompt-file")->description("One prompt per line [held-out procedural prompts]");
  add_sampling_flags(*command, options->run);
  add_study_flags(*command, *options);
  add_machine_flags(*command, options->run);
  add_output_flags(*command, *options);
  command->footer(kPrecedence);
  command->final_callback([command, options] {
    merge_settings(*command, options->run);
    check(*options);
    run_study(*options);
  });
}

}  // namespace fpsa::app
