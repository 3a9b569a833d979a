// Tokens enter only through differences of coordinates, so tile pairs with the same offset and the same extents
// get the same answer. Per axis the pairs fall into few such classes; each combination is decided once.
#include "fpsa/pattern/radial.h"

#include <algorithm>
#include <bit>
#include <map>
#include <tuple>
#include <vector>

#include "fpsa/base/check.h"

namespace fpsa::pattern {
namespace {

// Tile pairs of one axis that look alike: key begin minus query begin, and both lengths.
struct PairClass {
  int64_t offset, query_len, key_len;
  bool key_at_start;  // the key tile holds coordinate 0
};

struct AxisClasses {
  int64_t tiles = 0;
  std::vector<PairClass> classes;
  std::vector<int32_t> of_pair;  // [tiles, tiles], query tile first
};

AxisClasses classify(int64_t n, int64_t tile, bool mark_start) {
  AxisClasses axis;
  axis.tiles = (n - 1) / tile + 1;
  std::map<std::tuple<int64_t, int64_t, int64_t, bool>, int32_t> seen;
  auto length = [&](int64_t i) { return std::min(tile, n - i * tile); };
  for (int64_t q = 0; q < axis.tiles; ++q) {
    for (int64_t k = 0; k < axis.tiles; ++k) {
      const PairClass c{(k - q) * tile, length(q), length(k), mark_start && k == 0};
      const auto [at, added] = seen.try_emplace({c.offset, c.query_len, c.key_len, c.key_at_start},
                                                static_cast<int32_t>(axis.classes.size()));
      if (added) axis.classes.push_back(c);
      axis.of_pair.push_back(at->second);
    }
  }
  return axis;
}

// What a frame distance does: index into the list of bands, or dropped.
struct FrameRule {
  bool keep = true;
  size_t band = 0;
};

struct FrameRules {
  std::vector<int64_t> bands;    // distinct bands in tokens
  std::vector<FrameRule> rules;  // by distance
};

FrameRules frame_rules(const Grid& grid, const RadialOptions& options) {
  const int64_t frame_tokens = grid.y * grid.x;
  const double frame_power = static_cast<double>(int64_t{1} << std::bit_width(static_cast<uint64_t>(frame_tokens)));
  FrameRules out;
  for (int64_t d = 0; d < grid.t; ++d) {
    FrameRule rule;
    int64_t band = frame_tokens;
    if (d > 1) {
      const double full = frame_power / static_cast<double>(int64_t{1} << std::bit_width(static_cast<uint64_t>(d)));
      const double floor_band = static_cast<double>(options.min_band);
      rule.keep = full >= floor_band || d % static_cast<int64_t>(floor_band / full) == 0;
      band = std::min(frame_tokens, static_cast<int64_t>(std::max(full * options.decay, floor_band)));
    }
    const auto at = std::find(out.bands.begin(), out.bands.end(), band);
    rule.band = static_cast<size_t>(at - out.bands.begin());
    if (at == out.bands.end()) out.bands.push_back(band);
    out.rules.push_back(rule);
  }
  return out;
}

// For each key token (y, x) of the pair and each band: how many query tokens of one frame lie within the band.
// Layout [key tokens, bands].
std::vector<int64_t> spatial_counts(const PairClass& y, const PairClass& x, int64_t width,
                                    const std::vector<int64_t>& bands) {
  std::vector<int64_t> counts;
  counts.reserve(static_cast<size_t>(y.key_len * x.key_len) * bands.size());
  for (int64_t ky = 0; ky < y.key_len; ++ky) {
    for (int64_t kx = 0; kx < x.key_len; ++kx) {
      for (const int64_t band : bands) {
        int64_t count = 0;
        for (int64_t qy = 0; qy < y.query_len; ++qy) {
          // Query column qx is within the band if |(key - query) in raster| <= band.
          const int64_t centre = (y.offset + ky - qy) * width + x.offset + kx;
          const int64_t first = std::max<int64_t>(0, centre - band);
          const int64_t last = std::min(x.query_len - 1, centre + band);
          count += std::max<int64_t>(0, last - first + 1);
        }
        counts.push_back(count);
      }
    }
  }
  return counts;
}

// The 60% / one third rule over the key tokens of a tile pair.
bool keep_pair(const PairClass& t, int64_t frame_queries, const FrameRules& frames,
               const std::vector<int64_t>& counts) {
  if (t.key_at_start) return true;
  const size_t bands = frames.bands.size();
  int64_t seen = 0, well_seen = 0;
  std::vector<int64_t> frames_in_band(bands);
  for (int64_t kt = 0; kt < t.key_len; ++kt) {
    std::fill(frames_in_band.begin(), frames_in_band.end(), 0);
    for (int64_t qt = 0; qt < t.query_len; ++qt) {
      const FrameRule& rule = frames.rules[static_cast<size_t>(std::abs(t.offset + kt - qt))];
      if (rule.keep) ++frames_in_band[rule.band];
    }
    for (size_t key = 0; key < counts.size(); key += bands) {
      int64_t count = 0;
      for (size_t b = 0; b < bands; ++b)
        count += frames_in_band[b] * counts[key + b];
      seen += count > 0;
      well_seen += 3 * count > t.query_len * frame_queries;
    }
  }
  return 10 * well_seen > 6 * seen;
}

}  // namespace

BlockMask radial(const Grid& grid, const Grid& tile, const RadialOptions& options) {
  FPSA_CHECK(options.decay > 0.0 && options.decay <= 1.0, "radial decay = ", options.decay, ": expected (0, 1]");
  FPSA_CHECK(options.min_band >= 1, "radial min_band = ", options.min_band, ": expected at least 1 token");
  const Grid n = tiles_per_axis(grid, tile);
  const int64_t tiles = n.volume();
  FPSA_CHECK(tiles <= kMaxMaskEntries / tiles, "radial mask of ", tiles, " x ", tiles, " tiles: more than ",
             kMaxMaskEntries, " tile pairs; use a larger tile");
  const AxisClasses t = classify(grid.t, tile.t, true);
  const AxisClasses y = classify(grid.y, tile.y, false);
  const AxisClasses x = classify(grid.x, tile.x, false);
  const FrameRules frames = frame_rules(grid, options);

  const size_t nt = t.classes.size(), ny = y.classes.size(), nx = x.classes.size();
  std::vector<uint8_t> keep(nt * ny * nx);
  for (size_t j = 0; j < ny; ++j) {
    for (size_t k = 0; k < nx; ++k) {
      const PairClass &cy = y.classes[j], &cx = x.classes[k];
      const std::vector<int64_t> counts = spatial_counts(cy, cx, grid.x, frames.bands);
      for (size_t i = 0; i < nt; ++i) {
        const PairClass& ct = t.classes[i];
        const bool self = ct.offset == 0 && cy.offset == 0 && cx.offset == 0;
        keep[(i * ny + j) * nx + k] = self || keep_pair(ct, cy.query_len * cx.query_len, frames, counts);
      }
    }
  }

  BlockMask mask;
  mask.rows = mask.cols = tiles;
  mask.row_begin.push_back(0);
  for (int64_t q = 0; q < tiles; ++q) {
    const int64_t qt = q / (n.y * n.x), qy = q / n.x % n.y, qx = q % n.x;
    for (int64_t kt = 0; kt < n.t; ++kt) {
      const size_t ct = static_cast<size_t>(t.of_pair[static_cast<size_t>(qt * n.t + kt)]);
      for (int64_t ky = 0; ky < n.y; ++ky) {
        const size_t cty = ct * ny + static_cast<size_t>(y.of_pair[static_cast<size_t>(qy * n.y + ky)]);
        for (int64_t kx = 0; kx < n.x; ++kx) {
          if (keep[cty * nx + static_cast<size_t>(x.of_pair[static_cast<size_t>(qx * n.x + kx)])]) {
            mask.col.push_back(static_cast<int32_t>((kt * n.y + ky) * n.x + kx));
          }
        }
      }
    }
    mask.row_begin.push_back(static_cast<int32_t>(mask.col.size()));
  }
  return mask;
}

}  // namespace fpsa::pattern
