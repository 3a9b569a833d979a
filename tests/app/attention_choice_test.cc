#include "fpsa/app/attention_choice.h"

#include <gtest/gtest.h>

#include "fpsa/base/check.h"
#include "tests/io/scratch.h"

namespace fpsa::app {
namespace {

using fpsa::testing::error_of;

CarriedSchedule carried(double shift, const std::string& origin, bool of_lora = true) {
  auto schedule = schedule::default_schedule();
  schedule.shift = shift;
  return {schedule::to_toml(schedule), origin, of_lora};
}

AttentionChoice choose(const std::string& attention, const std::vector<CarriedSchedule>& list,
                       const std::filesystem::path& schedule = {}) {
  GenerateOptions options;
  options.attention = attention;
  options.schedule = schedule;
  return choose_attention(options, list, {9, 16, 16}, 6, 4);
}

TEST(ChooseAttention, AutoTakesTheScheduleThatALoraCarriesWithItsShiftAndSaysSo) {
  const auto choice = choose("auto", {carried(4, "the fpsa.schedule of the LoRA my.safetensors")});
  EXPECT_EQ(choice.name, "fps");
  EXPECT_EQ(choice.reason, "auto: with the fpsa.schedule of the LoRA my.safetensors");
  EXPECT_EQ(choice.shift, 4);
  EXPECT_FALSE(choose("auto", {carried(4, "the checkpoint's fpsa.schedule", false)}).shift);
  EXPECT_EQ(choose("auto", {}).name, "dense");
}

TEST(ChooseAttention, TwoSchedulesMustAgreeUnlessOneIsNamedOrNoneIsUsed) {
  fpsa::testing::ScratchFolder scratch;
  const std::vector<CarriedSchedule> two = {carried(4, "the model's"), carried(5, "the LoRA's")};
  for (const char* attention : {"auto", "fps", "sta", "fp8"}) {
    const std::string message = error_of<Error>([&] { choose(attention, two); });
    for (const char* part : {"the model's and the LoRA's are different", "--schedule FILE", "--attention dense"})
      FPSA_EXPECT_CONTAINS(message, part);
  }
  EXPECT_EQ(choose("dense", two).name, "dense");
  const auto file = fpsa::testing::write_raw(scratch / "own.toml", carried(3, "").toml);
  EXPECT_EQ(choose("auto", two, file).schedule->shift, 3);
  EXPECT_EQ(choose("auto", {carried(4, "the model's"), carried(4, "the LoRA's")}).schedule->shift, 4);
}

}  // namespace
}  // namespace fpsa::app
