#include "fpsa/train/loop.h"

#include <ATen/core/grad_mode.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <limits>
#include <nlohmann/json.hpp>

#include "fpsa/base/check.h"
#include "fpsa/io/append_file.h"
#include "fpsa/train/position.h"

namespace fpsa::train {
namespace {

using Clock = std::chrono::steady_clock;

double since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

std::string duration(double seconds) {
  char text[32];
  const int64_t s = static_cast<int64_t>(seconds);
  std::snprintf(text, sizeof text, "%lld:%02lld:%02lld", static_cast<long long>(s / 3600),
                static_cast<long long>(s / 60 % 60), static_cast<long long>(s % 60));
  return text;
}

// Means since the last report.
class Window {
 public:
  void add(const Figures& figures, double norm, int64_t samples) {
    for (const auto& [name, value] : figures)
      sums_[name] += value;
    sums_["gradient_norm"] += norm;
    samples_ += samples;
    ++count_;
  }
  int64_t count() const { return count_; }
  double rate() const { return static_cast<double>(samples_) / since(start_); }
  Figures means() const {
    Figures out;
    for (const auto& [name, value] : sums_)
      out[name] = value / static_cast<double>(count_);
    return out;
  }
  double seconds() const { return since(start_); }
  void clear() { *this = Window(); }

 private:
  Figures sums_;
  int64_t samples_ = 0, count_ = 0;
  Clock::time_point start_ = Clock::now();
};

// Exports drop the training-only heads ("helper.*"): a new run may start them anew, a resumed one may not.
void copy_weights(const nn::TensorMap& into, const nn::TensorMap& from, const std::string& origin, bool new_helpers) {
  at::NoGradGuard no_grad;
  for (const auto& [name, weight] : into) {
    const auto it = from.find(name);
    if (new_helpers && it == from.end() && name.starts_with("helper.")) continue;
    FPSA_CHECK(it != from.end() && it->second.sizes() == weight.sizes(), origin, ": expected a weight '", name,
               "' with shape ", weight.sizes(), ", found ",
               it == from.end() ? std::string("none") : join(it->second.sizes()), "; they belong to another model");
    weight.detach().copy_(it->second);
  }
}

class Loop {
 public:
  Loop(Objective& objective, const Recipe& recipe, const LoopOptions& options)
      : objective_(objective),
        recipe_(recipe),
        options_(options),
        optimizer_(
            started(objective, options),
            [&](const std::string& name, const at::Tensor& weight) {
              return recipe.muon && objective.is_matrix(name, weight);
            },
            recipe.optimizer) {
    std::filesystem::create_directories(options.out / "previews");
    if (options.resume) restore();
    metrics_ = io::AppendFile(options.out / "metrics.jsonl");
    nlohmann::json line = position_json();
    line["run"] = options.resume ? "resumed" : "begun";
    write_metrics(line);
  }

  LoopResult run() {
    while (position_.stage < static_cast<int64_t>(recipe_.stages.size())) {
      if (!run_stage(recipe_.stages[static_cast<size_t>(position_.stage)])) {
        save();
        tell(RunState::kStopped);
        return {position_.step, false};
      }
      ++position_.stage;
      position_.stage_step = 0;
      position_.stage_seconds = 0;
      save();
    }
    tell(RunState::kFinished);
    return {position_.step, true};
  }

 private:
  // The parameters, once they hold the weights to start from: the optimiser's average begins as a copy of them.
  static const nn::TensorMap& started(Objective& objective, const LoopOptions& options) {
    if (!options.resume) start_from(objective, options.weights);
    return objective.parameters();
  }

  bool stopping() const {
    return (options_.stop && options_.stop()) || (options_.stop_after > 0 && position_.step >= options_.stop_after);
  }

  double progress(const Stage& stage) const {
    return stage.steps > 0 ? static_cast<double>(position_.stage_step) / static_cast<double>(stage.steps)
                           : position_.stage_seconds / (60.0 * stage.minutes);
  }

  // False when the run is to stop before the stage's end.
  bool run_stage(const Stage& stage) {
    print(join("stage ", position_.stage + 1, " of ", recipe_.stages.size(), ", step ", position_.step));
    objective_.enter(stage, position_.stage, position_.stage_step);
    window_.clear();
    auto checkpointed = Clock::now(), previewed = Clock::now();
    while (progress(stage) < 1.0) {
      if (stopping()) return false;
      const auto start = Clock::now();
      train_step(stage);
      const double seconds = since(start);
      position_.stage_seconds += seconds;
      position_.total_seconds += seconds;
      if (window_.seconds() >= recipe_.log_seconds) report(stage);
      if (since(checkpointed) >= recipe_.checkpoint_seconds) {
        save();
        checkpointed = Clock::now();
      }
      if (recipe_.preview_minutes > 0 && since(previewed) >= 60 * recipe_.preview_minutes) {
        evaluate(false);
        previewed = Clock::now();
        window_.clear();
      }
    }
    if (window_.count() > 0) report(stage);
    save();
    evaluate(true);
    return true;
  }

