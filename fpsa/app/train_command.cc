#include "fpsa/app/train_command.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <filesystem>
#include <iomanip>
#include <iostream>
#include <memory>
#include <optional>

#include "fpsa/app/attention_choice.h"
#include "fpsa/app/failure.h"
#include "fpsa/app/flags.h"
#include "fpsa/app/interrupt.h"
#include "fpsa/app/machine.h"
#include "fpsa/app/train_finetune.h"
#include "fpsa/app/train_objective.h"
#include "fpsa/app/train_page.h"
#include "fpsa/app/usage_error.h"
#include "fpsa/nn/checkpoint.h"
#include "fpsa/ops/compute_dtype.h"
#include "fpsa/train/dit_objective.h"
#include "fpsa/train/export.h"
#include "fpsa/train/loop.h"
#include "fpsa/train/vae_objective.h"

namespace fpsa::app {
namespace {

namespace fs = std::filesystem;

struct TrainOptions {
  std::string stage;
  fs::path recipe, out, model = "models/tiny", latents, weights;
  bool resume = false;
  int64_t threads = 0, stop_after = 0;
};

struct EvalOptions {
  fs::path checkpoint, model = "models/tiny", sheet, schedule;
  std::string attention = "auto";
  int64_t prompts = 200, frames = 33, height = 256, width = 256, steps = 12, threads = 0;
  std::optional<double> shift;
  double guidance = 3.0;
  models::wan::RopeStretch rope_scale;
  uint64_t seed = 1;
};

struct ExportOptions {
  fs::path checkpoint, model, lora, base = "models/tiny";
  int64_t clips = 96, threads = 0;
  uint64_t seed = 1;
};

bool interrupted() {
  try {
    throw_if_interrupted();
    return false;
  } catch (const Interrupted&) {
    return true;
  }
}

// run_loop; what ends it before its time is on the page too.
train::LoopResult run_with_page(train::Objective& objective, const train::Recipe& recipe,
                                const train::LoopOptions& loop, TrainPageWriter& page) {
  try {
    return run_loop(objective, recipe, loop);
  } catch (const std::exception& error) {
    try {
      page.write(PageState::kFailed, message_of(error));
    } catch (const std::exception&) {  // the disk may be full; the first error is the one to report
    }
    throw;
  }
}

void run_train(const TrainOptions& options) {
  FPSA_USAGE_CHECK(!options.recipe.empty(),
                   "--recipe: expected a TOML file, got nothing; for example models/tiny/train/vae.toml");
  FPSA_USAGE_CHECK(!options.out.empty(), "--out: expected a folder for checkpoints and metrics, got nothing");
  keep_freed_memory();
  use_threads(options.threads);
  install_interrupt_handlers();
  const train::Recipe recipe = train::load_recipe(options.recipe);
  const std::string kind = recipe.kind == train::Kind::kVae ? "vae" : "dit";
  FPSA_USAGE_CHECK(options.stage.empty() || options.stage == kind, "--stage: expected ", kind, ", which ",
                   options.recipe.string(), " is for, got ", options.stage);
  FPSA_USAGE_CHECK(options.resume || !fs::exists(options.out / "checkpoint.safetensors"),
                   "--out: ", options.out.string(),
                   " holds a checkpoint; add --resume to continue it, or name an empty folder");

  const auto objective = make_objective(recipe, {options.model, options.out, options.latents});
  int64_t parameters = 0;
  for (const auto& [name, tensor] : objective->parameters())
    parameters += tensor.numel();
  std::cout << kind << ": " << parameters << " parameters, " << at::get_num_threads() << " threads, computing in "
            << (ops::fast_compute_dtype() == at::kBFloat16 ? "bf16" : "f32 (this processor is slow in bf16)") << std::endl;

  train::LoopOptions loop;
  loop.out = options.out;
  loop.resume = options.resume;
  loop.weights = weights_to_start_from(options.weights, recipe.kind);
  loop.stop_after = options.stop_after;
  // The checkpoint that follows a signal is completed even when a second one arrives.
  std::optional<WritingFiles> writing;
  loop.stop = [&writing] {
    if (!interrupted()) return false;
    writing.emplace();
    return true;
  };
  loop.print = [](const std::string& line) { std::cout << line << std::endl; };
  TrainPageWriter page({.out = options.out,
                        .recipe_name = options.recipe.string(),
                        .machine = machine_line(),
                        .recipe = &recipe,
                        .parameters = parameters});
  loop.observe = [&page](train::RunState state) {
    page.write(state == train::RunState::kRunning   ? PageState::kRunning
               : state == train::RunState::kStopped ? PageState::kStopped
                                                    : PageState::kFinished);
  };
  const auto result = run_with_page(*objective, recipe, loop, page);
  std::cout << (result.finished ? "finished at step " : "stopped with a checkpoint at step ") << result.steps
            << std::endl;
  throw_if_interrupted();  // the exit code of an interrupted run is 128 + signal, though its checkpoint is complete
}

void check_eval(const EvalOptions& options) {
  FPSA_USAGE_CHECK(options.schedule.empty() || options.attention != "dense",
                   "--schedule: expected --attention auto, sta, fp8, int8 or fps beside it, got dense");
  FPSA_USAGE_CHECK(options.frames % 4 == 1, "--num-frames: expected 4n+1, got ", options.frames,
                   "; nearest: ", options.frames / 4 * 4 + 1);
  for (const auto& [flag, value] : {std::pair("--height", options.height), std::pair("--width", options.width)})
    FPSA_USAGE_CHECK(value % 16 == 0, flag, ": expected a multiple of 16, got ", value, "; nearest: ", value / 16 * 16,
                     " or ", value / 16 * 16 + 16);
}

// The shift that exported folders have: that of the schedule they were trained with, else 5.
double own_shift(const std::string& carried) {
  return carried.empty() ? 5.0 : schedule::parse_toml(carried, "the checkpoint's fpsa.schedule").shift;
}

double mean_density(const std::vector<accel::Explain>& report) {
  double sum = 0;
  for (const auto& entry : report)
    sum += entry.density;
  return sum / static_cast<double>(report.size());
}

// Of the model folder's fpsa.json only rope_scale, where the command line has none: eval has its own defaults for the
// rest.
void take_rope_scale(CLI::App& eval, const fs::path& model) {
  const auto own = model / "fpsa.json";
  if (!fs::is_regular_file(own)) return;
  const auto settings = read_settings(own);
  auto scale = nlohmann::json::object();
  for (const auto& [key, value] : settings.items())
    if (key == "rope_scale" || key == "rope-scale") scale[key] = value;
  apply_settings(eval, settings.is_object() ? scale : settings, own.string(), {"rope-scale"});
}

void run_eval(const EvalOptions& options) {
  check_eval(options);
  keep_freed_memory();
  use_threads(options.threads);
  const auto codec = train::VaeCodec::load(options.model / "vae");
  const auto tokenizer = models::wan::Tokenizer::load(options.model / "tokenizer");
  const bool with_helpers = !options.checkpoint.empty();
  nn::TensorMap weights = with_helpers ? train::checkpoint_weights(options.checkpoint)
                                       : train::folder_weights(options.model, train::Kind::kDit);
  nn::CheckpointSource source(std::move(weights), ops::fast_compute_dtype(), options.checkpoint.string());
  train::DitModel model(source, tokenizer.vocab_size(), with_helpers);
  source.finish();
  const auto& config = model.dit.config();
  GenerateOptions request;
  request.attention = options.attention;
  request.schedule = options.schedule;
  const auto carried = train::carried_schedule(with_helpers ? options.checkpoint : options.model / "transformer");
  const auto attention = choose_attention(
      request, carried.empty() ? std::vector<CarriedSchedule>() : std::vector{CarriedSchedule{carried}},
      {(options.frames - 1) / 4 + 1, options.height / 16, options.width / 16}, config.num_layers,
      config.num_attention_heads);
  model.dit.set_e4m3_feed_forward(attention.e4m3_feed_forward);
  train::SampleOptions sampling;
  sampling.latent_size = {(options.frames - 1) / 4 + 1, options.height / 8, options.width / 8};
  sampling.steps = options.steps;
  sampling.shift = options.shift.value_or(own_shift(carried));
  sampling.guidance = options.guidance;
  sampling.stretch = options.rope_scale;
  const auto test = train::test_prompts(model, codec, tokenizer, *attention.method, options.prompts,
                                        options.sheet.empty() ? 0 : 12, options.seed, sampling);
  if (!options.sheet.empty()) train::write_contact_sheet(options.sheet, test.clips, /*columns=*/9, /*side=*/128);
  std::cout << "attention: " << attention.name << " (" << attention.reason << "), density " << std::fixed
            << std::setprecision(3) << mean_density(attention.method->report()) << "\n"
            << test.accuracy.table();
}

void run_export(const ExportOptions& request) {
  keep_freed_memory();
  use_threads(request.threads);
  FPSA_USAGE_CHECK(!request.checkpoint.empty(), "--checkpoint: expected a training checkpoint, got nothing");
  if (is_finetune_checkpoint(request.checkpoint)) {
    export_finetune({request.checkpoint, request.base, request.model, request.lora});
    return;
  }
  FPSA_USAGE_CHECK(request.lora.empty(), "--lora: expected a checkpoint of LoRA training, ",
                   request.checkpoint.string(), " is none");
  ExportOptions options = request;
  if (options.model.empty()) options.model = "models/tiny";
  auto weights = train::checkpoint_weights(options.checkpoint);
  if (weights.contains("encoder.conv_in.weight")) {
    auto config = train::tiny_vae_config();
    nn::CheckpointSource source(weights, at::kFloat, options.checkpoint.string());
    const models::wan::WanVae vae(config, nn::Scope(source));
    source.finish();
    const auto statistics = train::measure_latents(vae, options.seed, options.clips);
    config.latents_mean = statistics.mean;
    config.latents_std = statistics.deviation;
    train::export_vae(options.model, config, weights);
  } else {
    const std::string carried = train::carried_schedule(options.checkpoint);
    std::optional<schedule::Schedule> schedule;
    if (!carried.empty()) schedule = schedule::parse_toml(carried, options.checkpoint.string() + ": fpsa.schedule");
    train::export_pipeline(options.model, weights,
                           models::wan::Tokenizer::load(options.model / "tokenizer").vocab_size(), schedule);
  }
  std::cout << "wrote " << options.model.string() << std::endl;
}

}  // namespace

void add_train_command(CLI::App& app) {
  auto* train = app.add_subcommand("train", "Train the embedded model, or fine-tune a given one");
  auto options = std::make_shared<TrainOptions>();
  add_text(*train, "--stage", options->stage, "vae or dit; must agree with the recipe");
  add_path(*train, "--recipe", options->recipe, "TOML file: stages, sizes, learning rates");
  add_path(*train, "--out", options->out, "folder for checkpoints, metrics.jsonl and previews");
  add_path(*train, "--model", options->model,
           "model whose vae/ and tokenizer/ the dit stage uses, or that is fine-tuned");
  add_path(*train, "--latents", options->latents, "folder that keeps encoded clips (default: OUT/latents)");
  add_path(*train, "--weights", options->weights,
           "start from the averaged weights of this checkpoint, or from this model folder");
  add_switch(*train, "--resume", options->resume, "continue from OUT/checkpoint.safetensors");
  add_integer(*train, "--threads", options->threads, 0, 1024, "threads (0: all)");
  add_integer(*train, "--stop-after", options->stop_after, 0, int64_t{1} << 40,
              "stop with a checkpoint at this step (0: never)");
  train->callback([train, options] {
    if (train->get_subcommands().empty()) run_train(*options);
  });

  add_prepare_command(*train);

  auto* eval = train->add_subcommand("eval", "Judge generated clips of held-out prompts");
  auto judged = std::make_shared<EvalOptions>();
  add_path(*eval, "--checkpoint", judged->checkpoint,
           "training checkpoint, its positions unscaled; without it the model folder's own weights and rope_scale");
  add_path(*eval, "--model", judged->model, "model folder");
  add_path(*eval, "--sheet", judged->sheet, "also write a contact sheet PNG");
  add_choice(*eval, "--attention", judged->attention, {"auto", "dense", "sta", "fp8", "int8", "fps"},
             "auto: fps with the schedule that the weights carry, else dense");
  add_path(*eval, "--schedule", judged->schedule, "TOML schedule; it wins over the one that the weights carry");
  add_integer(*eval, "--eval-prompts", judged->prompts, 1, 100000, "held-out prompts");
  add_integer(*eval, "--num-frames", judged->frames, 1, 1025, "frames, 4n+1");
  add_integer(*eval, "--height", judged->height, 16, 4096, "pixels, a multiple of 16");
  add_integer(*eval, "--width", judged->width, 16, 4096, "pixels, a multiple of 16");
  add_integer(*eval, "--num-inference-steps", judged->steps, 1, 1000, "Euler steps");
  add_number(*eval, "--flow-shift", judged->shift, 0.01, 100.0,
             "shift of the noise levels [what the model was trained for]");
  add_number(*eval, "--guidance-scale", judged->guidance, 0.0, 100.0, "classifier-free guidance");
  add_rope_scale(*eval, "--rope-scale", judged->rope_scale);
  add_seed(*eval, "--seed", judged->seed, "prompts and noise");
  add_integer(*eval, "--threads", judged->threads, 0, 1024, "threads (0: all)");
  eval->callback([eval, judged] {
    if (judged->checkpoint.empty()) take_rope_scale(*eval, judged->model);  // positions are of the weights
    run_eval(*judged);
  });

  auto* exporting =
      train->add_subcommand("export", "Write a checkpoint's averaged weights as a model folder or a LoRA");
  auto exported = std::make_shared<ExportOptions>();
  add_path(*exporting, "--checkpoint", exported->checkpoint, "training checkpoint");
  add_path(*exporting, "--model", exported->model,
           "model folder to write; after fine-tuning a new one [models/tiny where the tiny model was trained]");
  add_path(*exporting, "--lora", exported->lora, "LoRA file to write, of a checkpoint that holds adapters");
  add_path(*exporting, "--base", exported->base, "model folder that was fine-tuned: the rest of the new one");
  add_integer(*exporting, "--clips", exported->clips, 1, 100000, "clips for the latent statistics of a vae");
  add_seed(*exporting, "--seed", exported->seed, "which clips");
  add_integer(*exporting, "--threads", exported->threads, 0, 1024, "threads (0: all)");
  exporting->callback([exported] { run_export(*exported); });
}

}  // namespace fpsa::app
