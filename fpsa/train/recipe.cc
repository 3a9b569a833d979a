#include "fpsa/train/recipe.h"

#include <toml++/toml.h>
#include <fstream>
#include <set>
#include <sstream>

#include "fpsa/base/check.h"
#include "fpsa/train/phases.h"

namespace fpsa::train {
namespace {

// Reads the keys of one table and remembers them, so that finish() can name the ones nobody asked for.
class Table {
 public:
  Table(const toml::table& table, std::string where) : table_(table), where_(std::move(where)) {}

  template <class T>
  void read(const char* key, T& into) {
    seen_.insert(key);
    const auto node = table_[key];
    if (!node) return;
    if constexpr (std::is_same_v<T, bool>) {
      const auto value = node.value<bool>();
      FPSA_CHECK(value && node.is_boolean(), where_, key, ": expected true or false");
      into = *value;
    } else if constexpr (std::is_integral_v<T>) {
      FPSA_CHECK(node.is_integer() && *node.value<int64_t>() >= 0, where_, key, ": expected an integer from 0");
      into = static_cast<T>(*node.value<int64_t>());
    } else {
      const auto value = node.value<double>();
      FPSA_CHECK(value && *value >= 0, where_, key, ": expected a number from 0");
      into = *value;
    }
  }

  template <class T, size_t N>
  void read(const char* key, std::array<T, N>& into) {
    seen_.insert(key);
    if (!table_[key]) return;
    const toml::array* list = table_[key].as_array();
    FPSA_CHECK(list && list->size() == N, where_, key, ": expected a list of ", N, " numbers");
    for (size_t i = 0; i < N; ++i) {
      const auto value = (*list)[i].value<T>();
      FPSA_CHECK(value && *value >= 0, where_, key, "[", i, "]: expected a number from 0");
      into[i] = *value;
    }
  }

  std::string text(const char* key) {
    FPSA_CHECK(table_[key], where_, key, ": expected a string, found nothing");
    std::string value;
    read(key, value);
    return value;
  }

  void read(const char* key, std::string& into) {
    seen_.insert(key);
    if (!table_[key]) return;
    FPSA_CHECK(table_[key].is_string(), where_, key, ": expected a string");
    into = *table_[key].value<std::string>();
  }

  void read(const char* key, std::vector<std::string>& into) {
    seen_.insert(key);
    if (!table_[key]) return;
    const toml::array* list = table_[key].as_array();
    FPSA_CHECK(list && !list->empty(), where_, key, ": expected a list of texts");
    for (const auto& node : *list) {
      FPSA_CHECK(node.is_string() && !node.value<std::string>()->empty(), where_, key,
                 ": expected texts that are not empty");
      into.push_back(*node.value<std::string>());
    }
  }

  const toml::table* table(const char* key) {
    seen_.insert(key);
    if (!table_[key]) return nullptr;
    FPSA_CHECK(table_[key].is_table(), where_, key, ": expected a table [", key, "]");
    return table_[key].as_table();
  }

  // An array of tables, [[key]].
  std::vector<const toml::table*> tables(const char* key) {
    seen_.insert(key);
    std::vector<const toml::table*> out;
    if (!table_[key]) return out;
    const toml::array* list = table_[key].as_array();
    FPSA_CHECK(list, where_, key, ": expected tables [[", key, "]]");
    for (const auto& node : *list) {
      FPSA_CHECK(node.is_table(), where_, key, ": expected tables [[", key, "]]");
      out.push_back(node.as_table());
    }
    return out;
  }

  void finish() const {
    for (const auto& [key, value] : table_)
      FPSA_CHECK(seen_.contains(std::string(key.str())), where_, key.str(),
                 ": unknown key; remove it or correct its name");
  }

