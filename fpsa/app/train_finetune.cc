#include "fpsa/app/train_finetune.h"

#include <unistd.h>

#include <chrono>
#include <iostream>
#include <optional>

#include "fpsa/app/flags.h"
#include "fpsa/app/interrupt.h"
#include "fpsa/app/machine.h"
#include "fpsa/app/model_session.h"
#include "fpsa/app/usage_error.h"
#include "fpsa/io/append_file.h"
#include "fpsa/train/export.h"
#include "fpsa/train/finetune_objective.h"
#include "fpsa/train/loop.h"
#include "fpsa/train/lora.h"

namespace fpsa::app {
namespace {

namespace fs = std::filesystem;

// The first line at once, then one in ten seconds.
class EncodingLines {
 public:
  void operator()(int64_t done, int64_t total, const std::string& file) {
    throw_if_interrupted();
    const auto now = std::chrono::steady_clock::now();
    if (said_ && now - last_ < std::chrono::seconds(10)) return;
    said_ = true;
    last_ = now;
    std::cout << "encoding " << done + 1 << " of " << total << ": " << file << std::endl;
  }

 private:
  bool said_ = false;
  std::chrono::steady_clock::time_point last_;
};

train::DataHooks console_hooks() {
  return {[](const std::string& line) { std::cout << line << std::endl; }, encoding_lines()};
}

void append_metrics(const fs::path& out, const train::DataReport& report) {
  fs::create_directories(out);
  // Names of files on disk need not be UTF-8, which JSON demands.
  io::AppendFile(out / "metrics.jsonl")
      .write_line(report.to_json().dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
}

// A folder that is made under another name: neither a fault nor a kill leaves half a model where a whole one is
// expected.
class NewFolder {
 public:
  explicit NewFolder(const fs::path& target) : target_((target / "").lexically_normal().parent_path()) {
    FPSA_USAGE_CHECK(!fs::exists(target_), "--model: expected a folder that does not exist yet, '", target.string(),
                     "' does");
    making_ = target_.parent_path() / join('.', target_.filename().string(), '.', ::getpid(), ".partial");
    fs::create_directories(making_);
  }
  ~NewFolder() {
    std::error_code ignored;
    if (!done_) fs::remove_all(making_, ignored);
  }
  NewFolder(const NewFolder&) = delete;
  NewFolder& operator=(const NewFolder&) = delete;

  const fs::path& path() const { return making_; }
  void finish() {
    fs::rename(making_, target_);
    done_ = true;
  }

 private:
  fs::path target_, making_;
  bool done_ = false;
};

void copy_base(const fs::path& base, const fs::path& target) {
  FPSA_CHECK(fs::exists(base / "model_index.json"), "--base: expected the diffusers folder that was fine-tuned, '",
             base.string(), "' has no model_index.json");
  for (const auto& item : fs::directory_iterator(base))
    if (item.path().filename() != "transformer" && item.path().filename() != "train")
      fs::copy(item.path(), target / item.path().filename(), fs::copy_options::recursive);
}

struct PrepareOptions {
  fs::path recipe, model = "models/tiny", out;
  int64_t threads = 0;
};

void run_prepare(const PrepareOptions& options) {
  FPSA_USAGE_CHECK(!options.recipe.empty(), "--recipe: expected a TOML file with a [data] table, got nothing");
  use_threads(options.threads);
  install_interrupt_handlers();
  const train::Recipe recipe = train::load_recipe(options.recipe);
  FPSA_USAGE_CHECK(recipe.data, "--recipe: expected a recipe with a [data] table, ", options.recipe.string(),
                   " has none; procedural clips are made while training");
  train::DataConfig data = *recipe.data;
  FPSA_USAGE_CHECK(!data.cache.empty() || !options.out.empty(),
                   "--out: expected the folder of the training run, whose cache is filled, or 'cache' in [data]");
  if (data.cache.empty()) data.cache = options.out / "cache";
  const train::ClipCache cache(data, train::buckets_of(recipe), models::wan::find_model(options.model),
                               console_hooks());
  if (!options.out.empty()) append_metrics(options.out, cache.report());
  std::cout << cache.report().text() << std::endl;
}

}  // namespace

train::EncodingProgress encoding_lines() {
  return EncodingLines();
}

std::unique_ptr<train::Objective> make_finetune(const train::Recipe& recipe, const fs::path& model, const fs::path& out,
                                                const fs::path& latents) {
  auto objective = std::make_unique<train::FinetuneObjective>(
      recipe, train::FinetunePaths{model, out / "cache", latents, scheduler_of(models::wan::find_model(model)).shift},
      console_hooks());
  if (const train::DataReport* report = objective->report()) {
    append_metrics(out, *report);
    std::cout << report->text() << std::endl;
  }
  return objective;
}

bool is_finetune_checkpoint(const fs::path& checkpoint) {
  bool transformer = false, text = false;
  for (const auto& [name, tensor] : train::checkpoint_weights(checkpoint)) {
    transformer |= name.starts_with("transformer.");
    text |= name.starts_with("text_encoder.");
  }
  return transformer && !text;  // the tiny model's text encoder is trained with it; fine-tuning leaves it alone
}

void export_finetune(const FinetuneExport& request) {
  const std::string recipe = nn::load_tensors(request.checkpoint).metadata["recipe"];
  const nn::TensorMap weights = train::checkpoint_weights(request.checkpoint);
  const std::string carried = train::carried_schedule(request.checkpoint);
  std::optional<schedule::Schedule> schedule;
  if (!carried.empty()) schedule = schedule::parse_toml(carried, request.checkpoint.string() + ": fpsa.schedule");
  if (const auto lora = train::lora_of_recipe(recipe, request.checkpoint.string())) {
    FPSA_USAGE_CHECK(!request.lora.empty(),
                     "--lora: expected the file to write, such as my.safetensors, because the checkpoint holds LoRA "
                     "adapters, got nothing");
    train::write_lora(request.lora, weights, *lora, schedule);
    std::cout << "wrote " << request.lora.string() << (schedule ? ", with the schedule that it was trained with" : "")
              << std::endl;
    return;
  }
  FPSA_USAGE_CHECK(request.lora.empty(), "--lora: expected none, because the checkpoint holds a whole transformer");
  FPSA_USAGE_CHECK(!request.model.empty(), "--model: expected the folder to write, got nothing");
  NewFolder folder(request.model);
  copy_base(request.base, folder.path());
  train::export_transformer(request.base, folder.path(), weights, schedule);
  folder.finish();
  std::cout << "wrote " << request.model.string() << std::endl;
}

void add_prepare_command(CLI::App& train) {
  auto* command = train.add_subcommand("prepare", "Encode a recipe's videos and captions into its cache, and stop");
  auto options = std::make_shared<PrepareOptions>();
  add_path(*command, "--recipe", options->recipe, "TOML file with a [data] table");
  add_path(*command, "--model", options->model, "model whose VAE and text encoder encode");
  add_path(*command, "--out", options->out, "folder of the training run: its cache and metrics.jsonl");
  add_integer(*command, "--threads", options->threads, 0, 1024, "threads (0: all)");
  command->callback([options] { run_prepare(*options); });
}

}  // namespace fpsa::app
