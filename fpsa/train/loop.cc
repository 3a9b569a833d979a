#include "fpsa/train/loop.h"

#include <ATen/core/grad_mode.h>

#include <charconv>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>

#include "fpsa/base/check.h"

namespace fpsa::train {
namespace {

using Clock = std::chrono::steady_clock;

double since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

constexpr int kNonFiniteLimit = 20;

struct Position {
  int64_t step = 0, stage = 0, stage_step = 0, samples = 0;
  double stage_seconds = 0, total_seconds = 0;
};

std::string duration(double seconds) {
  char text[32];
  const int64_t s = static_cast<int64_t>(seconds);
  std::snprintf(text, sizeof text, "%lld:%02lld:%02lld", static_cast<long long>(s / 3600),
                static_cast<long long>(s / 60 % 60), static_cast<long long>(s % 60));
  return text;
}

int64_t integer_from(const std::string& text, const std::string& where, int64_t largest) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  FPSA_CHECK(error == std::errc() && end == text.data() + text.size() && value >= 0 && value <= largest, where,
             ": expected an integer from 0 to ", largest, ", received '", text, "'; the checkpoint is damaged");
  return value;
}

double seconds_from(const std::string& text, const std::string& where) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  FPSA_CHECK(error == std::errc() && end == text.data() + text.size() && std::isfinite(value) && value >= 0, where,
             ": expected a number of seconds, received '", text, "'; the checkpoint is damaged");
  return value;
}

// Means since the last report.
class Window {
 public:
  void add(const Loss& loss, double norm) {
    for (const auto& [name, value] : loss.figures)
      sums_[name] += value;
    sums_["gradient_norm"] += norm;
    samples_ += loss.samples;
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
    metrics_.open(options.out / "metrics.jsonl", std::ios::app);
    FPSA_CHECK(metrics_, "cannot write ", options.out / "metrics.jsonl", "; choose a writable --out");
  }

  LoopResult run() {
    while (position_.stage < static_cast<int64_t>(recipe_.stages.size())) {
      if (!run_stage(recipe_.stages[static_cast<size_t>(position_.stage)])) {
        save();
        return {position_.step, false};
      }
      ++position_.stage;
      position_.stage_step = 0;
      position_.stage_seconds = 0;
      save();
    }
    return {position_.step, true};
  }

 private:
  // The parameters, once they hold the weights to start from: the optimiser's average begins as a copy of them.
  static const nn::TensorMap& started(Objective& objective, const LoopOptions& options) {
    if (!options.weights.empty() && !options.resume)
      copy_weights(objective, options.weights, "the weights to start from", true);
    return objective.parameters();
  }

  // Exports drop the training-only heads ("helper.*"): a new run may start them anew, a resumed one may not.
  static void copy_weights(Objective& objective, const nn::TensorMap& from, const std::string& origin,
                           bool new_helpers) {
    at::NoGradGuard no_grad;
    for (const auto& [name, weight] : objective.parameters()) {
      const auto it = from.find(name);
      if (new_helpers && it == from.end() && name.starts_with("helper.")) continue;
      FPSA_CHECK(it != from.end() && it->second.sizes() == weight.sizes(), origin, ": expected a weight '", name,
                 "' with shape ", weight.sizes(), ", found ",
                 it == from.end() ? std::string("none") : join(it->second.sizes()), "; they belong to another model");
      weight.detach().copy_(it->second);
    }
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
    const Loss loss = objective_.loss(position_.step, position_.stage_step);
    loss.total.backward();
    const double norm = optimizer_.step(learning_rate_);
    non_finite_ = std::isfinite(norm) ? 0 : non_finite_ + 1;
    FPSA_CHECK(non_finite_ < kNonFiniteLimit, "the gradients have been non-finite for ", kNonFiniteLimit,
               " steps up to step ", position_.step, "; lower the learning rate and resume from the last checkpoint");
    if (non_finite_ == 0) window_.add(loss, norm);
    ++position_.step;
    ++position_.stage_step;
    position_.samples += loss.samples;
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
    line["learning_rate"] = learning_rate_;
    line["samples_per_second"] = window_.rate();
    for (const auto& [name, value] : window_.means()) {
      line[name] = value;
      std::snprintf(text, sizeof text, "  %s %.4f", name.c_str(), value);
      out += text;
    }
    write_metrics(line);
    print(out);
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
  }

  nlohmann::json position_json() const {
    return {{"step", position_.step},
            {"stage", position_.stage},
            {"samples", position_.samples},
            {"seconds", position_.total_seconds}};
  }

  void write_metrics(const nlohmann::json& line) {
    metrics_ << line.dump() << '\n' << std::flush;
    FPSA_CHECK(metrics_, "cannot append to ", options_.out / "metrics.jsonl", ": is the disk full?");
  }

  void print(const std::string& line) const {
    if (options_.print) options_.print(line);
  }

  void save() const {
    nn::TensorMap tensors;
    for (const auto& [name, weight] : objective_.parameters())
      tensors.emplace("weights." + name, weight.detach());
    for (const auto& [name, value] : optimizer_.state())
      tensors.emplace("optimizer." + name, value);
    char seconds[2][32];
    std::snprintf(seconds[0], sizeof seconds[0], "%.17g", position_.stage_seconds);
    std::snprintf(seconds[1], sizeof seconds[1], "%.17g", position_.total_seconds);
    nn::save_tensors(options_.out / "checkpoint.safetensors", tensors,
                     {{"format", "pt"},
                      {"kind", recipe_.kind == Kind::kVae ? "vae" : "dit"},
                      {"seed", std::to_string(recipe_.seed)},
                      {"recipe", recipe_.text},
                      {"step", std::to_string(position_.step)},
                      {"stage", std::to_string(position_.stage)},
                      {"stage_step", std::to_string(position_.stage_step)},
                      {"samples", std::to_string(position_.samples)},
                      {"stage_seconds", seconds[0]},
                      {"total_seconds", seconds[1]}});
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
    const auto count = [&](const std::string& key, int64_t largest) {
      return integer_from(meta(key), join(file, ": '", key, "'"), largest);
    };
    position_.step = count("step", int64_t{1} << 48);
    position_.stage = count("stage", static_cast<int64_t>(recipe_.stages.size()));  // that many: the run is finished
    position_.stage_step = count("stage_step", position_.step);
    position_.samples = count("samples", int64_t{1} << 56);
    position_.stage_seconds = seconds_from(meta("stage_seconds"), join(file, ": 'stage_seconds'"));
    position_.total_seconds = seconds_from(meta("total_seconds"), join(file, ": 'total_seconds'"));
    nn::TensorMap state, weights;
    for (const auto& [name, tensor] : loaded.tensors) {
      if (name.starts_with("optimizer.")) state.emplace(name.substr(10), tensor);
      if (name.starts_with("weights.")) weights.emplace(name.substr(8), tensor);
    }
    optimizer_.load_state(state);
    copy_weights(objective_, weights, file.string(), false);
  }

  Objective& objective_;
  const Recipe& recipe_;
  const LoopOptions& options_;
  Optimizer optimizer_;
  Position position_;
  Window window_;
  std::ofstream metrics_;
  double learning_rate_ = 0;
  int non_finite_ = 0;
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
