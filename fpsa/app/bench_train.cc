#include "fpsa/app/bench_train.h"

#include <ATen/Parallel.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <vector>

#include "fpsa/app/bench_sampler.h"
#include "fpsa/app/interrupt.h"
#include "fpsa/app/machine.h"
#include "fpsa/app/outputs.h"
#include "fpsa/app/study_stats.h"
#include "fpsa/app/train_objective.h"
#include "fpsa/app/usage_error.h"
#include "fpsa/base/check.h"
#include "fpsa/io/atomic_file.h"
#include "fpsa/ops/compute_dtype.h"
#include "fpsa/train/latent_pool.h"
#include "fpsa/train/loop.h"

namespace fpsa::app::bench {
namespace {

namespace fs = std::filesystem;

// What a run keeps beside its results, for as long as the bench takes.
class ScratchFolder {
 public:
  ScratchFolder() : path_(fs::temp_directory_path() / join("fpsa-bench-train-", ::getpid())) {
    fs::create_directories(path_);
  }
  ~ScratchFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

struct StepTime {
  double forward = 0, backward = 0, cpu = 0, others = 0;  // seconds; `others` as in OthersWatch
  double total() const { return forward + backward; }
};

// One of the attentions that take turns.
struct Runner {
  std::string name;
  std::unique_ptr<train::Objective> objective;
  std::vector<StepTime> times = {};
  double density = 1;

  void step(int64_t index, int64_t micro_batches, bool counts) {
    const OthersWatch watch;
    StepTime time;
    for (int64_t micro = 0; micro < micro_batches; ++micro) {
      const double begin = watch.seconds();
      train::Loss loss = objective->loss(index, index, micro);
      const double middle = watch.seconds();
      loss.total.backward();
      time.forward += middle - begin;
      time.backward += watch.seconds() - middle;
      if (const auto found = loss.figures.find("density"); found != loss.figures.end()) density = found->second;
    }
    time.cpu = watch.own_seconds();
    time.others = watch.others();
    for (const auto& [name, weight] : objective->parameters())
      weight.mutable_grad() = at::Tensor();
    if (counts) times.push_back(time);
  }

  template <class Part>
  double median(const Part& part) const {
    std::vector<double> values;
    for (const StepTime& time : times)
      values.push_back(part(time));
    return app::median(std::move(values));
  }
  double seconds() const { return median([](const StepTime& t) { return t.total(); }); }
  double cpu() const { return median([](const StepTime& t) { return t.cpu; }); }