  void train_step(const Stage& stage) {
    const double at = progress(stage);
    const double warmup =
        std::min(1.0, static_cast<double>(position_.step + 1) / std::max<double>(1.0, recipe_.warmup_steps));
    learning_rate_ = warmup * ((1 - at) * stage.learning_rate[0] + at * stage.learning_rate[1]);
    Figures figures;
    int64_t samples = 0;
    const bool finite_loss = accumulate_gradients(stage.micro_batches, figures, samples);
    double norm = std::numeric_limits<double>::quiet_NaN();
    if (finite_loss)
      norm = optimizer_.step(learning_rate_);
    else
      optimizer_.clear_gradients();
    if (std::isfinite(norm)) {
      position_.skipped_in_row = 0;
      window_.add(figures, norm, samples);
    } else {
      skip(finite_loss ? "gradients" : "loss");
    }
    ++position_.step;
    ++position_.stage_step;
    position_.samples += samples;
  }

  // Adds the mean gradient of the step's micro-batches and their mean figures; false, without the rest of them, as
  // soon as a loss is not finite.
  bool accumulate_gradients(int64_t micro_batches, Figures& figures, int64_t& samples) {
    for (int64_t micro = 0; micro < micro_batches; ++micro) {
      const Loss loss = objective_.loss(position_.step, position_.stage_step, micro);
      samples += loss.samples;
      if (!std::isfinite(loss.total.item<double>())) return false;
      (loss.total / micro_batches).backward();
      for (const auto& [name, value] : loss.figures)
        figures[name] += value / static_cast<double>(micro_batches);
    }
    return true;
  }

  void skip(const char* what) {
    ++position_.skipped;
    ++position_.skipped_in_row;
    print(join("step ", position_.step, ": non-finite ", what, ", skipped; ", position_.skipped_in_row, " in a row, ",
               position_.skipped, " in all"));
    FPSA_CHECK(position_.skipped_in_row < recipe_.non_finite_limit, "the ", what, " was non-finite in ",
               position_.skipped_in_row, " steps in a row, up to step ", position_.step,
               "; lower the learning rate and start again, or resume from the last checkpoint");
  }

  void report(const Stage& stage) {
    const double at = progress(stage);
    const double left = at > 0 ? position_.stage_seconds * (1 - at) / at : 0;
    nlohmann::json line = position_json();
    char text[160];
    std::snprintf(text, sizeof text, "stage %lld  step %lld  %5.1f%%  %.2f samples/s  eta %s  lr %.2e",
                  static_cast<long long>(position_.stage + 1), static_cast<long long>(position_.step), 100 * at,
                  window_.rate(), duration(left).c_str(), learning_rate_);
    std::string out = text;
    line["progress"] = at;
    line["eta_seconds"] = left;
    line["learning_rate"] = learning_rate_;
    line["samples_per_second"] = window_.rate();
    for (const auto& [name, value] : window_.means()) {
      line[name] = value;
      std::snprintf(text, sizeof text, "  %s %.4f", name.c_str(), value);
      out += text;
    }
    write_metrics(line);
    print(out);
    tell(RunState::kRunning);
    window_.clear();
  }

  void evaluate(bool final) {
    optimizer_.swap_averaged();
    char tag[32];
    std::snprintf(tag, sizeof tag, "step%07lld", static_cast<long long>(position_.step));
    Figures figures;
    {
      at::NoGradGuard no_grad;
      figures = objective_.evaluate(options_.out / "previews", tag, final);
    }
    optimizer_.swap_averaged();
    nlohmann::json line = position_json();
    std::string out = join("evaluation at step ", position_.step, ":");
    for (const auto& [name, value] : figures) {
      line[name] = value;
      char text[96];
      std::snprintf(text, sizeof text, "  %s %.4f", name.c_str(), value);
      out += text;
    }
    write_metrics(line);
    print(out);
    tell(RunState::kRunning);
  }

  void tell(RunState state) const {
    if (options_.observe) options_.observe(state);
  }

  nlohmann::json position_json() const {
    return {{"step", position_.step},
            {"stage", position_.stage},
            {"samples", position_.samples},
            {"skipped", position_.skipped},
            {"seconds", position_.total_seconds}};
  }

  void write_metrics(const nlohmann::json& line) { metrics_.write_line(line.dump()); }

  void print(const std::string& line) const {
    if (options_.print) options_.print(line);
  }

