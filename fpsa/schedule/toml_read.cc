// Reads a schedule with toml++. Every value remembers its line, so that a rule broken later (violation.h) is
// reported where it stands in the text.
#include <toml++/toml.h>
#include <algorithm>
#include <charconv>
#include <initializer_list>
#include <map>

#include "fpsa/base/check.h"
#include "fpsa/schedule/candidates.h"
#include "fpsa/schedule/schedule.h"
#include "fpsa/schedule/violation.h"

namespace fpsa::schedule {
namespace {

// "an integer", "a string"...: what a message says it received.
std::string describe(const toml::node& node) {
  if (const auto* s = node.as_string()) return join("'", s->get(), "'");
  if (const auto* i = node.as_integer()) return join(i->get());
  if (const auto* f = node.as_floating_point()) return join(f->get());
  if (node.is_array()) return "an array";
  if (node.is_table()) return "a table";
  if (node.is_boolean()) return "a boolean";
  return "a date or time";
}

class Reader {
 public:
  /// `document` is what messages call the whole text.
  Reader(std::string_view origin, std::string_view document) : origin_(origin), document_(document) {}

  Schedule read(const toml::table& root) {
    Schedule s;
    allow_only(root, "", {"version", "tile", "shift", "feed_forward", "phase", "override"});
    s.version = version(require(root, "", "version"));
    if (const auto* node = get(root, "", "tile")) s.tile = triple(*node, "tile");
    if (const auto* node = get(root, "", "shift")) s.shift = number(*node, "shift");
    if (const auto* node = get(root, "", "feed_forward")) s.feed_forward = quant(*node, "feed_forward");
    for (const toml::table* table : tables(root, "phase")) {
      const std::string where = join("phase ", s.phases.size() + 1);
      lines_[where] = line(*table);
      s.phases.push_back(phase(*table, where));
    }
    for (const toml::table* table : tables(root, "override")) {
      const std::string where = join("override ", s.overrides.size() + 1);
      lines_[where] = line(*table);
      s.overrides.push_back(override_table(*table, where));
    }
    if (const auto found = find_violation(s)) fail(lines_[found->key], found->key, found->message);
    return s;
  }

  CandidateList read_candidates(const toml::table& root) {
    CandidateList list{Schedule().tile, {}};
    allow_only(root, "", {"tile", "candidate"});
    if (const auto* node = get(root, "", "tile")) list.tile = triple(*node, "tile");
    for (const toml::table* table : tables(root, "candidate")) {
      const std::string where = join("candidate ", list.candidates.size() + 1);
      lines_[where] = line(*table);
      allow_only(*table, where, {"granularity", "window", "quant"});
      Candidate c;
      c.granularity = triple(require(*table, where, "granularity"), where + " granularity");
      c.window = triple(require(*table, where, "window"), where + " window", true);
      c.quant = quant(require(*table, where, "quant"), where + " quant");
      list.candidates.push_back(c);
    }
    if (const auto found = find_violation(list)) fail(lines_[found->key], found->key, found->message);
    return list;
  }

  [[noreturn]] void fail(uint32_t line, const std::string& key, const std::string& message) const {
    // A violation about something absent has no line of its own.
    throw Error(line == 0 ? join(origin_, ": ", key, ": ", message)
                          : join(origin_, ":", line, ": ", key, ": ", message));
  }

 private:
  static uint32_t line(const toml::node& node) { return node.source().begin.line; }

  [[noreturn]] void wrong(const toml::node& node, const std::string& key, const std::string& expected) const {
    fail(line(node), key, join("expected ", expected, ", received ", describe(node)));
  }

  void allow_only(const toml::table& table, const std::string& where, std::initializer_list<std::string_view> keys) {
    for (const auto& [key, node] : table) {
      if (std::find(keys.begin(), keys.end(), key.str()) != keys.end()) continue;
      std::string known;
      for (std::string_view k : keys)
        known += join(known.empty() ? "" : ", ", k);
      fail(key.source().begin.line, where.empty() ? document_ : where,
           join("unknown key '", key.str(), "'; expected one of ", known));
    }
  }

  const toml::node* get(const toml::table& table, const std::string& where, std::string_view key) {
    const toml::node* node = table.get(key);
    if (node != nullptr) lines_[where.empty() ? std::string(key) : join(where, " ", key)] = line(*node);
    return node;
  }

  const toml::node& require(const toml::table& table, const std::string& where, std::string_view key) {
    const toml::node* node = get(table, where, key);
    if (node == nullptr) fail(line(table), where.empty() ? document_ : where, join("key '", key, "' is missing"));
    return *node;
  }

  std::vector<const toml::table*> tables(const toml::table& root, const std::string& key) {
    std::vector<const toml::table*> out;
    const toml::node* node = get(root, "", key);
    if (node == nullptr) return out;
    const toml::array* array = node->as_array();
    if (array == nullptr) wrong(*node, key, join("[[", key, "]] tables"));
    for (const toml::node& element : *array) {
      if (!element.is_table()) wrong(element, key, join("[[", key, "]] tables"));
      out.push_back(element.as_table());
    }
    return out;
  }

  int version(const toml::node& node) {
    const auto* value = node.as_integer();
    if (value == nullptr || value->get() != kVersion) wrong(node, "version", join(kVersion));
    return kVersion;
  }

