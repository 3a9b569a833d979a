#include "fpsa/plan/prepass.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cassert>

#include "fpsa/kernel/smoothing.h"
#include "fpsa/numeric/bf16.h"

namespace fpsa::plan {
namespace {

// Units for each worker that even out their different lengths.
constexpr int64_t kUnitsPerWorker = 4;
// V goes by rows: in parts with an absmax of their own, and in smaller ones for the codes, which need none.
constexpr int64_t kChannelParts = 64;
constexpr int64_t kChannelRows = 256;
// Keys that are prepared at a time for their mean: 24 kB of BF16 at 1536 channels.
constexpr int64_t kPreparedRows = 8;

// Magnitudes are compared by their bits, as numeric::absmax does, so that NaN and infinity are kept.
void raise(float& top, float absmax) {
  if (std::bit_cast<uint32_t>(absmax) > std::bit_cast<uint32_t>(top)) top = absmax;
}

int64_t mean_parts(int64_t tokens) {
  return (tokens + kernel::kMeanRows - 1) / kernel::kMeanRows;
}

// Where the arrays of a workspace begin, in floats.
struct Layout {
  int64_t key_sums = 0, prepared = 0, mean = 0, inverse_rms, run_absmax, channel_absmax, floats;

  Layout(const Geometry& geometry, int64_t batch, int64_t heads, int64_t dim, bool smooth_keys) {
    const auto runs = static_cast<int64_t>(geometry.groups().run_group.size());
    const int64_t width = heads * dim, parts = smooth_keys ? batch * mean_parts(geometry.tokens()) : 0;
    prepared = key_sums + parts * width * 2;                   // key_sums [B, mean parts, H*D] F64
    mean = prepared + parts * kPreparedRows * width;           // prepared [B, mean parts, kPreparedRows, H*D]
    inverse_rms = mean + (smooth_keys ? batch * width : 0);    // mean [B, H*D]; inverse_rms [B, 2, L], of Q and K
    run_absmax = inverse_rms + batch * 2 * geometry.tokens();  // [B, 2, runs, H]
    channel_absmax = run_absmax + batch * 2 * runs * heads;    // [B, parts, H*D]
    floats = channel_absmax + batch * kChannelParts * width;
  }
};

// Units that all have to be done before others begin.
class Stage {
 public:
  explicit Stage(int64_t units) : left_(units), done_(units == 0) {}
  // The last unit to finish runs `then` before the stage is done.
  template <class Then>
  void finish_one(const Then& then) {
    if (left_.fetch_sub(1, std::memory_order_acq_rel) > 1) return;
    then();
    done_.store(true, std::memory_order_release);
    done_.notify_all();
  }
  void await() const { done_.wait(false, std::memory_order_acquire); }

 private:
  std::atomic<int64_t> left_;
  std::atomic<bool> done_;
};

class Pass {
 public:
  Pass(const kernel::Prepass& kernel, const Geometry& geometry, const Projections& x, const PrepassOutput& output,
       float* workspace, int workers)
      : kernel_(kernel),
        geometry_(geometry),
        x_(x),
        output_(output),
        tokens_(geometry.tokens()),
        width_(x.heads * x.dim),
        groups_(geometry.groups().count),
        runs_(static_cast<int64_t>(geometry.groups().run_group.size())),
        parts_(std::min(kChannelParts, slices())),
        by_group_(x.batch * groups_ >= kUnitsPerWorker * workers || runs_ == groups_),
        mean_parts_(x.smooth_keys ? mean_parts(tokens_) : 0),
        means_(x.batch * mean_parts_),
        channels_(x.batch * parts_),
        absmax_(by_group_ ? 0 : x.batch * runs_) {
    const Layout layout(geometry, x.batch, x.heads, x.dim, x.smooth_keys);
    key_sums_ = reinterpret_cast<double*>(workspace + layout.key_sums);
    prepared_ = workspace + layout.prepared;
    mean_ = workspace + layout.mean;
    inverse_rms_ = workspace + layout.inverse_rms;
    run_absmax_ = workspace + layout.run_absmax;
    channel_absmax_ = workspace + layout.channel_absmax;
  }

