#include <charconv>
#include <sstream>

#include "fpsa/base/check.h"
#include "fpsa/schedule/schedule.h"

namespace fpsa::schedule {
namespace {

// The shortest text that reads back as the same double, with a point so that TOML takes it for a float.
std::string number(double value) {
  char buffer[32];
  const auto end = std::to_chars(buffer, buffer + sizeof(buffer), value).ptr;
  std::string text(buffer, end);
  if (text.find_first_of(".e") == std::string::npos) text += ".0";
  return text;
}

std::string triple(const Grid& g) {
  return join("[", g.t, ", ", g.y, ", ", g.x, "]");
}

std::string window(const Grid& g) {
  if (g == pattern::kFullWindow) return "\"all\"";
  const auto axis = [](int64_t w) { return w == pattern::kAllTiles ? std::string("\"all\"") : std::to_string(w); };
  return join("[", axis(g.t), ", ", axis(g.y), ", ", axis(g.x), "]");
}

void write_ranges(std::ostream& out, std::string_view key, const std::vector<IndexRange>& ranges, int64_t base) {
  if (ranges.empty()) return;
  out << key << " = [";
  for (size_t i = 0; i < ranges.size(); ++i) {
    const int64_t first = ranges[i].first + base, last = ranges[i].last + base;
    out << (i == 0 ? "" : ", ");
    if (first == last) {
      out << first;
    } else {
      out << '"' << first << '-' << last << '"';
    }
  }
  out << "]\n";
}

}  // namespace

std::string to_toml(const Schedule& schedule) {
  validate(schedule);
  std::ostringstream out;
  out << "version = " << schedule.version << "\n";
  out << "tile = " << triple(schedule.tile) << "  # tokens, [t, y, x]\n";
  out << "shift = " << number(schedule.shift) << "\n";
  if (schedule.feed_forward != Quant::kNone) out << "feed_forward = \"" << name(schedule.feed_forward) << "\"\n";
  for (const Phase& phase : schedule.phases) {
    out << "\n[[phase]]\n";
    out << "until = " << number(phase.until) << "  # fraction of the steps\n";
    out << "granularity = " << triple(phase.granularity) << "  # tokens\n";
    out << "window = " << window(phase.window) << "  # tiles\n";
    out << "quant = \"" << name(phase.quant) << "\"\n";
  }
  for (const Override& o : schedule.overrides) {
    out << "\n[[override]]\n";
    write_ranges(out, "layers", o.layers, 0);
    write_ranges(out, "heads", o.heads, 0);
    write_ranges(out, "phases", o.phases, 1);
    if (o.pattern) out << "pattern = \"" << *o.pattern << "\"\n";
    if (o.granularity) out << "granularity = " << triple(*o.granularity) << "\n";
    if (o.window) out << "window = " << window(*o.window) << "\n";
    if (o.quant) out << "quant = \"" << name(*o.quant) << "\"\n";
  }
  return out.str();
}

}  // namespace fpsa::schedule
