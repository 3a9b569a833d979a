#include "fpsa/app/clip_shape.h"

#include <algorithm>

#include "fpsa/app/usage_error.h"

namespace fpsa::app {
namespace {

// The legal values are offset + k * step with k >= (offset ? 0 : 1); the text names those around `value`.
std::string nearest_legal(int64_t value, int64_t step, int64_t offset) {
  const int64_t smallest = offset > 0 ? offset : step;
  const int64_t below = offset + (value - offset) / step * step;
  if (below < smallest) return join(smallest);
  return join(below, " or ", below + step);
}

void check_multiple(const char* flag, int64_t value, int64_t step) {
  FPSA_USAGE_CHECK(value > 0 && value % step == 0, flag, ": expected a multiple of ", step, " for this model, got ",
                   value, "; nearest: ", nearest_legal(value, step, 0));
}

}  // namespace

ClipShape clip_shape(int64_t frames, int64_t height, int64_t width, const models::wan::DitConfig& dit,
                     const models::wan::VaeConfig& vae) {
  // The first latent holds one frame, every further one temporal_factor() of them; Wan's time patch is 1.
  const int64_t time_step = vae.temporal_factor() * dit.patch_size[0];
  const int64_t first = vae.temporal_factor() * (dit.patch_size[0] - 1) + 1;
  FPSA_USAGE_CHECK(frames >= first && (frames - first) % time_step == 0, "--num-frames: expected ", time_step, "k+",
                   first, " for this model, got ", frames, "; nearest: ", nearest_legal(frames, time_step, first));
  check_multiple("--height", height, vae.spatial_factor() * dit.patch_size[1]);
  check_multiple("--width", width, vae.spatial_factor() * dit.patch_size[2]);
  ClipShape shape{frames, height, width, {}, {}};
  const int64_t t = (frames - 1) / vae.temporal_factor() + 1;
  const int64_t h = height / vae.spatial_factor(), w = width / vae.spatial_factor();
  shape.latents = {1, vae.z_dim, t, h, w};
  shape.grid = {t / dit.patch_size[0], h / dit.patch_size[1], w / dit.patch_size[2]};
  const int64_t longest = std::max({shape.grid.t, shape.grid.y, shape.grid.x});
  FPSA_USAGE_CHECK(longest <= dit.rope_max_seq_len, "--num-frames, --height, --width: expected at most ",
                   dit.rope_max_seq_len, " tokens along each axis, got the grid ", shape.grid.t, "x", shape.grid.y, "x",
                   shape.grid.x, "; the model has no positions beyond that");
  return shape;
}

}  // namespace fpsa::app