  // A unit waits only for units before it, which somebody has already taken, so the wait ends.
  int64_t units() const {
    return x_.batch * (mean_parts_ + parts_ + (by_group_ ? groups_ : runs_) + slices() + (by_group_ ? 0 : runs_));
  }
  void execute(int64_t unit) {
    const int64_t b = unit % x_.batch;
    int64_t i = unit / x_.batch;
    if (i < mean_parts_) return sum_keys(b, i);
    i -= mean_parts_;
    if (i < parts_) return channel_absmax(b, i);
    i -= parts_;
    if (by_group_) {
      if (i < groups_) return whole_group(b, i);
      i -= groups_;
    } else {
      if (i < runs_) return absmax_of_run(b, i);
      i -= runs_;
    }
    if (i < slices()) return channel_codes(b, i);
    codes_of_run(b, i - slices());
  }

 private:
  // Sums of the prepared keys of one part, in the order of kernel::key_means.
  void sum_keys(int64_t b, int64_t part) {
    double* sum = key_sums_ + (b * mean_parts_ + part) * width_;
    void* rows = prepared_ + (b * mean_parts_ + part) * kPreparedRows * width_;
    std::fill_n(sum, width_, 0.0);
    const int64_t end = std::min((part + 1) * kernel::kMeanRows, tokens_);
    for (int64_t begin = part * kernel::kMeanRows; begin < end; begin += kPreparedRows) {
      kernel::PrepassInput in = input(x_.k, b);
      in.x.index += begin;
      in.rows = std::min(kPreparedRows, end - begin);
      kernel_.prepare(in, 0, in.rows, rows);
      if (x_.dtype == kernel::Dtype::kF32)
        add_rows(static_cast<const float*>(rows), in.rows, sum, [](float x) { return x; });
      else
        add_rows(static_cast<const uint16_t*>(rows), in.rows, sum,
                 [](uint16_t x) { return numeric::f32_from_bf16(x); });
    }
    means_.finish_one([&] {
      for (int64_t sample = 0; sample < x_.batch; ++sample)
        average_keys(sample);
    });
  }
  template <class Element, class Value>
  void add_rows(const Element* rows, int64_t count, double* sum, const Value& value) const {
    for (int64_t r = 0; r < count; ++r)
      for (int64_t c = 0; c < width_; ++c)
        sum[c] += value(rows[r * width_ + c]);
  }
  void average_keys(int64_t b) const {
    double* sum = key_sums_ + b * mean_parts_ * width_;
    for (int64_t part = 1; part < mean_parts_; ++part)
      for (int64_t c = 0; c < width_; ++c)
        sum[c] += sum[part * width_ + c];
    for (int64_t c = 0; c < width_; ++c)
      mean_[b * width_ + c] = static_cast<float>(sum[c] / static_cast<double>(tokens_));
  }

  int64_t slices() const { return (tokens_ + kChannelRows - 1) / kChannelRows; }

  void channel_absmax(int64_t b, int64_t part) {
    kernel::PrepassInput in = input(x_.v, b);
    in.x.index = nullptr;  // the order does not matter, and memory likes raster order
    float* top = channel_absmax_ + (b * parts_ + part) * width_;
    std::fill_n(top, width_, 0.0f);
    kernel_.channel_absmax(in, tokens_ * part / parts_, tokens_ * (part + 1) / parts_, top);
    channels_.finish_one([&] {
      for (int64_t sample = 0; sample < x_.batch; ++sample)
        scale_channels(sample);
    });
  }
  void scale_channels(int64_t b) const {
    float* top = channel_absmax_ + b * parts_ * width_;
    for (int64_t part = 1; part < parts_; ++part)
      for (int64_t c = 0; c < width_; ++c)
        raise(top[c], top[part * width_ + c]);
    for (int64_t c = 0; c < width_; ++c)
      output_.v_scale[b * width_ + c] = kernel_.scale(top[c]);
  }
  void channel_codes(int64_t b, int64_t slice) const {
    channels_.await();
    kernel_.channel_codes(input(x_.v, b), slice * kChannelRows, std::min((slice + 1) * kChannelRows, tokens_),
                          output_.v_scale + b * width_, output_.v + b * tokens_ * width_);
  }

  void whole_group(int64_t b, int64_t group) const {
    for (const int part : {0, 1}) {
      for (const int32_t run : geometry_.runs_of(group))
        absmax(b, part, run);
      scale_group(b, part, group);
      for (const int32_t run : geometry_.runs_of(group))
        codes(b, part, run);
    }
  }
  void absmax_of_run(int64_t b, int64_t run) {
    for (const int part : {0, 1})
      absmax(b, part, run);
    absmax_.finish_one([&] {
      for (int64_t sample = 0; sample < x_.batch; ++sample)
        for (int64_t group = 0; group < groups_; ++group)
          for (const int part : {0, 1})
            scale_group(sample, part, group);
    });
  }
  void codes_of_run(int64_t b, int64_t run) const {
    absmax_.await();
    for (const int part : {0, 1})
      codes(b, part, run);
  }

