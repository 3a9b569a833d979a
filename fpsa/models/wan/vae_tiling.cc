// Tiled encode and decode: overlapping spatial tiles, each processed whole in time, blended linearly.
//
// A tile is blended with the finished tile above it, then with the finished tile to its left; only then is it
// cropped to one stride. The neighbours' overlap strips are therefore kept as they were when finished (not read
// back from the result, whose overlap belongs to yet other tiles). Held at any time: the result, one tile, the
// bottom strips of one row of tiles and one right strip.
#include <algorithm>
#include <functional>

#include "fpsa/base/check.h"
#include "fpsa/models/wan/vae.h"

namespace fpsa::models::wan {
namespace {

// One axis of the tiling, in units of the tile function's input and output.
struct Axis {
  int64_t extent, tile, stride;  // input units
  int64_t in_per_out_num, in_per_out_den;

  int64_t out(int64_t in) const { return in * in_per_out_num / in_per_out_den; }
  int64_t blend() const { return out(tile) - out(stride); }
  int64_t count() const { return (extent + stride - 1) / stride; }
};

// b's first rows along `dim` fade from a's last rows into b's own.
void blend_into(const at::Tensor& a, at::Tensor& b, int64_t dim, int64_t extent) {
  extent = std::min({a.size(dim), b.size(dim), extent});
  if (extent <= 0) return;
  std::vector<int64_t> shape(5, 1);
  shape[static_cast<size_t>(dim)] = extent;
  at::Tensor weight = (at::arange(extent, b.options().dtype(at::kDouble)) / extent).to(b.scalar_type()).view(shape);
  at::Tensor head = b.narrow(dim, 0, extent);
  head.copy_(a.narrow(dim, a.size(dim) - extent, extent) * (1 - weight) + head * weight);
}

at::Tensor tail(const at::Tensor& t, int64_t dim, int64_t count) {
  count = std::min(count, t.size(dim));
  return t.narrow(dim, t.size(dim) - count, count).clone();
}

using TileFunction = std::function<at::Tensor(const at::Tensor&)>;

at::Tensor run_tiles(const at::Tensor& input, const Axis& y, const Axis& x, const TileFunction& process) {
  at::Tensor result;
  std::vector<at::Tensor> above;  // bottom strip of each tile of the previous row
  for (int64_t i = 0; i < y.extent; i += y.stride) {
    std::vector<at::Tensor> row;
    at::Tensor left;  // right strip of the previous tile
    for (int64_t j = 0; j < x.extent; j += x.stride) {
      at::Tensor part = input.narrow(3, i, std::min(y.tile, y.extent - i)).narrow(4, j, std::min(x.tile, x.extent - j));
      at::Tensor tile = process(part);
      if (i > 0) blend_into(above[row.size()], tile, 3, y.blend());
      if (j > 0) blend_into(left, tile, 4, x.blend());
      row.push_back(tail(tile, 3, y.blend()));
      left = tail(tile, 4, x.blend());
      if (!result.defined()) {
        result =
            at::empty({tile.size(0), tile.size(1), tile.size(2), y.out(y.extent), x.out(x.extent)}, tile.options());
      }
      int64_t rows = std::min({y.out(y.stride), tile.size(3), y.out(y.extent) - y.out(i)});
      int64_t columns = std::min({x.out(x.stride), tile.size(4), x.out(x.extent) - x.out(j)});
      result.narrow(3, y.out(i), rows)
          .narrow(4, x.out(j), columns)
          .copy_(tile.narrow(3, 0, rows).narrow(4, 0, columns));
    }
    above = std::move(row);
  }
  return result;
}

}  // namespace

bool WanVae::needs_tiles(const VaeTiling& t, int64_t y, int64_t x) const {
  int64_t s = config_.spatial_factor();
  for (auto [tile, stride, axis] :
       {std::tuple{t.tile_y, t.stride_y, "height"}, std::tuple{t.tile_x, t.stride_x, "width"}}) {
    FPSA_CHECK(stride >= s && stride <= tile && tile % s == 0 && stride % s == 0, "VAE tiling: tile and stride along ",
               axis, " must be multiples of ", s, " with ", s, " <= stride <= tile, received tile ", tile,
               " and stride ", stride);
  }
  return y > t.tile_y || x > t.tile_x;
}

at::Tensor WanVae::encode_tiled(const at::Tensor& video, const VaeTiling& t) const {
  int64_t s = config_.spatial_factor();
  return run_tiles(video, Axis{video.size(3), t.tile_y, t.stride_y, 1, s},
                   Axis{video.size(4), t.tile_x, t.stride_x, 1, s},
                   [&](const at::Tensor& part) { return encode_chunked(part); });
}

at::Tensor WanVae::decode_tiled(const at::Tensor& latents, const VaeTiling& t, const DecodeProgress& progress) const {
  int64_t s = config_.spatial_factor(), frames = 1 + (latents.size(2) - 1) * config_.temporal_factor();
  Axis y{latents.size(3), t.tile_y / s, t.stride_y / s, s, 1}, x{latents.size(4), t.tile_x / s, t.stride_x / s, s, 1};
  int64_t done = 0, total = y.count() * x.count() * latents.size(2);
  auto decode_part = [&](const at::Tensor& part) {
    at::Tensor tile;
    int64_t at = 0;
    // Clamping comes after blending, as the blend of clamped tiles would differ.
    at::Tensor z = pointwise(part, post_quant_conv_.weight, post_quant_conv_.bias);
    TimeCache cache;
    for (int64_t k = 0; k < z.size(2); ++k) {
      cache.begin_chunk();
      at::Tensor chunk = decoder_(z.narrow(2, k, 1), &cache);
      if (!tile.defined()) {
        tile = at::empty({chunk.size(0), chunk.size(1), frames, chunk.size(3), chunk.size(4)}, chunk.options());
      }
      tile.narrow(2, at, chunk.size(2)).copy_(chunk);
      at += chunk.size(2);
      if (progress) progress(++done, total);
    }
    return tile;
  };
  return run_tiles(latents, y, x, decode_part).clamp_(-1, 1);
}

}  // namespace fpsa::models::wan