  double number(const toml::node& node, const std::string& key) {
    if (const auto* f = node.as_floating_point()) return f->get();
    if (const auto* i = node.as_integer()) return static_cast<double>(i->get());
    wrong(node, key, "a number");
  }

  // Three extents; with `all`, "all" is allowed for one axis or for the whole.
  Grid triple(const toml::node& node, const std::string& key, bool all = false) {
    const std::string expected = all ? "\"all\" or [t, y, x] of integers or \"all\"" : "[t, y, x] of integers";
    const auto is_all = [&](const toml::node& n) { return all && n.is_string() && n.as_string()->get() == "all"; };
    if (is_all(node)) return pattern::kFullWindow;
    const toml::array* array = node.as_array();
    if (array == nullptr) wrong(node, key, expected);
    if (array->size() != 3) fail(line(node), key, join("expected ", expected, ", received ", array->size(), " values"));
    int64_t values[3];
    for (size_t i = 0; i < 3; ++i) {
      const toml::node& element = *array->get(i);
      if (is_all(element)) {
        values[i] = pattern::kAllTiles;
      } else if (const auto* integer = element.as_integer()) {
        values[i] = integer->get();
      } else {
        wrong(element, key, expected);
      }
    }
    return {values[0], values[1], values[2]};
  }

  Quant quant(const toml::node& node, const std::string& key) {
    const auto* text = node.as_string();
    for (const Quant q : kQuants) {
      if (text != nullptr && text->get() == name(q)) return q;
    }
    wrong(node, key, "\"none\", \"e4m3\" or \"int8\"");
  }

  // Indices and "first-last" ranges; `base` is the number of the first index in the text.
  std::vector<IndexRange> ranges(const toml::node& node, const std::string& key, int64_t base) {
    const std::string expected = "an array of indices and \"first-last\" ranges";
    const toml::array* array = node.as_array();
    if (array == nullptr) wrong(node, key, expected);
    if (array->empty()) fail(line(node), key, "expected at least one index, received none; leave it out to match all");
    std::vector<IndexRange> out;
    for (const toml::node& element : *array) {
      IndexRange range;
      if (const auto* integer = element.as_integer()) {
        range = {integer->get(), integer->get()};
      } else if (const auto* text = element.as_string(); text == nullptr || !parse_range(text->get(), range)) {
        wrong(element, key, expected);
      }
      if (range.first < base || range.last < range.first) {
        wrong(element, key, join("indices from ", base, " in ascending order"));
      }
      out.push_back({range.first - base, range.last - base});
    }
    return out;
  }

  static bool parse_range(std::string_view text, IndexRange& range) {
    const char* const end = text.data() + text.size();
    const auto first = std::from_chars(text.data(), end, range.first);
    if (first.ec != std::errc() || first.ptr == end || *first.ptr != '-') return false;
    const auto last = std::from_chars(first.ptr + 1, end, range.last);
    return last.ec == std::errc() && last.ptr == end;
  }

  Phase phase(const toml::table& table, const std::string& where) {
    allow_only(table, where, {"until", "granularity", "window", "quant"});
    Phase p;
    p.until = number(require(table, where, "until"), where + " until");
    p.granularity = triple(require(table, where, "granularity"), where + " granularity");
    p.window = triple(require(table, where, "window"), where + " window", true);
    p.quant = quant(require(table, where, "quant"), where + " quant");
    return p;
  }

  Override override_table(const toml::table& table, const std::string& where) {
    allow_only(table, where, {"layers", "heads", "phases", "pattern", "granularity", "window", "quant"});
    Override o;
    if (const auto* node = get(table, where, "layers")) o.layers = ranges(*node, where + " layers", 0);
    if (const auto* node = get(table, where, "heads")) o.heads = ranges(*node, where + " heads", 0);
    if (const auto* node = get(table, where, "phases")) o.phases = ranges(*node, where + " phases", 1);
    if (const auto* node = get(table, where, "pattern")) {
      if (!node->is_string()) wrong(*node, where + " pattern", "a pattern's name");
      o.pattern = node->as_string()->get();
    }
    if (const auto* node = get(table, where, "granularity")) o.granularity = triple(*node, where + " granularity");
    if (const auto* node = get(table, where, "window")) o.window = triple(*node, where + " window", true);
    if (const auto* node = get(table, where, "quant")) o.quant = quant(*node, where + " quant");
    return o;
  }

  std::string origin_, document_;
  std::map<std::string, uint32_t> lines_;  // by key path, as in Violation
};

template <class Result>
Result parse(std::string_view text, Reader reader, std::string_view origin,
             Result (Reader::*read)(const toml::table&)) {
  try {
    return (reader.*read)(toml::parse(text, origin));
  } catch (const toml::parse_error& error) {
    reader.fail(error.source().begin.line, "syntax", std::string(error.description()));
  }
}

}  // namespace

Schedule parse_toml(std::string_view text, std::string_view origin) {
  return parse(text, Reader(origin, "schedule"), origin, &Reader::read);
}

CandidateList parse_candidates(std::string_view text, std::string_view origin) {
  return parse(text, Reader(origin, "candidates"), origin, &Reader::read_candidates);
}

}  // namespace fpsa::schedule
