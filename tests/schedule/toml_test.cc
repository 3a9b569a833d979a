#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "fpsa/base/check.h"
#include "fpsa/schedule/schedule.h"

namespace fpsa::schedule {
namespace {

using pattern::kAllTiles;
using pattern::kFullWindow;

constexpr char kHead[] = "version = 1\ntile = [6, 8, 8]\nshift = 5.0\n";  // lines 1 to 3
constexpr char kPhase[] =                                                 // lines 4 to 8 after kHead
    "[[phase]]\nuntil = 1.0\ngranularity = [6, 8, 8]\nwindow = [6, 6, 1]\nquant = \"e4m3\"\n";

std::string error_of(const std::string& text) {
  try {
    parse_toml(text, "s.toml");
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

// One line of the phase replaced: `line` counts from 1 inside kPhase.
std::string with_phase_line(int line, const std::string& replacement) {
  std::string out = kHead, rest = kPhase;
  for (int i = 1; !rest.empty(); ++i) {
    const size_t end = rest.find('\n');
    out += (i == line ? replacement : rest.substr(0, end)) + "\n";
    rest.erase(0, end + 1);
  }
  return out;
}

std::string with_override(const std::string& lines) {  // "[[override]]" is line 9
  return std::string(kHead) + kPhase + "[[override]]\n" + lines;
}

TEST(ParseToml, ReadsEveryKey) {
  const Schedule s = parse_toml(R"(# comment
version = 1
tile = [3, 4, 4]
shift = 3
feed_forward = "e4m3"

[[phase]]
until = 0.25
granularity = [6, 8, 2]
window = [3, "all", 1]
quant = "e4m3"

[[phase]]
until = 1
granularity = [1, 2, 4]
window = "all"
quant = "none"

[[override]]
layers = [0, "2-5"]
heads = ["0-1"]
phases = [2]
pattern = "radial"
granularity = [3, 4, 4]
quant = "none"

[[override]]
window = ["all", "all", 2]
)",
                                "s.toml");
  EXPECT_EQ(s.version, 1);
  EXPECT_EQ(s.tile, (Grid{3, 4, 4}));
  EXPECT_EQ(s.shift, 3.0);
  EXPECT_EQ(s.feed_forward, Quant::kE4m3);
  EXPECT_EQ(parse_toml(to_toml(s), "written"), s);
  ASSERT_EQ(s.phases.size(), 2u);
  EXPECT_EQ(s.phases[0], (Phase{0.25, {6, 8, 2}, {3, kAllTiles, 1}, Quant::kE4m3}));
  EXPECT_EQ(s.phases[1], (Phase{1.0, {1, 2, 4}, kFullWindow, Quant::kNone}));
  ASSERT_EQ(s.overrides.size(), 2u);
  const Override& o = s.overrides[0];
  EXPECT_EQ(o.layers, (std::vector<IndexRange>{{0, 0}, {2, 5}}));
  EXPECT_EQ(o.heads, (std::vector<IndexRange>{{0, 1}}));
  EXPECT_EQ(o.phases, (std::vector<IndexRange>{{1, 1}})) << "the text counts phases from 1";
  EXPECT_EQ(o.pattern, "radial");
  EXPECT_EQ(o.granularity, (Grid{3, 4, 4}));
  EXPECT_EQ(o.window, std::nullopt);
  EXPECT_EQ(o.quant, Quant::kNone);
  EXPECT_EQ(s.overrides[1].window, (Grid{kAllTiles, kAllTiles, 2}));
  EXPECT_TRUE(s.overrides[1].layers.empty());
}

TEST(ParseToml, TileShiftAndFeedForwardHaveDefaults) {
  const Schedule s = parse_toml(std::string("version = 1\n") + kPhase, "s.toml");
  EXPECT_EQ(s.tile, (Grid{6, 8, 8}));
  EXPECT_EQ(s.shift, 5.0);
  EXPECT_EQ(s.feed_forward, Quant::kNone);
}

TEST(ParseToml, TheFeedForwardHasNoInt8) {
  EXPECT_EQ(error_of(std::string("version = 1\nfeed_forward = \"int8\"\n") + kPhase),
            "s.toml:2: feed_forward: expected \"none\" or \"e4m3\", received \"int8\", which attention alone has");
}

TEST(ParseToml, SyntaxErrorsAndRepeatedKeysCarryTheirLine) {
  EXPECT_EQ(error_of("version = \n").rfind("s.toml:1: syntax: ", 0), 0u) << error_of("version = \n");
  const std::string twice = std::string(kHead) + "tile = [1, 1, 1]\n" + kPhase;
  EXPECT_EQ(error_of(twice).rfind("s.toml:4: syntax: ", 0), 0u) << error_of(twice);
  EXPECT_NE(error_of(twice).find("tile"), std::string::npos) << error_of(twice);
  const std::string in_phase = std::string(kHead) + kPhase + "quant = \"none\"\n";
  EXPECT_EQ(error_of(in_phase).rfind("s.toml:9: syntax: ", 0), 0u) << error_of(in_phase);
  EXPECT_EQ(error_of("\xff\xfe").rfind("s.toml:", 0), 0u);
}

TEST(ParseToml, UnknownKeysAreRefusedWithTheKnownOnes) {
  EXPECT_EQ(error_of(std::string(kHead) + "windows = [1, 1, 1]\n" + kPhase),
            "s.toml:4: schedule: unknown key 'windows'; expected one of version, tile, shift, feed_forward, phase, "
            "override");
  EXPECT_EQ(error_of(std::string(kHead) + kPhase + "\n\ngrain = 3\n"),
            "s.toml:11: phase 1: unknown key 'grain'; expected one of until, granularity, window, quant");
  EXPECT_EQ(error_of(with_override("layer = [1]\nquant = \"none\"\n")),
            "s.toml:10: override 1: unknown key 'layer'; expected one of layers, heads, phases, pattern, granularity, "
            "window, quant");
}

TEST(ParseToml, MissingKeysAreNamed) {
  EXPECT_EQ(error_of(kPhase), "s.toml:1: schedule: key 'version' is missing");
  EXPECT_EQ(error_of(kHead), "s.toml: phase: expected at least one [[phase]], received none");
  EXPECT_EQ(error_of(with_phase_line(2, "")), "s.toml:4: phase 1: key 'until' is missing");
  EXPECT_EQ(error_of(with_phase_line(3, "")), "s.toml:4: phase 1: key 'granularity' is missing");
  EXPECT_EQ(error_of(with_phase_line(4, "")), "s.toml:4: phase 1: key 'window' is missing");
  EXPECT_EQ(error_of(with_phase_line(5, "")), "s.toml:4: phase 1: key 'quant' is missing");
}

TEST(ParseToml, WrongTypesSayWhatWasExpectedAndReceived) {
  EXPECT_EQ(error_of(std::string("version = 2\n") + kPhase), "s.toml:1: version: expected 1, received 2");
  EXPECT_EQ(error_of(std::string("version = \"1\"\n") + kPhase), "s.toml:1: version: expected 1, received '1'");
  EXPECT_EQ(error_of(std::string("version = 1\nshift = \"5\"\n") + kPhase),
            "s.toml:2: shift: expected a number, received '5'");
  EXPECT_EQ(error_of(std::string("version = 1\ntile = 6\n") + kPhase),
            "s.toml:2: tile: expected [t, y, x] of integers, received 6");
  EXPECT_EQ(error_of(std::string("version = 1\ntile = [6, 8]\n") + kPhase),
            "s.toml:2: tile: expected [t, y, x] of integers, received 2 values");
  EXPECT_EQ(error_of(std::string("version = 1\ntile = [6, 8.5, 8]\n") + kPhase),
            "s.toml:2: tile: expected [t, y, x] of integers, received 8.5");
  EXPECT_EQ(error_of(std::string("version = 1\ntile = \"all\"\n") + kPhase),
            "s.toml:2: tile: expected [t, y, x] of integers, received 'all'");
  EXPECT_EQ(error_of("version = 1\nphase = 3\n"), "s.toml:2: phase: expected [[phase]] tables, received 3");
  EXPECT_EQ(error_of("version = 1\nphase = [3]\n"), "s.toml:2: phase: expected [[phase]] tables, received 3");
  EXPECT_EQ(error_of(with_phase_line(2, "until = true")),
            "s.toml:5: phase 1 until: expected a number, received a boolean");
  EXPECT_EQ(error_of(with_phase_line(2, "until = 1979-05-27")),
            "s.toml:5: phase 1 until: expected a number, received a date or time");
  EXPECT_EQ(error_of(with_phase_line(4, "window = \"full\"")),
            "s.toml:7: phase 1 window: expected \"all\" or [t, y, x] of integers or \"all\", received 'full'");
  EXPECT_EQ(error_of(with_phase_line(4, "window = [1, [2], 3]")),
            "s.toml:7: phase 1 window: expected \"all\" or [t, y, x] of integers or \"all\", received an array");
  EXPECT_EQ(error_of(with_phase_line(5, "quant = \"fp8\"")),
            "s.toml:8: phase 1 quant: expected \"none\", \"e4m3\" or \"int8\", received 'fp8'");
  EXPECT_EQ(error_of(with_phase_line(5, "quant = {}")),
            "s.toml:8: phase 1 quant: expected \"none\", \"e4m3\" or \"int8\", received a table");
}

TEST(ParseToml, EveryPrecisionIsReadByItsName) {
  for (const Quant quant : kQuants) {
    const std::string text = with_phase_line(5, join("quant = \"", name(quant), '"'));
    EXPECT_EQ(parse_toml(text, "s.toml").phases[0].quant, quant);
  }
  EXPECT_EQ(name(Quant::kInt8), "int8");
}

TEST(ParseToml, ValuesOutOfRangeCarryTheirLine) {
  EXPECT_EQ(error_of(std::string("version = 1\ntile = [6, 0, 8]\n") + kPhase),
            "s.toml:2: tile: expected every extent to be at least 1 token, received [6, 0, 8]");
  EXPECT_EQ(error_of(std::string("version = 1\nshift = 0\n") + kPhase),
            "s.toml:2: shift: expected a positive number, received 0");
  EXPECT_EQ(error_of(std::string("version = 1\nshift = inf\n") + kPhase),
            "s.toml:2: shift: expected a positive number, received inf");
  EXPECT_EQ(error_of(with_phase_line(2, "until = 1.5")),
            "s.toml:5: phase 1 until: expected a fraction of the steps in (0, 1], received 1.5");
  EXPECT_EQ(error_of(with_phase_line(2, "until = nan")),
            "s.toml:5: phase 1 until: expected a fraction of the steps in (0, 1], received nan");
  EXPECT_EQ(error_of(with_phase_line(2, "until = 0.5")),
            "s.toml:5: phase 1 until: expected 1 in the last phase, received 0.5; the phases must cover all steps");
  EXPECT_EQ(error_of(with_phase_line(3, "granularity = [6, 8, 3]")),
            "s.toml:6: phase 1 granularity: granularity x = 3: expected a multiple or a divisor of the tile's x = 8; "
            "the nearest are 2 and 4");
  EXPECT_EQ(error_of(with_phase_line(3, "granularity = [-6, 8, 8]")),
            "s.toml:6: phase 1 granularity: expected every extent to be at least 1 token, received [-6, 8, 8]");
  EXPECT_EQ(error_of(with_phase_line(4, "window = [0, 6, 1]")),
            "s.toml:7: phase 1 window: expected every extent to be at least 1 tile, received [0, 6, 1]");
  EXPECT_EQ(error_of(std::string(kHead) + kPhase + kPhase),
            "s.toml:10: phase 2 until: expected more than the previous phase's 1, received 1");
}

TEST(ParseToml, OverridesAreChecked) {
  EXPECT_EQ(error_of(with_override("layers = [1]\n")),
            "s.toml:9: override 1: changes nothing; expected at least one of pattern, granularity, window, quant");
  EXPECT_EQ(error_of(with_override("layers = []\nquant = \"none\"\n")),
            "s.toml:10: override 1 layers: expected at least one index, received none; leave it out to match all");
  EXPECT_EQ(error_of(with_override("layers = 3\nquant = \"none\"\n")),
            "s.toml:10: override 1 layers: expected an array of indices and \"first-last\" ranges, received 3");
  for (const char* text : {"1", "1-", "-3", "1-2-3", "a-b", "1 - 2", "99999999999999999999-1", ""}) {
    EXPECT_EQ(error_of(with_override(join("layers = [\"", text, "\"]\nquant = \"none\"\n"))),
              join("s.toml:10: override 1 layers: expected an array of indices and \"first-last\" ranges, received '",
                   text, "'"));
  }
  EXPECT_EQ(error_of(with_override("heads = [-1]\nquant = \"none\"\n")),
            "s.toml:10: override 1 heads: expected indices from 0 in ascending order, received -1");
  EXPECT_EQ(error_of(with_override("heads = [\"5-3\"]\nquant = \"none\"\n")),
            "s.toml:10: override 1 heads: expected indices from 0 in ascending order, received '5-3'");
  EXPECT_EQ(error_of(with_override("phases = [0]\nquant = \"none\"\n")),
            "s.toml:10: override 1 phases: expected indices from 1 in ascending order, received 0");
  EXPECT_EQ(error_of(with_override("phases = [2]\nquant = \"none\"\n")),
            "s.toml:10: override 1 phases: expected phases from 1 to 1, received 2");
  EXPECT_EQ(error_of(with_override("pattern = \"spiral\"\n")),
            "s.toml:10: override 1 pattern: expected one of dense, sta, radial, received 'spiral'");
  EXPECT_EQ(error_of(with_override("pattern = 4\n")),
            "s.toml:10: override 1 pattern: expected a pattern's name, received 4");
  EXPECT_EQ(error_of(with_override("pattern = \"dense\"\nwindow = [1, 1, 1]\n")),
            "s.toml:11: override 1 window: has no effect with pattern 'dense'; remove one of the two");
  EXPECT_EQ(error_of(with_override("granularity = [6, 8, 7]\n")),
            "s.toml:10: override 1 granularity: granularity x = 7: expected a multiple or a divisor of the tile's "
            "x = 8; the nearest are 4 and 8");
  EXPECT_EQ(error_of(with_override("window = [1, 1, -1]\n")),
            "s.toml:10: override 1 window: expected every extent to be at least 1 tile, received [1, 1, -1]");
}

TEST(ToToml, TheDefaultScheduleSurvivesTheRoundTrip) {
  const Schedule s = default_schedule();
  EXPECT_EQ(parse_toml(to_toml(s), "round trip"), s);
  EXPECT_EQ(to_toml(parse_toml(to_toml(s), "round trip")), to_toml(s));
}

TEST(ToToml, RandomSchedulesSurviveTheRoundTrip) {
  const unsigned seed = 99;
  std::mt19937 random(seed);
  std::uniform_real_distribution<double> unit(1e-6, 1.0);
  const auto below = [&](int64_t n) { return static_cast<int64_t>(random() % static_cast<uint64_t>(n)); };
  const auto window = [&] {
    const auto axis = [&] { return below(4) == 0 ? kAllTiles : 1 + below(9); };
    return Grid{axis(), axis(), axis()};
  };
  const auto ranges = [&](int64_t count) {
    std::vector<IndexRange> out;
    for (int64_t i = below(4); i > 0; --i) {
      const int64_t first = below(count);
      out.push_back({first, first + below(count - first)});
    }
    return out;
  };
  for (int trial = 0; trial < 300; ++trial) {
    Schedule s;
    s.tile = {1 + below(8), 1 + below(8), 1 + below(8)};
    s.shift = unit(random) * 12.0;
    const auto granularity = [&] {
      return Grid{s.tile.t * (1 + below(4)), below(2) == 0 ? 1 : s.tile.y, s.tile.x * (1 + below(2))};
    };
    std::vector<double> borders;
    for (int64_t i = below(4); i > 0; --i)
      borders.push_back(unit(random) * 0.99);
    std::sort(borders.begin(), borders.end());
    borders.push_back(1.0);
    for (const double until : borders) {
      s.phases.push_back({until, granularity(), window(), kQuants[below(3)]});
    }
    for (int64_t i = below(4); i > 0; --i) {
      Override o;
      o.layers = ranges(30);
      o.heads = ranges(12);
      o.phases = ranges(static_cast<int64_t>(s.phases.size()));
      if (below(2) == 0) o.granularity = granularity();
      if (below(2) == 0) o.quant = kQuants[below(3)];
      if (below(2) == 0) {
        o.window = window();
      } else {
        o.pattern = below(2) == 0 ? "dense" : "radial";
      }
      s.overrides.push_back(o);
    }
    ASSERT_EQ(parse_toml(to_toml(s), "round trip"), s) << "seed " << seed << " trial " << trial << "\n" << to_toml(s);
  }
}

}  // namespace
}  // namespace fpsa::schedule