  void save() const {
    nn::TensorMap tensors;
    for (const auto& [name, weight] : objective_.parameters())
      tensors.emplace("weights." + name, weight.detach());
    for (const auto& [name, value] : optimizer_.state())
      tensors.emplace("optimizer." + name, value);
    for (const auto& [name, value] : objective_.frozen())
      tensors.emplace("frozen." + name, value.detach());
    std::map<std::string, std::string> metadata = {{"format", "pt"},
                                                   {"kind", recipe_.kind == Kind::kVae ? "vae" : "dit"},
                                                   {"seed", std::to_string(recipe_.seed)},
                                                   {"recipe", recipe_.text}};
    metadata.merge(to_metadata(position_));
    if (recipe_.schedule) metadata.emplace(schedule::kMetadataKey, schedule::to_toml(*recipe_.schedule));
    nn::save_tensors(options_.out / "checkpoint.safetensors", tensors, metadata);
  }

  void restore() {
    const auto file = options_.out / "checkpoint.safetensors";
    FPSA_CHECK(std::filesystem::exists(file), "nothing to resume: ", file, " does not exist; start without --resume");
    const auto loaded = nn::load_tensors(file);
    const auto meta = [&](const std::string& key) {
      const auto it = loaded.metadata.find(key);
      FPSA_CHECK(it != loaded.metadata.end(), file, " is not a training checkpoint: it has no '", key,
                 "' in its metadata");
      return it->second;
    };
    const std::string kind = recipe_.kind == Kind::kVae ? "vae" : "dit";
    FPSA_CHECK(meta("kind") == kind, file, " was written by a run of kind '", meta("kind"), "', the recipe is '", kind,
               "'");
    FPSA_CHECK(meta("seed") == std::to_string(recipe_.seed), file, " was written with seed ", meta("seed"),
               ", the recipe says ", recipe_.seed);
    // Checkpoints from before the recipe was kept say nothing about it.
    const auto begun = loaded.metadata.find("recipe");
    FPSA_CHECK(
        begun == loaded.metadata.end() || begun->second == recipe_.text, file,
        " was written by a run of another recipe, which must not change on the way; to start a new run from these "
        "weights: --weights ",
        file.string(), " with an empty --out and without --resume");
    const auto carried = loaded.metadata.find(std::string(schedule::kMetadataKey));
    FPSA_CHECK((carried == loaded.metadata.end() ? "" : carried->second) ==
                   (recipe_.schedule ? schedule::to_toml(*recipe_.schedule) : ""),
               file,
               " was written by a run of another schedule, which must not change on the way; give the recipe the "
               "schedule that it began with, or start a new run from these weights with --weights");
    position_ = position_from(loaded.metadata, static_cast<int64_t>(recipe_.stages.size()), file.string());
    nn::TensorMap state, weights, frozen;
    for (const auto& [name, tensor] : loaded.tensors) {
      if (name.starts_with("optimizer.")) state.emplace(name.substr(10), tensor);
      if (name.starts_with("weights.")) weights.emplace(name.substr(8), tensor);
      if (name.starts_with("frozen.")) frozen.emplace(name.substr(7), tensor);
    }
    optimizer_.load_state(state);
    copy_weights(objective_.parameters(), weights, file.string(), false);
    copy_weights(objective_.frozen(), frozen, file.string(), false);
  }

  Objective& objective_;
  const Recipe& recipe_;
  const LoopOptions& options_;
  Optimizer optimizer_;
  Position position_;
  Window window_;
  io::AppendFile metrics_;
  double learning_rate_ = 0;
};

}  // namespace

uint64_t mix(uint64_t a, uint64_t b, uint64_t c, uint64_t d) {
  uint64_t state = 0;
  for (const uint64_t part : {a, b, c, d}) {  // splitmix64 over the parts
    state += part + 0x9e3779b97f4a7c15ULL;
    state = (state ^ (state >> 30)) * 0xbf58476d1ce4e5b9ULL;
    state = (state ^ (state >> 27)) * 0x94d049bb133111ebULL;
    state ^= state >> 31;
  }
  return state;
}

void start_from(Objective& objective, const nn::TensorMap& weights) {
  if (!weights.empty()) copy_weights(objective.parameters(), weights, "the weights to start from", true);
  copy_weights(objective.frozen(), objective.parameters(), "the model in training", false);
}

LoopResult run_loop(Objective& objective, const Recipe& recipe, const LoopOptions& options) {
  Loop loop(objective, recipe, options);
  return loop.run();
}

nn::TensorMap checkpoint_weights(const std::filesystem::path& file, bool averaged) {
  const std::string prefix = averaged ? "optimizer.ema." : "weights.";
  nn::TensorMap out;
  for (const auto& [name, tensor] : nn::load_tensors(file).tensors)
    if (name.starts_with(prefix)) out.emplace(name.substr(prefix.size()), tensor);
  FPSA_CHECK(!out.empty(), file, " is not a training checkpoint: it holds no '", prefix, "*' tensors");
  return out;
}

}  // namespace fpsa::train
