#include "fpsa/app/heat_map.h"

#include <gtest/gtest.h>

#include <cmath>

namespace fpsa::app {
namespace {

size_t count(const std::string& text, const std::string& part) {
  size_t found = 0;
  for (auto at = text.find(part); at != std::string::npos; at = text.find(part, at + 1))
    ++found;
  return found;
}

TEST(ColourScale, SpreadsItsLevelsAndStopsAtItsEnds) {
  for (const bool logarithmic : {false, true}) {
    const ColourScale scale(0.01, 1.0, logarithmic);
    for (int level = 0; level < ColourScale::kLevels; ++level)
      EXPECT_EQ(scale.level(scale.value(level)), level);
    EXPECT_EQ(scale.level(0), 0);
    EXPECT_EQ(scale.level(0.01), 0);
    EXPECT_EQ(scale.level(7), ColourScale::kLevels - 1);
    EXPECT_EQ(scale.level(0.1), logarithmic ? 16 : 2);
  }
}

TEST(ColourScale, GetsDarkerAtEveryLevel) {
  int previous = 1000;
  for (int level = 0; level < ColourScale::kLevels; ++level) {
    const auto colour = ColourScale::colour(level);
    ASSERT_EQ(colour.size(), 7u);
    int sum = 0;
    for (const size_t at : {1, 3, 5})
      sum += std::stoi(colour.substr(at, 2), nullptr, 16);
    EXPECT_LT(sum, previous) << colour;
    previous = sum;
  }
}

TEST(HeatMap, DrawsRunsOfOneColourTogetherAndCoversEveryCell) {
  const ColourScale scale(0, 1, false);
  // Rows 0 0 0 1 and 1 1 0 0: two colours, two runs in each row.
  const double values[2][4] = {{0, 0, 0, 1}, {1, 1, 0, 0}};
  const auto svg = heat_map(
      4, 2, [&](int64_t column, int64_t row) { return values[row][column]; }, scale);
  EXPECT_EQ(count(svg, "<path"), 2u);
  EXPECT_NE(svg.find(ColourScale::colour(0) + "\" d=\"M0 0h3v1h-3zM2 1h2v1h-2z\""), std::string::npos) << svg;
  EXPECT_NE(svg.find(ColourScale::colour(31) + "\" d=\"M3 0h1v1h-1zM0 1h2v1h-2z\""), std::string::npos) << svg;
  EXPECT_NE(svg.find("viewBox=\"0 0 4 2\""), std::string::npos);
}

TEST(Legend, NamesItsEnds) {
  const auto text = legend(ColourScale(0.0123456, 0.5, true), "a<b");
  for (const char* part : {"a&lt;b", ">0.0123<", ">0.5<"})
    EXPECT_NE(text.find(part), std::string::npos) << text;
  EXPECT_EQ(count(text, "<path"), static_cast<size_t>(ColourScale::kLevels));
}

TEST(Escaped, LeavesNoMarkup) {
  EXPECT_EQ(escaped("<a href='x'>\"&\"</a> é"), "&lt;a href=&#39;x&#39;&gt;&quot;&amp;&quot;&lt;/a&gt; é");
}

}  // namespace
}  // namespace fpsa::app
