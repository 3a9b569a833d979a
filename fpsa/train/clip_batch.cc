#include "fpsa/train/clip_batch.h"

#include <algorithm>
#include <random>
#include <vector>

#include "fpsa/base/check.h"
#include "fpsa/train/objective.h"

namespace fpsa::train {
namespace {

at::Tensor bytes_of(const std::vector<uint8_t>& data, at::IntArrayRef sizes) {
  return at::from_blob(const_cast<uint8_t*>(data.data()), sizes, at::TensorOptions().dtype(at::kByte));
}

int64_t draw(std::mt19937_64& random, int64_t count) {
  return static_cast<int64_t>(random() % static_cast<uint64_t>(count));
}

// Middle of the object's extent along one axis of one frame, or -1 when the frame shows none.
std::array<int64_t, 2> object_centre(const Clip& clip, int64_t frame) {
  int64_t low_y = clip.height, high_y = -1, low_x = clip.width, high_x = -1;
  const uint8_t* row = clip.coverage.data() + frame * clip.height * clip.width;
  for (int64_t y = 0; y < clip.height; ++y, row += clip.width)
    for (int64_t x = 0; x < clip.width; ++x)
      if (row[x] > 127) {
        low_y = std::min(low_y, y), high_y = std::max(high_y, y);
        low_x = std::min(low_x, x), high_x = std::max(high_x, x);
      }
  if (high_y < 0) return {-1, -1};
  return {(low_y + high_y) / 2, (low_x + high_x) / 2};
}

// First position of a window of `size` within `extent` whose middle is near `centre`.
int64_t window_start(std::mt19937_64& random, int64_t centre, int64_t size, int64_t extent) {
  const int64_t jitter = draw(random, size) - size / 2;
  return std::clamp<int64_t>(centre + jitter - size / 2, 0, extent - size);
}

}  // namespace

at::Tensor video_of(const Clip& clip) {
  return bytes_of(clip.rgb, {clip.frames, clip.height, clip.width, 3})
      .permute({3, 0, 1, 2})
      .to(at::kFloat)
      .mul_(2.0 / 255.0)
      .sub_(1.0)
      .contiguous();
}

at::Tensor pixels_of(const at::Tensor& video) {
  return video.to(at::kFloat)
      .add(1.0)
      .mul_(127.5)
      .round_()
      .clamp_(0, 255)
      .to(at::kByte)
      .permute({1, 2, 3, 0})
      .contiguous();
}

at::Tensor crop_batch(const Stage::Crop& crop, uint64_t seed) {
  const auto [frames, height, width] = crop.size;
  std::vector<at::Tensor> out;
  for (int64_t i = 0; i < crop.batch; ++i) {
    std::mt19937_64 random(mix(seed, static_cast<uint64_t>(i)));
    const Clip clip =
        render(random_spec(random(), /*held_out_only=*/false), crop.source[0], crop.source[1], crop.source[2]);
    const int64_t first = draw(random, clip.frames - frames + 1);
    const bool anywhere = draw(random, 8) == 0;
    std::array<int64_t, 2> centre = object_centre(clip, first + draw(random, frames));
    if (anywhere || centre[0] < 0) centre = {draw(random, clip.height), draw(random, clip.width)};
    const int64_t y = window_start(random, centre[0], height, clip.height);
    const int64_t x = window_start(random, centre[1], width, clip.width);
    out.push_back(bytes_of(clip.rgb, {clip.frames, clip.height, clip.width, 3})
                      .narrow(0, first, frames)
                      .narrow(1, y, height)
                      .narrow(2, x, width)
                      .permute({3, 0, 1, 2})
                      .to(at::kFloat));
  }
  return at::stack(out).mul_(2.0 / 255.0).sub_(1.0);
}

at::Tensor token_coverage(const Clip& clip, pattern::Grid grid) {
  FPSA_CHECK(clip.frames == 4 * (grid.t - 1) + 1 && clip.height % grid.y == 0 && clip.width % grid.x == 0, "clip of ",
             clip.frames, "x", clip.height, "x", clip.width, " does not fit the token grid ", grid.t, "x", grid.y, "x",
             grid.x);
  const at::Tensor coverage =
      bytes_of(clip.coverage, {clip.frames, clip.height, clip.width}).to(at::kFloat).mul_(1.0 / 255.0);
  const at::Tensor cells =
      coverage.view({clip.frames, grid.y, clip.height / grid.y, grid.x, clip.width / grid.x}).mean({2, 4});
  at::Tensor out = cells.narrow(0, 0, 1);
  if (grid.t > 1) {
    const at::Tensor later = cells.narrow(0, 1, clip.frames - 1).view({grid.t - 1, 4, grid.y, grid.x}).mean(1);
    out = at::cat({out, later});
  }
  return out.reshape({-1}).clone();
}

}  // namespace fpsa::train
