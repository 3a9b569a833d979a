#include "fpsa/app/bench_train.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <utility>
#include <vector>

#include "fpsa/app/bench_sampler.h"
#include "fpsa/app/bench_train_arm.h"
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
  ScratchFolder() : path_((fs::temp_directory_path() / "fpsa-bench-train-XXXXXX").string()) {
    FPSA_CHECK(::mkdtemp(path_.data()), "bench: expected a folder for temporary files, got ", path_, ": ",
               std::strerror(errno), "; name another one in TMPDIR");
  }
  ~ScratchFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
  fs::path path() const { return path_; }

 private:
  std::string path_;
};

// One of the attentions that take turns, and its steps that count.
struct Arm {
  std::unique_ptr<ArmProcess> process;
  std::vector<StepTime> times = {};

  const std::string& name() const { return process->name(); }
  template <class Part>
  std::vector<double> values(const Part& part) const {
    std::vector<double> result;
    for (const StepTime& time : times)
      result.push_back(part(time));
    return result;
  }
  template <class Part>
  double median(const Part& part) const {
    return app::median(values(part));
  }
  double seconds() const { return median([](const StepTime& t) { return t.total(); }); }
  double cpu() const { return median([](const StepTime& t) { return t.cpu; }); }
  // The mean, not the median: which phases the steps' noise levels fell into is part of what they cost.
  double density() const {
    const auto all = values([](const StepTime& t) { return t.density; });
    return std::accumulate(all.begin(), all.end(), 0.0) / static_cast<double>(all.size());
  }

  nlohmann::json to_json() const {
    nlohmann::json steps = nlohmann::json::array();
    for (const StepTime& time : times)
      steps.push_back({{"forward_seconds", time.forward},
                       {"backward_seconds", time.backward},
                       {"cpu_seconds", time.cpu},
                       {"others", time.others},
                       {"density", time.density}});
    return {{"attention", name()},
            {"density", density()},
            {"seconds", seconds()},
            {"cpu_seconds", cpu()},
            {"peak_rss_bytes", process->peak_resident_bytes()},
            {"steps", steps}};
  }
};

// Forward and backward of every micro-batch of a step; the gradients are dropped.
StepTime timed_step(train::Objective& objective, int64_t index, int64_t micro_batches) {
  const OthersWatch watch;
  StepTime time;
  time.density = 0;
  for (int64_t micro = 0; micro < micro_batches; ++micro) {
    const double begin = watch.seconds();
    train::Loss loss = objective.loss(index, index, micro);
    const double middle = watch.seconds();
    loss.total.backward();
    time.forward += middle - begin;
    time.backward += watch.seconds() - middle;
    const auto found = loss.figures.find("density");  // dense attention reports none
    time.density += (found == loss.figures.end() ? 1.0 : found->second) / static_cast<double>(micro_batches);
  }
  time.cpu = watch.own_seconds();
  time.others = watch.others();
  for (const auto& [name, weight] : objective.parameters())
    weight.mutable_grad() = at::Tensor();
  return time;
}

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
  FPSA_USAGE_CHECK(options.latents.empty() || !recipe.data, "--latents: expected none with ", options.recipe.string(),
                   ", whose [data] has a cache of its own, got ", options.latents.string(),
                   "; leave it out, or name the folder as 'cache' in [data]");
  if (options.gradient_checkpointing != "recipe") recipe.gradient_checkpointing = options.gradient_checkpointing == "on";
  auto& stage = recipe.stages[static_cast<size_t>(options.stage - 1)];
  stage.density_steps = 0;
  stage.pool_start = stage.pool_clips = train::LatentPool::kChunkClips;
  stage.refresh_every = 0;
  return recipe;
}

void print(const Arm& arm) {
  std::printf("  %-6s %7.3f  %8.2f  %8.2f  %8.2f  %8.2f  %s\n", arm.name().c_str(), arm.density(), arm.seconds(),
              arm.median([](const StepTime& t) { return t.forward; }),
              arm.median([](const StepTime& t) { return t.backward; }), arm.cpu(),
              bytes_text(arm.process->peak_resident_bytes()).c_str());
}

