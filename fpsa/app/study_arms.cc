#include "fpsa/app/study_arms.h"

#include <algorithm>
#include <cmath>

#include "fpsa/app/flags.h"
#include "fpsa/app/study_variation.h"
#include "fpsa/app/usage_error.h"
#include "fpsa/pattern/grid.h"

namespace fpsa::app {
namespace {

using pattern::Grid;
using pattern::kAllTiles;
using schedule::Schedule;

constexpr double kFrontier[] = {0.25, 0.15, 0.10, 0.06};
constexpr double kNear = 1.5;  // farther off by ratio, a window is no point of the frontier

// Whether any step, layer or head has P in E4M3.
bool codes_p(const Schedule& schedule) {
  const auto coded = [](schedule::Quant quant) { return quant == schedule::Quant::kE4m3; };
  return std::ranges::any_of(schedule.phases, coded, &schedule::Phase::quant) ||
         std::ranges::any_of(schedule.overrides,
                             [&](const schedule::Override& entry) { return entry.quant && coded(*entry.quant); });
}

int percent_of(double density) {
  return static_cast<int>(std::lround(100 * density));
}

// One axis of every window, unless it covers all.
template <class Change>
Schedule change_windows(const Schedule& schedule, const Change& change) {
  const auto axis = [&](int64_t w) { return w == kAllTiles ? w : std::max<int64_t>(1, change(w)); };
  return with_windows(schedule, [&](const Grid& w) { return Grid{axis(w.t), axis(w.y), axis(w.x)}; });
}

class Table {
 public:
  explicit Table(const ArmRequest& request) : request_(request) {}

  std::vector<Arm> arms() {
    main_arms();
    tiles();
    windows();
    granularities();
    precisions();
    codings();
    phases();
    if (request_.full) frontier();
    return std::move(arms_);
  }

 private:
  Arm base(const std::string& name, const std::string& label, const std::string& method, ArmGroup group) const {
    Arm arm;
    arm.name = name, arm.label = label, arm.group = group, arm.method = method;
    arm.model = request_.model, arm.prompts = request_.prompts, arm.judged = request_.judged;
    if (method != "dense") arm.schedule = request_.schedule;
    return arm;
  }

  void main_arms() {
    arms_.push_back(base(std::string(kDenseArm), "Dense", "dense", ArmGroup::kMain));
    arms_.push_back(base("fp8", "FP8 only", "fp8", ArmGroup::kMain));
    arms_.push_back(base("sparse", "Sparse only", "sta", ArmGroup::kMain));
    arms_.push_back(base("fps", "FP8 + sparse, training-free", "fps", ArmGroup::kMain));
    for (const auto& trained : request_.trained) {
      check_arm_name("--trained", trained.name);
      auto arm = base(trained.name, "Trained: " + trained.name, "fps", ArmGroup::kMain);
      arm.model = trained.folder;
      arm.trained = true;
      if (trained.schedule) arm.schedule = trained.schedule;
      if (!trained.schedule) arm.label += " (carries no schedule: the study's)";
      check_free(arm.name);
      arms_.push_back(arm);
    }
    // What training is worth shows against the same schedule on the weights that were not trained for it.
    for (const auto& trained : request_.trained) {
      if (!trained.schedule) continue;
      auto arm =
          base(trained.name + "-untrained", "Schedule of " + trained.name + ", training-free", "fps", ArmGroup::kMain);
      arm.schedule = trained.schedule;
      add(std::move(arm));
    }
  }

  void check_free(const std::string& name) const {
    const bool taken = std::ranges::any_of(arms_, [&](const Arm& arm) { return arm.name == name; });
    FPSA_USAGE_CHECK(!taken, "--trained: expected a name that no other arm has, got '", name, "' again");
  }

  // Left out when an earlier arm does the same work.
  void add(Arm arm) {
    const auto identity = arm.identity();
    if (std::ranges::any_of(arms_, [&](const Arm& other) { return other.identity() == identity; })) return;
    check_free(arm.name);
    arms_.push_back(std::move(arm));
  }

  void ablation(const std::string& name, const std::string& label, ArmGroup group, Schedule schedule,
                const std::string& method = "fps", const std::optional<ops::PCoding>& coding = std::nullopt) {
    auto arm = base(name, label, method, group);
    arm.schedule = std::move(schedule);
    arm.coding = coding;
    arm.prompts = std::min(request_.prompts, request_.ablation_prompts);
    arm.judged = false;
    add(std::move(arm));
  }

  void tiles() {
    const Grid tile = request_.schedule.tile;
    const auto half = [](int64_t n) { return std::max<int64_t>(1, n / 2); };
    const Grid tiles[] = {{tile.t, half(tile.y), half(tile.x)},
                          {tile.t, 2 * tile.y, 2 * tile.x},
                          {half(tile.t), tile.y, tile.x},
                          {2 * tile.t, tile.y, tile.x}};
    for (const auto& other : tiles)
      if (other.t <= request_.grid.t && other.y <= request_.grid.y && other.x <= request_.grid.x)
        ablation("tile-" + pattern::to_string(other), "Tile " + pattern::to_string(other), ArmGroup::kTile,
                 with_tile(request_.schedule, other));
  }

  void windows() {
    const auto& schedule = request_.schedule;
    ablation("window-half", "Windows half as wide", ArmGroup::kWindow,
             change_windows(schedule, [](int64_t w) { return w / 2; }));
    ablation("window-narrower", "Windows one tile narrower", ArmGroup::kWindow,
             change_windows(schedule, [](int64_t w) { return w - 1; }));
    ablation("window-wider", "Windows one tile wider", ArmGroup::kWindow,
             change_windows(schedule, [](int64_t w) { return w + 1; }));
    ablation("window-all-frames", "Windows over all frames", ArmGroup::kWindow,
             with_windows(schedule, [](const Grid& w) {
               return Grid{kAllTiles, w.y, w.x};
             }));
  }

