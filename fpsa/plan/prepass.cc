#include "fpsa/plan/prepass.h"

#include <algorithm>
#include <bit>
#include <cassert>

namespace fpsa::plan {
namespace {

// Units for each worker that even out their different lengths.
constexpr int64_t kUnitsPerWorker = 4;
// V goes by rows: parts with an absmax of their own, and smaller ones for the codes, that need none.
constexpr int64_t kChannelParts = 64;
constexpr int64_t kChannelRows = 256;

// Magnitudes are compared by their bits, as numeric::absmax does, so that NaN and infinity are kept.
void raise(float& top, float absmax) {
  if (std::bit_cast<uint32_t>(absmax) > std::bit_cast<uint32_t>(top)) top = absmax;
}

struct Layout {
  int64_t inverse_rms, run_absmax, channel_absmax, floats;

  Layout(const Geometry& geometry, int64_t heads, int64_t dim) {
    inverse_rms = 0;                                           // [2, L], of Q and K
    run_absmax = inverse_rms + 2 * geometry.tokens();          // [2, runs, heads]
    channel_absmax = run_absmax + 2 * runs(geometry) * heads;  // [parts, heads*dim]
    floats = channel_absmax + kChannelParts * heads * dim;
  }
  static int64_t runs(const Geometry& geometry) { return static_cast<int64_t>(geometry.groups().run_group.size()); }
};

class Pass {
 public:
  Pass(const kernel::Prepass& kernel, const Geometry& geometry, const Projections& x, const PrepassOutput& output,
       float* workspace, ParallelRunner& runner)
      : kernel_(kernel), geometry_(geometry), x_(x), output_(output), runner_(runner) {
    const Layout layout(geometry, x.heads, x.dim);
    runs_ = Layout::runs(geometry);
    inverse_rms_ = workspace + layout.inverse_rms;
    run_absmax_ = workspace + layout.run_absmax;
    channel_absmax_ = workspace + layout.channel_absmax;
  }

  void tokens() {
    const int64_t groups = geometry_.groups().count;
    if (groups >= kUnitsPerWorker * runner_.workers() || runs_ == groups) {
      for_each(runner_, groups, [&](int64_t group) {
        for (int part = 0; part < 2; ++part) {
          for (const int32_t run : geometry_.runs_of(group))
            absmax(part, run);
          scale_group(part, group);
          for (const int32_t run : geometry_.runs_of(group))
            codes(part, run);
        }
      });
      return;
    }
    for_each(runner_, 2 * runs_, [&](int64_t unit) { absmax(static_cast<int>(unit % 2), unit / 2); });
    for (int64_t group = 0; group < groups; ++group)
      for (int part = 0; part < 2; ++part)
        scale_group(part, group);
    for_each(runner_, 2 * runs_, [&](int64_t unit) { codes(static_cast<int>(unit % 2), unit / 2); });
  }

  void channels() {
    const int64_t tokens = geometry_.tokens(), width = x_.heads * x_.dim;
    const int64_t parts = std::min(kChannelParts, (tokens + kChannelRows - 1) / kChannelRows);
    kernel::PrepassInput raster = input(x_.v), tiled = raster;
    raster.x.index = nullptr;  // the order does not matter, and memory likes this one
    for_each(runner_, parts, [&](int64_t part) {
      float* top = channel_absmax_ + part * width;
      std::fill_n(top, width, 0.0f);
      kernel_.channel_absmax(raster, tokens * part / parts, tokens * (part + 1) / parts, top);
    });
    for (int64_t c = 0; c < width; ++c) {
      for (int64_t part = 1; part < parts; ++part)
        raise(channel_absmax_[c], channel_absmax_[part * width + c]);
      output_.v_scale[c] = kernel_.scale(channel_absmax_[c]);
    }
    for_each(runner_, (tokens + kChannelRows - 1) / kChannelRows, [&](int64_t i) {
      kernel_.channel_codes(tiled, i * kChannelRows, std::min((i + 1) * kChannelRows, tokens), output_.v_scale,
                            output_.v);
    });
  }

 private:
  kernel::PrepassInput input(const Projection& projection) const {
    kernel::PrepassInput in;
    in.x = {projection.data, projection.token, geometry_.order().to_raster().data()};
    in.dtype = x_.dtype;
    in.rows = geometry_.tokens();
    in.heads = x_.heads;
    in.dim = x_.dim;
    in.weight = projection.weight;
    in.eps = x_.eps;
    in.turns = x_.turns;
    return in;
  }
  // Part 0 is Q, 1 K.
  kernel::PrepassInput token_input(int part) const { return input(part == 0 ? x_.q : x_.k); }
  float* inverse_rms(int part) const { return inverse_rms_ + part * geometry_.tokens(); }
  float* run_absmax(int part, int64_t run) const { return run_absmax_ + (part * runs_ + run) * x_.heads; }
  int64_t begin_of(int64_t run) const { return geometry_.groups().run_begin[static_cast<size_t>(run)]; }

  void absmax(int part, int64_t run) const {
    kernel_.absmax(token_input(part), begin_of(run), begin_of(run + 1), inverse_rms(part), run_absmax(part, run));
  }
  // From the absmax of its runs to the scale of the group, which lies at its first run.
  void scale_group(int part, int64_t group) const {
    const auto runs = geometry_.runs_of(group);
    float* top = run_absmax(part, runs.front());
    for (int64_t h = 0; h < x_.heads; ++h) {
      for (const int32_t run : runs.subspan(1))
        raise(top[h], run_absmax(part, run)[h]);
      top[h] = kernel_.scale(top[h]);
    }
  }
  void codes(int part, int64_t run) const {
    const int64_t group = geometry_.groups().run_group[static_cast<size_t>(run)];
    kernel_.codes(token_input(part), begin_of(run), begin_of(run + 1), inverse_rms(part),
                  run_absmax(part, geometry_.runs_of(group).front()), part == 0 ? output_.q : output_.k,
                  part == 0 ? output_.q_scale : output_.k_scale);
  }

  const kernel::Prepass& kernel_;
  const Geometry& geometry_;
  const Projections& x_;
  const PrepassOutput& output_;
  ParallelRunner& runner_;
  int64_t runs_ = 0;
  float *inverse_rms_ = nullptr, *run_absmax_ = nullptr, *channel_absmax_ = nullptr;
};

}  // namespace

int64_t prepass_workspace_bytes(const Geometry& geometry, int64_t heads, int64_t dim) {
  return Layout(geometry, heads, dim).floats * static_cast<int64_t>(sizeof(float));
}

void prepass(const kernel::Prepass& kernel, const Geometry& geometry, const Projections& projections,
             const PrepassOutput& output, std::span<std::byte> workspace, ParallelRunner& runner) {
  assert(static_cast<int64_t>(workspace.size()) >=
         prepass_workspace_bytes(geometry, projections.heads, projections.dim));
  Pass pass(kernel, geometry, projections, output, reinterpret_cast<float*>(workspace.data()), runner);
  pass.channels();
  pass.tokens();
}

}  // namespace fpsa::plan