  nlohmann::json to_json() const {
    nlohmann::json steps = nlohmann::json::array();
    for (const StepTime& time : times)
      steps.push_back({{"forward_seconds", time.forward},
                       {"backward_seconds", time.backward},
                       {"cpu_seconds", time.cpu},
                       {"others", time.others}});
    return {{"attention", name}, {"density", density}, {"seconds", seconds()}, {"cpu_seconds", cpu()}, {"steps", steps}};
  }
};

train::Recipe recipe_of(const TrainBenchOptions& options) {
  FPSA_USAGE_CHECK(!options.recipe.empty(), "--recipe: expected a TOML file, got nothing");
  train::Recipe recipe = train::load_recipe(options.recipe);
  FPSA_USAGE_CHECK(recipe.kind == train::Kind::kDit, "--recipe: expected one of a transformer, ",
                   options.recipe.string(), " is of a VAE, which has no schedule");
  const auto stages = static_cast<int64_t>(recipe.stages.size());
  FPSA_USAGE_CHECK(options.stage <= stages, "--stage: expected at most ", stages, ", which ", options.recipe.string(),
                   " has, got ", options.stage);
  FPSA_USAGE_CHECK(options.attention == "dense" || recipe.schedule, "--attention: expected dense with ",
                   options.recipe.string(), ", which has no schedule, got ", options.attention);
  if (options.gradient_checkpointing != "recipe") recipe.gradient_checkpointing = options.gradient_checkpointing == "on";
  auto& stage = recipe.stages[static_cast<size_t>(options.stage - 1)];
  stage.density_steps = 0;
  stage.pool_start = stage.pool_clips = train::LatentPool::kChunkClips;
  stage.refresh_every = 0;
  return recipe;
}

void print(const Runner& runner) {
  std::printf("  %-6s %7.3f  %8.2f  %8.2f  %8.2f  %8.2f\n", runner.name.c_str(), runner.density, runner.seconds(),
              runner.median([](const StepTime& t) { return t.forward; }),
              runner.median([](const StepTime& t) { return t.backward; }), runner.cpu());
}

}  // namespace

void run_train_bench(const TrainBenchOptions& options) {
  const train::Recipe recipe = recipe_of(options);
  const train::Stage& stage = recipe.stages[static_cast<size_t>(options.stage - 1)];
  if (!options.json.empty()) check_writable_file("--json", options.json, 1 << 20);
  keep_freed_memory();
  use_threads(options.threads);
  install_interrupt_handlers();
  const ScratchFolder scratch;
  const auto weights = weights_to_start_from(options.weights, recipe.kind);
  std::vector<Runner> runners;
  for (const std::string name : {"dense", "fps"}) {
    if (options.attention != "both" && options.attention != name) continue;
    train::Recipe own = recipe;
    if (name == "dense") own.schedule.reset();
    runners.push_back({name, make_objective(own, {options.model, scratch.path(), options.latents})});
    start_from(*runners.back().objective, weights);
    runners.back().objective->enter(stage, options.stage - 1, 0);
  }
  for (int64_t step = 0; step <= options.steps; ++step)
    for (Runner& runner : runners) {
      throw_if_interrupted();
      runner.step(step, stage.micro_batches, /*counts=*/step > 0);
    }

  const int64_t tokens = train::grid_of(stage).volume();
  std::printf("training step, forward and backward: %ldx%ldx%ld, %ld tokens, %ld x %ld clips, %s, %s\n", stage.frames,
              stage.height, stage.width, tokens, stage.micro_batches, stage.batch, machine_line().c_str(),
              ops::fast_compute_dtype() == at::kBFloat16 ? "bf16" : "f32");
  std::printf("  medians of %ld steps in turns, seconds\n  %-6s %7s  %8s  %8s  %8s  %8s\n", options.steps, "", "density",
              "step", "forward", "backward", "cpu");
  nlohmann::json cases = nlohmann::json::array();
  double others = 0;
  for (const Runner& runner : runners) {
    print(runner);
    cases.push_back(runner.to_json());
    others = std::max(others, runner.median([](const StepTime& t) { return t.others; }));
  }
  nlohmann::json report = {{"machine", describe_machine()}, {"threads", at::get_num_threads()},
                           {"recipe", recipe.text},      {"stage", options.stage},
                           {"tokens", tokens},           {"gradient_checkpointing", recipe.gradient_checkpointing},
                           {"cases", cases},             {"peak_rss_bytes", peak_resident_bytes()}};
  if (runners.size() == 2) {
    report["speed_up"] = runners[0].seconds() / runners[1].seconds();
    report["speed_up_cpu"] = runners[0].cpu() / runners[1].cpu();
    std::printf("  with the schedule %.2fx as fast as dense, %.2fx by processor time\n",
                report["speed_up"].get<double>(), report["speed_up_cpu"].get<double>());
  }
  if (others > SamplePolicy().others_limit)
    std::printf("  other processes took %.0f%% of a processor meanwhile: the ratio by processor time is the better one\n",
                100 * others);
  std::printf("  gradient checkpointing %s, peak memory %s\n", recipe.gradient_checkpointing ? "on" : "off",
              bytes_text(peak_resident_bytes()).c_str());
  std::fflush(stdout);
  if (options.json.empty()) return;
  const WritingFiles writing;
  io::write_file(options.json, report.dump(2) + "\n");
}

}  // namespace fpsa::app::bench
