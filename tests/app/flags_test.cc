#include "fpsa/app/flags.h"

#include <gtest/gtest.h>

#include <fstream>

#include "fpsa/app/usage_error.h"
#include "tests/error_of.h"
#include "tests/io/scratch.h"

namespace fpsa::app {
namespace {

// A command with one flag of each kind.
struct Command {
  CLI::App app{"test"};
  int64_t height = 480, width = 832;
  double scale = 5;
  std::optional<double> shift;
  models::wan::RopeStretch rope;
  uint64_t seed = 0;
  std::string text, mode = "auto";
  bool explain = false;

  Command() {
    add_integer(app, "--height,-H", height, 1, 4096, "");
    add_integer(app, "--width,-W", width, 1, 4096, "");
    app.add_option("--size", "");
    add_number(app, "--guidance-scale", scale, 0, 100, "");
    add_number(app, "--flow-shift,--sample-shift", shift, 0.01, 100, "");
    add_seed(app, "--seed", seed, "");
    add_rope_scale(app, "--rope-scale", rope);
    add_text(app, "--prompt", text, "");
    add_choice(app, "--mode", mode, {"auto", "on", "off"}, "");
    add_switch(app, "--explain", explain, "");
    app.add_option("--config", "");
  }
  void parse(std::vector<const char*> arguments) {
    arguments.insert(arguments.begin(), "test");
    auto list = with_dashes(static_cast<int>(arguments.size()), arguments.data());
    std::reverse(list.begin(), list.end());
    app.parse(list);
  }
};

TEST(Flags, UnderscoresInNamesAreDashesAndValuesStay) {
  Command command;
  command.parse(
      {"--guidance_scale=2.5", "--sample_shift", "7", "--prompt", "a_b=c_d", "--seed", "18446744073709551615"});
  EXPECT_EQ(command.scale, 2.5);
  EXPECT_EQ(command.shift, 7);
  EXPECT_EQ(command.text, "a_b=c_d");
  EXPECT_EQ(command.seed, 18446744073709551615u);
}

TEST(Flags, AWrongValueNamesFlagExpectationAndValue) {
  for (const auto& [flag, value, words] : std::vector<std::array<const char*, 3>>{
           {"--height", "12abc", "--height: expected a whole number from 1 to 4096, got '12abc'"},
           {"--height", "0", "--height: expected a whole number from 1 to 4096, got '0'"},
           {"--height", "99999999999999999999", "--height: expected a whole number"},
           {"--guidance-scale", "nan", "--guidance-scale: expected a number from 0 to 100, got 'nan'"},
           {"--seed", "-1", "--seed: expected a whole number from 0"},
           {"--mode", "maybe", "--mode: expected auto|on|off, got 'maybe'"}}) {
    Command command;
    const std::string argument = join(flag, "=", value);
    EXPECT_NE(error_of([&] { command.parse({argument.c_str()}); }).find(words), std::string::npos) << argument;
  }
}

TEST(Flags, SettingsFillOnlyWhatTheCommandLineLeftOpen) {
  Command command;
  command.parse({"--height", "128"});
  apply_settings(command.app, {{"height", 256}, {"width", 64}, {"explain", true}, {"flow_shift", 3}}, "a.json");
  apply_settings(command.app, {{"width", 512}, {"seed", 5}}, "b.json");
  EXPECT_EQ(command.height, 128);
  EXPECT_EQ(command.width, 64);
  EXPECT_EQ(command.shift, 3);
  EXPECT_EQ(command.seed, 5u);
  EXPECT_TRUE(command.explain);
}

TEST(Flags, UnknownSettingsAreRefusedWithTheNearestName) {
  Command command;
  command.parse({});
  EXPECT_EQ(error_of([&] {
              apply_settings(command.app, {{"heigth", 1}}, "x.toml");
            }),
            "x.toml: heigth: expected a known setting, got an unknown one; did you mean 'height'?");
  EXPECT_NE(error_of([&] { apply_settings(command.app, {{"config", "y"}}, "x.toml"); }), "no error");
  EXPECT_NE(error_of([&] { apply_settings(command.app, {{"seed", 1}}, "x.toml", {"height"}); }), "no error");
  EXPECT_NE(error_of([&] { apply_settings(command.app, {{"height", {1, 2}}}, "x.toml"); }), "no error");
  EXPECT_NE(error_of([&] { apply_settings(command.app, {{"explain", 3}}, "x.toml"); }), "no error");
  EXPECT_NE(error_of([&] {
              apply_settings(command.app, {{"height", -3}}, "x.toml");
            }).find("x.toml: --height"),
            std::string::npos);
}

TEST(Flags, SizeIsWidthByHeight) {
  for (const char* size : {"832*480", "832x480", "832,480"}) {
    Command command;
    command.height = command.width = 0;
    command.parse({"--size", size});
    expand_size(command.app);
    EXPECT_EQ(command.width, 832);
    EXPECT_EQ(command.height, 480);
  }
  Command both;
  both.parse({"--size", "8*8", "--width", "16"});
  EXPECT_THROW(expand_size(both.app), UsageError);
  Command single;
  single.parse({"--size", "832"});
  EXPECT_THROW(expand_size(single.app), UsageError);
}

TEST(Flags, RopeScaleIsThreeFactors) {
  Command command;
  command.parse({"--rope-scale", "1,0.5,.25"});
  EXPECT_EQ(command.rope, (models::wan::RopeStretch{1, 0.5, 0.25}));
  EXPECT_EQ(rope_scale_text(command.rope), "1,0.5,0.25");
  for (const char* wrong : {"1,2", "1,2,3,4", "1,,2", "1,0,1", "1;2;3"}) {
    const auto said = error_of<UsageError>([&] { Command().parse({"--rope-scale", wrong}); });
    EXPECT_NE(said.find("--rope-scale: expected"), std::string::npos) << said;
  }
}

TEST(Flags, NearestNameIsOfferedOnlyWhenItIsNear) {
  const std::vector<std::string> known = {"height", "width", "num-frames", "num-inference-steps"};
  EXPECT_EQ(nearest_name("hieght", known), "height");
  EXPECT_EQ(nearest_name("num-inference", known), "num-inference-steps");
  EXPECT_EQ(nearest_name("zzzzzzzz", known), std::nullopt);
}

class SettingsFile : public ::testing::Test {
 protected:
  std::filesystem::path write(const std::string& name, const std::string& text) {
    const auto path = scratch_.path() / name;
    std::ofstream(path) << text;
    return path;
  }
  testing::ScratchFolder scratch_;
};

TEST_F(SettingsFile, JsonAndTomlReadAlike) {
  const auto json = read_settings(write("a.json", R"({"height": 256, "fps": 12.5, "prompt": "x", "explain": true})"));
  const auto toml = read_settings(write("a.toml", "height = 256\nfps = 12.5\nprompt = 'x'\nexplain = true\n"));
  EXPECT_EQ(json, toml);
}

TEST_F(SettingsFile, FaultsAreNamedWithTheirPlace) {
  EXPECT_NE(error_of([&] { read_settings(write("a.toml", "height = \n")); }).find("line 1"), std::string::npos);
  EXPECT_NE(error_of([&] { read_settings(write("b.toml", "[table]\nx = 1\n")); }).find("table"), std::string::npos);
  EXPECT_NE(error_of([&] { read_settings(write("c.json", R"({"a": 1, "a": 2})")); }), "no error");
  EXPECT_NE(error_of([&] { read_settings(write("d.yaml", "a: 1")); }).find(".json or .toml"), std::string::npos);
}

}  // namespace
}  // namespace fpsa::app