  // Part 0 is Q, 1 K.
  kernel::PrepassInput coded_input(int64_t b, int part) const {
    if (part == 0) return input(x_.q, b);
    kernel::PrepassInput in = input(x_.k, b);
    if (!x_.smooth_keys) return in;
    means_.await();
    in.mean = mean_ + b * width_;
    return in;
  }
  void absmax(int64_t b, int part, int64_t run) const {
    kernel_.absmax(coded_input(b, part), begin_of(run), begin_of(run + 1), inverse_rms(b, part),
                   run_absmax(b, part, run));
  }
  // From the absmax of its runs to the scale of the group, which lies at its first run.
  void scale_group(int64_t b, int part, int64_t group) const {
    const auto runs = geometry_.runs_of(group);
    float* top = run_absmax(b, part, runs.front());
    for (const int32_t run : runs.subspan(1))
      for (int64_t h = 0; h < x_.heads; ++h)
        raise(top[h], run_absmax(b, part, run)[h]);
    for (int64_t h = 0; h < x_.heads; ++h)
      top[h] = kernel_.scale(top[h]);
  }
  void codes(int64_t b, int part, int64_t run) const {
    const int64_t group = geometry_.groups().run_group[static_cast<size_t>(run)];
    kernel_.codes(coded_input(b, part), begin_of(run), begin_of(run + 1), inverse_rms(b, part),
                  run_absmax(b, part, geometry_.runs_of(group).front()),
                  (part == 0 ? output_.q : output_.k) + b * tokens_ * width_,
                  (part == 0 ? output_.q_scale : output_.k_scale) + b * tokens_ * x_.heads);
  }

  kernel::PrepassInput input(const Projection& projection, int64_t b) const {
    const auto* data = static_cast<const std::byte*>(projection.data);
    kernel::PrepassInput in;
    in.x = {data + b * projection.batch * element_bytes(x_.dtype), projection.token,
            geometry_.order().to_raster().data()};
    in.dtype = x_.dtype;
    in.rows = tokens_;
    in.heads = x_.heads;
    in.dim = x_.dim;
    in.weight = projection.weight;
    in.eps = x_.eps;
    in.turns = x_.turns;
    return in;
  }
  float* inverse_rms(int64_t b, int part) const { return inverse_rms_ + (b * 2 + part) * tokens_; }
  float* run_absmax(int64_t b, int part, int64_t run) const {
    return run_absmax_ + ((b * 2 + part) * runs_ + run) * x_.heads;
  }
  int64_t begin_of(int64_t run) const { return geometry_.groups().run_begin[static_cast<size_t>(run)]; }

  const kernel::Prepass& kernel_;
  const Geometry& geometry_;
  const Projections& x_;
  const PrepassOutput& output_;
  const int64_t tokens_, width_, groups_, runs_, parts_;
  const bool by_group_;
  const int64_t mean_parts_;
  Stage means_, channels_, absmax_;
  double* key_sums_ = nullptr;
  float *prepared_ = nullptr, *mean_ = nullptr, *inverse_rms_ = nullptr, *run_absmax_ = nullptr,
        *channel_absmax_ = nullptr;
};

}  // namespace

int64_t prepass_workspace_bytes(const Geometry& geometry, int64_t batch, int64_t heads, int64_t dim, bool smooth_keys) {
  return Layout(geometry, batch, heads, dim, smooth_keys).floats * static_cast<int64_t>(sizeof(float));
}

void prepass(const kernel::Prepass& kernel, const Geometry& geometry, const Projections& projections,
             const PrepassOutput& output, std::span<std::byte> workspace, ParallelRunner& runner) {
  assert(static_cast<int64_t>(workspace.size()) >= prepass_workspace_bytes(geometry, projections.batch,
                                                                           projections.heads, projections.dim,
                                                                           projections.smooth_keys));
  if (projections.batch < 1) return;
  Pass pass(kernel, geometry, projections, output, reinterpret_cast<float*>(workspace.data()), runner.workers());
  for_each(runner, pass.units(), [&](int64_t unit) { pass.execute(unit); });
}

}  // namespace fpsa::plan
