#include "fpsa/train/recipe.h"

#include <gtest/gtest.h>

#include "fpsa/base/check.h"

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
  for (const char* file : {"vae.toml", "vae_refine.toml", "dit.toml"})
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

}  // namespace
}  // namespace fpsa::train
