#include "fpsa/kernel/cuda/tiling/quantize_plan.h"

#include <algorithm>
#include <initializer_list>
#include <numeric>

namespace fpsa::kernel::cuda {
namespace {

int32_t root_of(std::vector<int32_t>& parent, int32_t at) {
  while (parent[static_cast<size_t>(at)] != at)
    at = parent[static_cast<size_t>(at)] = parent[static_cast<size_t>(parent[static_cast<size_t>(at)])];
  return at;
}

// The unit of each quad: quads that share a group, directly or through others, are one unit. Numbered by their first.
std::vector<int32_t> units_of(std::span<const int32_t> group_of_slot, int64_t groups) {
  const size_t quads = group_of_slot.size() / kQuad;
  std::vector<int32_t> parent(quads), quad_of_group(static_cast<size_t>(groups), -1), unit(quads, -1);
  std::iota(parent.begin(), parent.end(), 0);
  for (size_t slot = 0; slot < group_of_slot.size(); ++slot) {
    const auto quad = static_cast<int32_t>(slot / kQuad);
    int32_t& known = quad_of_group[static_cast<size_t>(group_of_slot[slot])];
    if (known < 0) known = quad;
    const int32_t a = root_of(parent, known), b = root_of(parent, quad);
    parent[static_cast<size_t>(std::max(a, b))] = std::min(a, b);
  }
  int32_t count = 0;
  for (size_t quad = 0; quad < quads; ++quad) {
    const auto root = static_cast<size_t>(root_of(parent, static_cast<int32_t>(quad)));
    unit[quad] = root == quad ? count++ : unit[root];
  }
  return unit;
}

}  // namespace

QuantizePlan::QuantizePlan(const SegmentLayout& layout, std::span<const int32_t> to_raster,
                           std::span<const int32_t> group_of_position, int64_t groups, int64_t lag)
    : slots(layout.slots()), groups(groups) {
  std::vector<int32_t> row_of_slot, group_of_slot;
  const auto positions = layout.position_of_slot();
  for (size_t slot = 0; slot < positions.size(); ++slot) {
    const int32_t position = positions[slot], first = positions[slot / kSegment * kSegment];
    row_of_slot.push_back(position < 0 ? -1 : to_raster[static_cast<size_t>(position)]);
    group_of_slot.push_back(group_of_position[static_cast<size_t>(position < 0 ? first : position)]);
  }
  const std::vector<int32_t> unit_of_quad = units_of(group_of_slot, groups);
  const auto quads = static_cast<int64_t>(unit_of_quad.size());
  units = quads > 0 ? *std::ranges::max_element(unit_of_quad) + 1 : 0;

  std::vector<std::vector<int32_t>> of_unit(static_cast<size_t>(units));
  for (int32_t quad = 0; quad < quads; ++quad)
    of_unit[static_cast<size_t>(unit_of_quad[static_cast<size_t>(quad)])].push_back(quad);
  std::vector<int32_t> steps, quads_of_unit;
  size_t coded = 0;          // units whose codes have their steps
  int64_t ahead = 0;         // quads with magnitudes but no codes yet
  const auto add_codes = [&] {
    for (const int32_t quad : of_unit[coded])
      steps.push_back(quantize_step(quad, true));
    ahead -= quads_of_unit[coded++];
  };
  for (const std::vector<int32_t>& unit : of_unit) {
    for (const int32_t quad : unit)
      steps.push_back(quantize_step(quad, false));
    quads_of_unit.push_back(static_cast<int32_t>(unit.size()));
    ahead += quads_of_unit.back();
    while (coded + 1 < quads_of_unit.size() && ahead - quads_of_unit[coded] >= lag)
      add_codes();
  }
  while (coded < of_unit.size())
    add_codes();

  for (const std::span<const int32_t> part :
       std::initializer_list<std::span<const int32_t>>{row_of_slot, group_of_slot, steps, unit_of_quad, quads_of_unit})
    words.insert(words.end(), part.begin(), part.end());
}

}  // namespace fpsa::kernel::cuda
