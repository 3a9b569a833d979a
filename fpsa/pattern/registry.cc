#include "fpsa/pattern/registry.h"

#include <algorithm>

#include "fpsa/base/check.h"

namespace fpsa::pattern {
namespace {

constexpr PatternEntry kPatterns[] = {
    {"dense", "every tile sees every tile",
     [](const Grid& grid, const Grid& tile, const PatternParams&) { return dense(grid, tile); }},
    {"sta", "sliding tiles: a window of tiles around the query tile",
     [](const Grid& grid, const Grid& tile, const PatternParams& params) {
       return sliding_tile(grid, tile, params.window);
     }},
    {"radial", "a neighbourhood that shrinks with the distance in time",
     [](const Grid& grid, const Grid& tile, const PatternParams& params) { return radial(grid, tile, params.radial); }},
};

const PatternEntry* find(std::string_view name) {
  const auto at = std::ranges::find(kPatterns, name, &PatternEntry::name);
  return at == std::ranges::end(kPatterns) ? nullptr : at;
}

}  // namespace

std::span<const PatternEntry> patterns() {
  return kPatterns;
}

bool is_pattern(std::string_view name) {
  return find(name) != nullptr;
}

std::string pattern_names() {
  std::string names;
  for (const PatternEntry& entry : kPatterns)
    names += join(names.empty() ? "" : ", ", entry.name);
  return names;
}

BlockMask make_pattern(std::string_view name, const Grid& grid, const Grid& tile, const PatternParams& params) {
  const PatternEntry* entry = find(name);
  FPSA_CHECK(entry != nullptr, "pattern '", name, "': expected one of ", pattern_names());
  return entry->make(grid, tile, params);
}

}  // namespace fpsa::pattern
