#include "fpsa/train/recipe.h"

#include <gtest/gtest.h>

#include <fstream>

#include "fpsa/base/check.h"
#include "tests/train/scratch_folder.h"

namespace fpsa::train {
namespace {

std::string failure(const std::string& text) {
  try {
    parse_recipe(text, "r.toml");
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(Recipe, ReadsEveryPart) {
  const Recipe recipe = parse_recipe(R"(
kind = "dit"
seed = 7
prompt_dropout = 0.2
[optimizer]
ema = 0.9
warmup_steps = 3
[report]
log_seconds = 1.5
[[stage]]
frames = 17
height = 64
width = 96
batch = 3
steps = 10
learning_rate = [1e-3, 0.0]
stretch = [2, 4, 4.0]
)",
                                     "r.toml");
  EXPECT_EQ(recipe.kind, Kind::kDit);
  EXPECT_EQ(recipe.seed, 7u);
  EXPECT_DOUBLE_EQ(recipe.prompt_dropout, 0.2);
  EXPECT_DOUBLE_EQ(recipe.optimizer.ema, 0.9);
  EXPECT_EQ(recipe.warmup_steps, 3);
  ASSERT_EQ(recipe.stages.size(), 1u);
  EXPECT_EQ(recipe.stages[0].width, 96);
  EXPECT_DOUBLE_EQ(recipe.stages[0].learning_rate[0], 1e-3);
  EXPECT_DOUBLE_EQ(recipe.stages[0].stretch[1], 4.0);
}

TEST(Recipe, TheShippedRecipesParse) {
  for (const char* file : {"vae.toml", "vae_refine.toml", "dit.toml", "dit_sharpen.toml", "dit_fps.toml"})
    EXPECT_NO_THROW(load_recipe(std::filesystem::path("models/tiny/train") / file)) << file;
}

TEST(Recipe, ErrorsNameKeyAndExpectation) {
  const std::string stage = "[[stage]]\nsteps = 1\n";
  EXPECT_NE(failure("kind = \"gan\"\n" + stage).find("\"vae\" or \"dit\""), std::string::npos);
  EXPECT_NE(failure("kind = \"dit\"\nspeed = 1\n" + stage).find("speed: unknown key"), std::string::npos);
  EXPECT_NE(failure("kind = \"dit\"\n").find("at least one [[stage]]"), std::string::npos);
  EXPECT_NE(failure("kind = \"dit\"\n[[stage]]\nsteps = 1\nminutes = 2\n").find("either steps or minutes"),
            std::string::npos);
  EXPECT_NE(failure("kind = \"dit\"\n[[stage]]\n").find("either steps or minutes"), std::string::npos);
  EXPECT_NE(failure("kind = \"dit\"\n[[stage]]\nsteps = 1\nframes = 16\n").find("4n+1"), std::string::npos);
  EXPECT_NE(failure("kind = \"dit\"\n[[stage]]\nsteps = -1\n").find("stage 0: steps"), std::string::npos);
  EXPECT_NE(failure("kind = \"dit\"\n[[stage]]\nsteps = 1\nstretch = [1, 2]\n").find("list of 3"), std::string::npos);
  EXPECT_NE(failure("kind = \"vae\"\n" + stage).find("[[stage.crop]]"), std::string::npos);
  EXPECT_NE(failure("kind = \"vae\"\n" + stage + "  [[stage.crop]]\n  size = [17, 64, 64]\n  source = [17, 32, 32]\n")
                .find("at most the source's"),
            std::string::npos);
  EXPECT_NE(failure("kind = \n").find("r.toml:1:"), std::string::npos);
}

TEST(Recipe, AMissingFileIsNamed) {
  EXPECT_THROW(load_recipe("no/such/recipe.toml"), Error);
}

TEST(Recipe, ThePaperPresetHoldsWhereNothingElseIsSaid) {
  const Recipe recipe = parse_recipe(
      "kind = \"dit\"\n[optimizer]\npreset = \"paper\"\nema = 0.9\n[[stage]]\nsteps = 1\n[[stage]]\nsteps = 1\n"
      "learning_rate = [1e-4, 0]\n",
      "r.toml");
  EXPECT_FALSE(recipe.muon);
  EXPECT_EQ(recipe.optimizer.epsilon, 1e-15);
  EXPECT_EQ(recipe.optimizer.weight_decay, 1e-4);
  EXPECT_EQ(recipe.optimizer.clip_norm, 1.0);
  EXPECT_EQ(recipe.optimizer.ema, 0.9);
  EXPECT_EQ(recipe.warmup_steps, 200);
  EXPECT_EQ(recipe.stages[0].learning_rate[1], 5e-6);
  EXPECT_EQ(recipe.stages[0].shift, 5.0);
  EXPECT_EQ(recipe.stages[1].learning_rate[0], 1e-4);
  EXPECT_NE(failure("kind = \"dit\"\n[optimizer]\npreset = \"adam\"\n[[stage]]\nsteps = 1\n")
                .find("optimizer.preset: expected \"paper\""),
            std::string::npos);
}

constexpr const char* kSchedule =
    "version = 1\ntile = [1, 2, 2]\n[[phase]]\nuntil = 1.0\ngranularity = [1, 2, 2]\nwindow = [1, 1, 1]\n";

// Loads a DiT recipe from a folder in which fps.toml holds `schedule`.
std::string scheduled_failure(const std::string& keys, const std::string& schedule, const std::string& stage) {
  const ScratchFolder folder;
  std::ofstream(folder.path / "fps.toml") << schedule;
  std::ofstream(folder.path / "r.toml") << "kind = \"dit\"\n" << keys << "\n[[stage]]\nsteps = 4\n" << stage << "\n";
  try {
    load_recipe(folder.path / "r.toml");
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(Recipe, ReadsTheScheduleBesideIt) {
  const ScratchFolder folder;
  std::ofstream(folder.path / "fps.toml") << kSchedule << "quant = \"e4m3\"\n";
  std::ofstream(folder.path / "r.toml") << R"(
kind = "dit"
attention = "fps"
schedule = "fps.toml"
num_inference_steps = 20
distill_weight = 0.5
non_finite_limit = 3
[[stage]]
steps = 10
density_steps = 8
micro_batches = 2
)";
  const Recipe recipe = load_recipe(folder.path / "r.toml");
  ASSERT_TRUE(recipe.schedule);
  EXPECT_EQ(recipe.schedule->tile, (pattern::Grid{1, 2, 2}));
  EXPECT_EQ(recipe.num_inference_steps, 20);
  EXPECT_EQ(recipe.distill_weight, 0.5);
  EXPECT_EQ(recipe.non_finite_limit, 3);
  EXPECT_EQ(recipe.stages[0].density_steps, 8);
  EXPECT_EQ(recipe.stages[0].micro_batches, 2);
  EXPECT_EQ(grid_of(recipe.stages[0]), (pattern::Grid{5, 4, 4}));
}

TEST(Recipe, RefusesWhatAttentionCannotBeTrainedWith) {
  const std::string good = std::string(kSchedule) + "quant = \"e4m3\"\n";
  const std::string fps = "attention = \"fps\"\nschedule = \"fps.toml\"";
  const auto expect = [](const std::string& found, const char* words) {
    EXPECT_NE(found.find(words), std::string::npos) << found;
  };
  EXPECT_EQ(scheduled_failure(fps, good, ""), "");
  expect(scheduled_failure("attention = \"sparse\"", good, ""), "expected \"dense\" or \"fps\"");
  expect(scheduled_failure("attention = \"fps\"", good, ""), "schedule: expected a TOML file");
  expect(scheduled_failure("schedule = \"fps.toml\"", good, ""), "add attention = \"fps\"");
  expect(scheduled_failure("attention = \"fps\"\nschedule = \"no.toml\"", good, ""), "no.toml");
  expect(scheduled_failure(fps, "version = 1\nspeed = 2\n", ""), "fps.toml:2: schedule: unknown key 'speed'");
  expect(scheduled_failure(fps, std::string(kSchedule) + "quant = \"int8\"\n", ""),
         "phase 1: quant: INT8 attention has no backward");
  expect(scheduled_failure(fps, good + "[[override]]\nlayers = [0]\nquant = \"int8\"\n", ""), "override 1: quant");
  expect(scheduled_failure(fps + "\nnum_inference_steps = 0", good, ""), "num_inference_steps: expected 1 to 1000");
  expect(scheduled_failure(fps + "\nnon_finite_limit = 0", good, ""), "non_finite_limit: expected at least 1");
  expect(scheduled_failure(fps, good, "density_steps = 5"), "expected at most the 4 steps");
  // Tiles of one token: one key tile each is a small mask, all of them, from which density_steps starts, is too large.
  const std::string small =
      "version = 1\ntile = [1, 1, 1]\n[[phase]]\nuntil = 1.0\ngranularity = [1, 1, 1]\n"
      "window = [1, 1, 1]\nquant = \"e4m3\"\n";
  const std::string big = "frames = 321\nheight = 512\nwidth = 512\n";
  EXPECT_EQ(scheduled_failure(fps, small, big), "");
  expect(scheduled_failure(fps, small, big + "density_steps = 2"), "stage 0: schedule: phase 1");
  expect(scheduled_failure("", good, "density_steps = 2"), "expected none with dense attention");
  expect(scheduled_failure(fps, good, "micro_batches = 0"), "micro_batches: expected at least 1");
  expect(failure("kind = \"vae\"\nattention = \"fps\"\n[[stage]]\nsteps = 1\n  [[stage.crop]]\n"),
         "attention: unknown key");
}

}  // namespace
}  // namespace fpsa::train