  void granularities() {
    const auto& schedule = request_.schedule;
    const Grid tile = schedule.tile;
    ablation("granularity-token", "A scale for each token", ArmGroup::kGranularity,
             with_granularity(schedule, {1, 1, 1}));
    ablation("granularity-tile", "A scale for each tile", ArmGroup::kGranularity, with_granularity(schedule, tile));
    ablation("granularity-coarse", "A scale for 2x2x2 tiles", ArmGroup::kGranularity,
             with_granularity(schedule, {2 * tile.t, 2 * tile.y, 2 * tile.x}));
  }

  void precisions() {
    ablation("int8", "INT8 in place of E4M3", ArmGroup::kPrecision,
             with_quant(request_.schedule, schedule::Quant::kInt8));
    ablation("int8-only", "INT8 only, all keys", ArmGroup::kPrecision, request_.schedule, "int8");
  }

  // All four are emulated alike, the kernels' own coding too, so that they differ in nothing else.
  void codings() {
    if (!codes_p(request_.schedule)) return;
    for (const int scale : {256, 448})
      for (const bool reverse : {false, true})
        ablation(join("p-", scale, reverse ? "-reverse" : "-forward"),
                 join("P times ", scale, reverse ? ", last keys first" : ", first keys first"), ArmGroup::kPCoding,
                 request_.schedule, "fps", ops::PCoding{static_cast<double>(scale), reverse});
  }

  void phases() {
    if (request_.schedule.phases.size() < 2) return;
    for (size_t phase = 0; phase < request_.schedule.phases.size(); ++phase)
      ablation(join("phase-", phase + 1, "-only"), join("No step schedule: phase ", phase + 1, " throughout"),
               ArmGroup::kSteps, one_phase(request_.schedule, phase));
  }

  void frontier() {
    for (const double target : kFrontier) {
      frontier_arm("fps", "training-free", request_.model, request_.schedule, target, false);
      for (const auto& trained : request_.trained)
        frontier_arm(trained.name, trained.name, trained.folder, trained.schedule.value_or(request_.schedule), target,
                     true);
    }
  }

  void frontier_arm(const std::string& name, const std::string& label, const std::filesystem::path& model,
                    const Schedule& schedule, double target, bool trained) {
    const Grid window = window_near_density(request_.grid, schedule.tile, target);
    const double ratio = window_density(request_.grid, schedule.tile, window) / target;
    if (ratio > kNear || ratio < 1 / kNear) return;
    const int percent = percent_of(target);
    auto arm =
        base(join(name, "-density-", percent), join(label, ", asked for ", percent, "%"), "fps", ArmGroup::kFrontier);
    arm.model = model;
    arm.schedule = with_window(schedule, window);
    arm.prompts = std::min(request_.prompts, request_.ablation_prompts);
    arm.trained = trained;
    add(std::move(arm));
  }

  const ArmRequest& request_;
  std::vector<Arm> arms_;
};

}  // namespace

std::string_view name_of(ArmGroup group) {
  constexpr std::string_view names[] = {"main",     "tile",  "window",   "granularity", "precision",
                                        "p_coding", "steps", "frontier", "own"};
  return names[static_cast<size_t>(group)];
}

std::string_view title_of(ArmGroup group) {
  constexpr std::string_view titles[] = {"Methods",
                                         "Tile size",
                                         "Window",
                                         "Granularity",
                                         "Precision",
                                         "Scale of P and order of keys",
                                         "Schedule over the steps",
                                         "Density frontier",
                                         "Arms of your own"};
  return titles[static_cast<size_t>(group)];
}

nlohmann::json Arm::identity() const {
  nlohmann::json result = {{"model", model.lexically_normal().string()},
                           {"method", method},
                           {"schedule", schedule ? schedule::to_toml(*schedule) : std::string()}};
  if (coding) result["p_coding"] = {{"scale", coding->scale}, {"reverse", coding->reverse}};
  return result;
}

std::vector<Arm> built_in_arms(const ArmRequest& request) {
  return Table(request).arms();
}

std::vector<int> missing_of_frontier(const std::vector<Arm>& arms) {
  std::vector<int> out;
  for (const double target : kFrontier)
    if (std::ranges::none_of(arms,
                             [&](const Arm& arm) { return arm.name.ends_with(join("-density-", percent_of(target))); }))
      out.push_back(percent_of(target));
  return out;
}

std::vector<Arm> select_arms(const std::vector<Arm>& arms, const std::vector<std::string>& only) {
  if (only.empty()) return arms;
  std::vector<std::string> known;
  for (const auto& arm : arms)
    known.push_back(arm.name);
  for (const auto& name : only)
    if (std::ranges::find(known, name) == known.end()) {
      const auto near = nearest_name(name, known);
      std::string all;
      for (const auto& other : known)
        all += (all.empty() ? "" : ", ") + other;
      throw UsageError(join("--only: expected arms of this study, got '", name, "'; ",
                            near ? "did you mean " + *near + "? " : "", "all: ", all));
    }
  std::vector<Arm> kept;
  for (const auto& arm : arms)
    if (arm.name == kDenseArm || std::ranges::find(only, arm.name) != only.end()) kept.push_back(arm);
  return kept;
}

void check_arm_name(const std::string& flag, const std::string& name) {
  constexpr char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
  FPSA_USAGE_CHECK(
      !name.empty() && name.size() <= 64 && name[0] != '.' && name.find_first_not_of(letters) == std::string::npos,
      flag, ": expected a name of 1 to 64 letters, digits, '.', '_' and '-', got '", name, "'");
}

}  // namespace fpsa::app
