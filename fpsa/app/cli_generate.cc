#include "fpsa/app/cli_generate.h"

#include <filesystem>
#include <limits>
#include <memory>

#include "fpsa/app/clip_flags.h"
#include "fpsa/app/flags.h"
#include "fpsa/app/generate.h"
#include "fpsa/app/generate_options.h"
#include "fpsa/app/usage_error.h"

namespace fpsa::app {
namespace {

namespace fs = std::filesystem;

// The flags of a whole video beside those of every sampling command.
void add_video_flags(CLI::App& command, GenerateOptions& options) {
  add_number(command, "--fps", options.fps, 0.1, 1000, "Frames per second of the file [16]")->group("Content");
  const std::string sampling = "Sampling", machine = "Machine";
  add_path(command, "--init-latents", options.init_latents,
           "Start from the tensor 'initial' (or 'latents') F32 [1,C,T,H,W] of this safetensors file")
      ->group(sampling);
  add_path(command, "--dump-latents", options.dump_latents,
           "Write 'initial' and 'final' latents, F32, before the latent de-normalisation")
      ->group(sampling);
  add_choice(command, "--vae-dtype", options.vae_dtype, {"f32", "bf16"}, "Compute type of the VAE [f32]")
      ->group(machine);
  add_choice(command, "--vae-tiling", options.vae_tiling, {"auto", "on", "off"},
             "Decode in overlapping spatial tiles (less memory) [auto: only when needed]")
      ->group(machine);
  add_switch(command, "--warmup", options.warmup, "One untimed step first, so that timings start warm")->group(machine);
}

void add_attention_flags(CLI::App& command, GenerateOptions& options) {
  const std::string group = "Attention";
  add_choice(command, "--attention", options.attention, {"auto", "dense", "sta", "fp8", "int8", "fps"},
             "auto: fps with the schedule that the checkpoint carries, else dense [auto]")
      ->group(group);
  add_path(command, "--schedule", options.schedule,
           "TOML schedule for fps, sta, fp8 and int8; it wins over the checkpoint's")
      ->group(group);
  add_switch(command, "--explain", options.explain, "Say per layer and step which kernel and pattern ran, and why")
      ->group(group);
}

void add_output_flags(CLI::App& command, GenerateOptions& options) {
  const std::string group = "Output";
  add_path(command, "--output,-o,--output-path,--save-file", options.output, "H.264 video, .mp4 [out.mp4]")
      ->group(group);
  add_path(command, "--frames-dir", options.frames_dir, "Also write every frame as a PNG into this folder")
      ->group(group);
  add_path(command, "--perf-dump-path", options.perf_dump, "Timings, kernels, machine and parameters as JSON")
      ->group(group);
  add_config_flag(command);
}

// Flags of Wan's own script that have no work to do here, and one that must name a text-to-video task.
void add_foreign_flags(CLI::App& command, GenerateOptions& options) {
  const std::string group = "Accepted for Wan's own command lines";
  const auto ignored = [&](const std::string& names, const std::string& why) {
    command
        .add_option_function<std::string>(
            names, [&options, names, why](const std::string&) { options.notes.push_back(names + ": " + why); }, why)
        ->expected(0, 1)
        ->type_name("")
        ->group(group);
  };
  ignored("--offload-model", "no effect, weights are mapped from the file and given back stage by stage");
  ignored("--t5-cpu", "no effect, the text encoder runs where everything else does");
  command
      .add_option_function<std::string>(
          "--task",
          [](const std::string& text) {
            FPSA_USAGE_CHECK(text.starts_with("t2v"), "--task: expected a text-to-video task (t2v-1.3B, t2v-14B), ",
                             "got '", text, "'; other tasks are not supported");
          },
          "Only text-to-video tasks; the checkpoint itself decides the rest")
      ->type_name("t2v-*")
      ->group(group);
}

void check_combinations(const CLI::App& command, GenerateOptions& options) {
  check_prompts(command, options);
  FPSA_USAGE_CHECK(options.schedule.empty() || options.attention != "dense",
                   "--schedule: expected --attention auto, sta, fp8, int8 or fps beside it, got dense");
  FPSA_USAGE_CHECK(options.init_latents.empty() || command.count("--seed") == 0,
                   "--seed: expected none beside --init-latents, which replaces the noise; drop one of the two");
  if (options.output.empty()) options.output = "out.mp4";
  FPSA_USAGE_CHECK(options.output.extension() == ".mp4" || fs::is_other(options.output),
                   "--output: expected a name that ends in .mp4, got '", options.output.string(), "'");
}

}  // namespace

void add_generate_command(CLI::App& app) {
  auto* command = app.add_subcommand("generate", "A prompt becomes a video");
  // The options must outlive the parse: CLI11 keeps references.
  auto options = std::make_shared<GenerateOptions>();
  add_content_flags(*command, *options);
  add_sampling_flags(*command, *options);
  add_attention_flags(*command, *options);
  add_machine_flags(*command, *options);
  add_video_flags(*command, *options);
  add_output_flags(*command, *options);
  add_foreign_flags(*command, *options);
  command->footer(kPrecedence);
  command->final_callback([command, options] {
    merge_settings(*command, *options);
    check_combinations(*command, *options);
    generate(*options);
  });
}

}  // namespace fpsa::app