 private:
  const toml::table& table_;
  std::string where_;
  std::set<std::string> seen_;
};

Stage::Crop read_crop(const toml::table& node, const std::string& where) {
  Stage::Crop crop{{17, 64, 64}, {33, 256, 256}};
  Table table(node, where);
  table.read("size", crop.size);
  table.read("source", crop.source);
  table.read("batch", crop.batch);
  table.read("weight", crop.weight);
  table.finish();
  for (int axis = 0; axis < 3; ++axis)
    FPSA_CHECK(crop.size[axis] >= 1 && crop.size[axis] <= crop.source[axis], where,
               "size: expected at most the source's ", crop.source[axis], " along axis ", axis, ", received ",
               crop.size[axis]);
  FPSA_CHECK(crop.size[0] % 4 == 1 && crop.size[1] % 8 == 0 && crop.size[2] % 8 == 0, where,
             "size: expected 4n+1 frames and sides that are multiples of 8");
  FPSA_CHECK(crop.batch >= 1, where, "batch: expected at least 1");
  return crop;
}

// `stage` holds the defaults.
Stage read_stage(const toml::table& node, Kind kind, Stage stage, const std::string& where) {
  Table table(node, where);
  table.read("steps", stage.steps);
  table.read("minutes", stage.minutes);
  table.read("learning_rate", stage.learning_rate);
  table.read("micro_batches", stage.micro_batches);
  FPSA_CHECK(stage.micro_batches >= 1, where, "micro_batches: expected at least 1");
  if (kind == Kind::kVae) {
    table.read("bf16", stage.bf16);
    int index = 0;
    for (const auto* crop : table.tables("crop"))
      stage.crops.push_back(read_crop(*crop, join(where, "crop ", index++, ": ")));
    FPSA_CHECK(!stage.crops.empty(), where, "expected at least one [[stage.crop]]");
  } else {
    table.read("frames", stage.frames);
    table.read("height", stage.height);
    table.read("width", stage.width);
    table.read("batch", stage.batch);
    table.read("shift", stage.shift);
    table.read("density_steps", stage.density_steps);
    table.read("stretch", stage.stretch);
    table.read("pool_clips", stage.pool_clips);
    table.read("pool_start", stage.pool_start);
    table.read("refresh_every", stage.refresh_every);
    table.read("eval_prompts", stage.eval_prompts);
    FPSA_CHECK(
        stage.frames % 4 == 1 && stage.height % 16 == 0 && stage.width % 16 == 0 && stage.height > 0 && stage.width > 0,
        where, "expected 4n+1 frames and sides that are multiples of 16");
    FPSA_CHECK(stage.batch >= 1 && stage.pool_clips >= 1 && stage.pool_start >= 1, where,
               "batch, pool_clips and pool_start: expected at least 1");
    FPSA_CHECK(stage.shift > 0, where, "shift: expected more than 0");
  }
  table.finish();
  FPSA_CHECK((stage.steps > 0) != (stage.minutes > 0), where, "expected either steps or minutes");
  FPSA_CHECK(stage.steps == 0 || stage.density_steps <= stage.steps, where, "density_steps: expected at most the ",
             stage.steps, " steps of the stage, received ", stage.density_steps);
  return stage;
}

std::string read_file(const std::filesystem::path& path, const std::string& what) {
  std::ifstream in(path, std::ios::binary);
  FPSA_CHECK(in, "cannot read ", what, " ", path, ": expected a TOML file");
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

// FPSAttention's published training settings, as defaults for what the recipe does not say.
void apply_paper_preset(Recipe& recipe, Stage& stage) {
  recipe.muon = false;
  recipe.optimizer.epsilon = 1e-15;
  recipe.optimizer.weight_decay = 1e-4;
  recipe.optimizer.clip_norm = 1.0;
  recipe.optimizer.ema = 0.99;
  recipe.warmup_steps = 200;
  stage.learning_rate = {5e-6, 5e-6};
  stage.shift = 5.0;
}

void read_optimizer(Table& table, Recipe& recipe, Stage& stage_defaults, const std::string& origin) {
  if (const auto* node = table.table("optimizer")) {
    Table part(*node, origin + ": optimizer.");
    std::string preset;
    part.read("preset", preset);
    FPSA_CHECK(preset.empty() || preset == "paper", origin, ": optimizer.preset: expected \"paper\", received \"",
               preset, "\"");
    if (preset == "paper") apply_paper_preset(recipe, stage_defaults);
    part.read("beta1", recipe.optimizer.beta1);
    part.read("beta2", recipe.optimizer.beta2);
    part.read("epsilon", recipe.optimizer.epsilon);
    part.read("momentum", recipe.optimizer.momentum);
    part.read("adam_scale", recipe.optimizer.adam_scale);
    part.read("weight_decay", recipe.optimizer.weight_decay);
    part.read("clip_norm", recipe.optimizer.clip_norm);
    part.read("ema", recipe.optimizer.ema);
    part.read("warmup_steps", recipe.warmup_steps);
    part.finish();
  }
  table.read("muon", recipe.muon);
}

// The schedule of attention = "fps".
std::optional<schedule::Schedule> read_schedule(Table& table, const std::string& origin) {
  std::string attention = "dense", file;
  table.read("attention", attention);
  table.read("schedule", file);
  FPSA_CHECK(attention == "dense" || attention == "fps", origin,
             ": attention: expected \"dense\" or \"fps\", received \"", attention, "\"");
  FPSA_CHECK(file.empty() == (attention == "dense"), origin, ": schedule: expected ",
             attention == "fps" ? "a TOML file beside attention = \"fps\", found nothing"
                                : "none beside dense attention; add attention = \"fps\", or remove it");
  if (attention == "dense") return std::nullopt;
  const auto path = std::filesystem::path(origin).parent_path() / file;
  auto schedule = schedule::parse_toml(read_file(path, "the schedule"), path.string());
  const auto trainable = [&](schedule::Quant quant, const char* what, size_t index) {
    FPSA_CHECK(quant != schedule::Quant::kInt8, path.string(), ": ", what, " ", index + 1,
               ": quant: INT8 attention has no backward; expected \"e4m3\" or \"none\" in training");
  };
  for (size_t i = 0; i < schedule.phases.size(); ++i)
    trainable(schedule.phases[i].quant, "phase", i);
  for (size_t i = 0; i < schedule.overrides.size(); ++i)
    trainable(schedule.overrides[i].quant.value_or(schedule::Quant::kNone), "override", i);
  return schedule;
}

// What takes both a stage and the schedule to judge.
void check_schedule(const Recipe& recipe, const Stage& stage, const std::string& where) {
  if (!recipe.schedule) {
    FPSA_CHECK(stage.density_steps == 0, where, "density_steps: expected none with dense attention, received ",
               stage.density_steps);
    return;
  }
  try {
    const auto grid = grid_of(stage);
    schedule::check_for_grid(*recipe.schedule, grid);
    if (stage.density_steps > 0) schedule::check_for_grid(with_density(*recipe.schedule, grid, 0.0), grid);
  } catch (const Error& error) {
    throw Error(where + error.what());
  }
}

}  // namespace

pattern::Grid grid_of(const Stage& stage) {
  return {(stage.frames - 1) / 4 + 1, stage.height / 16, stage.width / 16};
}

Recipe parse_recipe(std::string_view text, const std::string& origin) {
  toml::table root;
  try {
    root = toml::parse(text, origin);
  } catch (const toml::parse_error& error) {
    const auto where = error.source().begin;
    throw Error(join(origin, ":", where.line, ":", where.column, ": ", error.description()));
  }
  Recipe recipe;
  recipe.text = text;
  Table table(root, origin + ": ");
  const std::string kind = table.text("kind");
  FPSA_CHECK(kind == "vae" || kind == "dit", origin, ": kind: expected \"vae\" or \"dit\", received \"", kind, "\"");
  recipe.kind = kind == "vae" ? Kind::kVae : Kind::kDit;
  table.read("seed", recipe.seed);
  if (recipe.kind == Kind::kDit) {
    table.read("prompt_dropout", recipe.prompt_dropout);
    table.read("slot_weight", recipe.slot_weight);
    table.read("coverage_weight", recipe.coverage_weight);
    table.read("num_inference_steps", recipe.num_inference_steps);
    table.read("distill_weight", recipe.distill_weight);
    table.read("gradient_checkpointing", recipe.gradient_checkpointing);
    recipe.schedule = read_schedule(table, origin);
    FPSA_CHECK(recipe.num_inference_steps >= 1 && recipe.num_inference_steps <= 1000, origin,
               ": num_inference_steps: expected 1 to 1000, received ", recipe.num_inference_steps);
    if (table.table("data")) recipe.data = data_of_recipe(text, origin);
    if (table.table("lora")) recipe.lora = lora_of_recipe(text, origin);
    for (const char* key : {"slot_weight", "coverage_weight"})
      FPSA_CHECK(!recipe.finetunes() || !root.contains(key), origin, ": ", key,
                 ": expected none beside [data] or [lora], which train without it; remove it");
  } else {
    table.read("decoder_only", recipe.decoder_only);
  }
  table.read("non_finite_limit", recipe.non_finite_limit);
  FPSA_CHECK(recipe.non_finite_limit >= 1, origin, ": non_finite_limit: expected at least 1");
  Stage stage_defaults;
  read_optimizer(table, recipe, stage_defaults, origin);
  if (const auto* node = table.table("report")) {
    Table part(*node, origin + ": report.");
    part.read("log_seconds", recipe.log_seconds);
    part.read("checkpoint_seconds", recipe.checkpoint_seconds);
    part.read("preview_minutes", recipe.preview_minutes);
    part.read("preview_prompts", recipe.preview_prompts);
    if (recipe.finetunes()) {
      part.read("prompts", recipe.prompts);
      part.read("preview_steps", recipe.preview_steps);
      part.read("preview_guidance", recipe.preview_guidance);
      FPSA_CHECK(recipe.preview_steps >= 1 && recipe.preview_steps <= 1000, origin,
                 ": report.preview_steps: expected 1 to 1000, received ", recipe.preview_steps);
    }
    part.finish();
  }
  int index = 0;
  for (const auto* node : table.tables("stage")) {
    const std::string where = join(origin, ": stage ", index++, ": ");
    recipe.stages.push_back(read_stage(*node, recipe.kind, stage_defaults, where));
    check_schedule(recipe, recipe.stages.back(), where);
  }
  table.finish();
  FPSA_CHECK(!recipe.stages.empty(), origin, ": expected at least one [[stage]]");
  return recipe;
}

Recipe load_recipe(const std::filesystem::path& path) {
  return parse_recipe(read_file(path, "the recipe"), path.string());
}

}  // namespace fpsa::train