// The arms that are asked for, ready to take steps. Clips are encoded in a process before theirs, whose memory so does
// not count.
std::vector<Arm> start_arms(const TrainBenchOptions& options, const train::Recipe& recipe, const fs::path& scratch) {
  const train::Stage stage = recipe.stages[static_cast<size_t>(options.stage - 1)];
  const auto objective_of = [&](const train::Recipe& own) -> std::shared_ptr<train::Objective> {
    keep_freed_memory();
    use_threads(options.threads);
    return make_objective(own, {options.model, scratch, options.latents});
  };
  train::Recipe dense = recipe;
  dense.schedule.reset();
  ArmProcess("clips", [&] {
    objective_of(dense)->enter(stage, options.stage - 1, 0);
    return ArmProcess::Step();
  });
  std::vector<Arm> arms;
  for (const std::string name : {"dense", "fps"}) {
    if (options.attention != "both" && options.attention != name) continue;
    arms.push_back({std::make_unique<ArmProcess>(name, [&]() -> ArmProcess::Step {
      const auto objective = objective_of(name == "dense" ? dense : recipe);
      start_from(*objective, weights_to_start_from(options.weights, recipe.kind));
      objective->enter(stage, options.stage - 1, 0);
      return [objective, stage](int64_t index) { return timed_step(*objective, index, stage.micro_batches); };
    })});
  }
  return arms;
}

}  // namespace

void run_train_bench(const TrainBenchOptions& options) {
  train::Recipe recipe = recipe_of(options);
  // The teacher's forward is dense under either attention; with it neither arm would time a training step itself.
  const double teacher = std::exchange(recipe.distill_weight, 0);
  const train::Stage& stage = recipe.stages[static_cast<size_t>(options.stage - 1)];
  if (!options.json.empty()) check_writable_file("--json", options.json, 1 << 20);
  install_interrupt_handlers();
  const ScratchFolder scratch;
  auto arms = start_arms(options, recipe, scratch.path());
  for (int64_t step = 0; step <= options.steps; ++step)
    for (Arm& arm : arms) {
      const auto time = arm.process->step(step);
      if (step > 0) arm.times.push_back(time);
    }
  use_threads(options.threads);  // not before the arms were made: for what the report says of the machine

  const int64_t tokens = train::grid_of(stage).volume();
  std::printf("training step, forward and backward: %ldx%ldx%ld, %ld tokens, %ld x %ld clips, %s, %s\n", stage.frames,
              stage.height, stage.width, tokens, stage.micro_batches, stage.batch, machine_line().c_str(),
              ops::fast_compute_dtype() == at::kBFloat16 ? "bf16" : "f32");
  if (teacher > 0) std::printf("  without the teacher of distill_weight %g, which is dense in both\n", teacher);
  std::printf("  medians of %ld steps in turns, seconds; density is their mean\n  %-6s %7s  %8s  %8s  %8s  %8s  %s\n",
              options.steps, "", "density", "step", "forward", "backward", "cpu", "peak memory");
  nlohmann::json cases = nlohmann::json::array();
  double others = 0;
  for (const Arm& arm : arms) {
    print(arm);
    cases.push_back(arm.to_json());
    others = std::max(others, arm.median([](const StepTime& t) { return t.others; }));
  }
  nlohmann::json report = {{"machine", describe_machine()},
                           {"threads", at::get_num_threads()},
                           {"recipe", recipe.text},
                           {"stage", options.stage},
                           {"tokens", tokens},
                           {"gradient_checkpointing", recipe.gradient_checkpointing},
                           {"teacher_left_out", teacher > 0},
                           {"cases", cases}};
  if (arms.size() == 2) {
    report["speed_up"] = arms[0].seconds() / arms[1].seconds();
    report["speed_up_cpu"] = arms[0].cpu() / arms[1].cpu();
    std::printf("  with the schedule %.2fx as fast as dense, %.2fx by processor time\n",
                report["speed_up"].get<double>(), report["speed_up_cpu"].get<double>());
  }
  if (others > SamplePolicy().others_limit)
    std::printf("  other processes took %.0f%% of a processor meanwhile: the ratio by processor time is the better one\n",
                100 * others);
  std::printf("  gradient checkpointing %s\n", recipe.gradient_checkpointing ? "on" : "off");
  std::fflush(stdout);
  if (options.json.empty()) return;
  const WritingFiles writing;
  io::write_file(options.json, report.dump(2) + "\n");
}

}  // namespace fpsa::app::bench
