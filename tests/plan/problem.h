// Random attention problems for the tests of plans, and what the kernels make of them one by one.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "fpsa/kernel/smoothing.h"
#include "fpsa/numeric/bf16.h"
#include "fpsa/plan/quantize.h"
#include "fpsa/plan/run.h"
#include "fpsa/plan/thread_pool.h"

namespace fpsa::plan::testing_support {

/// Every byte of a result.
struct Result {
  std::vector<uint8_t> out;  // [B,L,H,D] whatever the layout it was written in
  std::vector<float> lse, row_max;

  bool operator==(const Result& other) const {
    return out == other.out && same(lse, other.lse) && same(row_max, other.row_max);
  }

 private:
  static bool same(const std::vector<float>& a, const std::vector<float>& b) {
    // By bits: a NaN would differ from itself.
    return std::ranges::equal(a, b, {}, std::bit_cast<uint32_t, float>, std::bit_cast<uint32_t, float>);
  }
};

enum class Layout { kTokensFirst, kHeadsFirst };

/// Q, K, V [B,L,H,D] (and the same as [B,H,L,D]) of one dtype.
struct Problem {
  Problem(const AttentionPlan& plan, int64_t batch, uint64_t seed) : plan(plan), batch(batch), random(seed) {
    scale = 1.0f / std::sqrt(static_cast<float>(plan.spec().dim));
    q = fill(plan.queries());
    k = fill(plan.keys());
    v = fill(plan.keys());
  }

  int64_t heads() const { return plan.spec().heads; }
  int64_t dim() const { return plan.spec().dim; }
  int64_t element() const { return element_bytes(plan.spec().dtype); }

  Source source(const std::vector<uint8_t>& x, int64_t tokens, Layout layout) const {
    if (layout == Layout::kTokensFirst) return {x.data(), tokens * heads() * dim(), dim(), heads() * dim()};
    return {x.data(), heads() * tokens * dim(), tokens * dim(), dim()};
  }
  /// [B,L,H,D] <-> [B,H,L,D].
  std::vector<uint8_t> turned(const std::vector<uint8_t>& x, int64_t tokens, Layout from) const {
    std::vector<uint8_t> y(x.size());
    const int64_t row = dim() * element();
    for (int64_t b = 0; b < batch; ++b)
      for (int64_t l = 0; l < tokens; ++l)
        for (int64_t h = 0; h < heads(); ++h) {
          const int64_t first = (b * tokens + l) * heads() + h, second = (b * heads() + h) * tokens + l;
          const bool forward = from == Layout::kTokensFirst;
          std::memcpy(y.data() + (forward ? second : first) * row, x.data() + (forward ? first : second) * row,
                      static_cast<size_t>(row));
        }
    return y;
  }

  Result empty_result() const {
    const auto rows = static_cast<size_t>(batch * heads() * plan.queries());
    return {std::vector<uint8_t>(q.size(), 0xa5), std::vector<float>(rows, 7.0f), std::vector<float>(rows, 7.0f)};
  }
  Output output(Result& result, Layout layout) const {
    const Source as = source(result.out, plan.queries(), layout);
    return {{result.out.data(), as.batch, as.head, as.token}, result.lse.data(), result.row_max.data()};
  }

  /// By plan::run.
  Result run(ParallelRunner& runner, Layout layout = Layout::kTokensFirst) const {
    Workspace workspace(plan.workspace_bytes(batch, runner.workers()));
    return run(runner, layout, workspace.bytes());
  }
  Result run(ParallelRunner& runner, Layout layout, std::span<std::byte> workspace) const {
    Result result = empty_result();
    if (layout == Layout::kTokensFirst) {
      plan::run(plan, batch,
                {source(q, plan.queries(), layout), source(k, plan.keys(), layout), source(v, plan.keys(), layout)},
                scale, output(result, layout), workspace, runner);
      return result;
    }
    const auto from = Layout::kTokensFirst;
    const auto tq = turned(q, plan.queries(), from), tk = turned(k, plan.keys(), from);
    const auto tv = turned(v, plan.keys(), from);
    plan::run(plan, batch,
              {source(tq, plan.queries(), layout), source(tk, plan.keys(), layout), source(tv, plan.keys(), layout)},
              scale, output(result, layout), workspace, runner);
    result.out = turned(result.out, plan.queries(), layout);
    return result;
  }

  /// The kernels called head after head, block after block in order of position: no plan, no ring, no threads.
  Result one_by_one() const {
    Result result = empty_result();
    const Output output = this->output(result, Layout::kTokensFirst);
    for (int64_t job = 0; job < batch * heads(); ++job)
      head_alone(job, output);
    return result;
  }

  const AttentionPlan& plan;
  int64_t batch;
  std::mt19937_64 random;
  std::vector<uint8_t> q, k, v;
  float scale;

 private:
  std::vector<uint8_t> fill(int64_t tokens) {
    std::vector<uint8_t> bytes(static_cast<size_t>(batch * tokens * heads() * dim() * element()));
    for (size_t at = 0; at < bytes.size(); at += static_cast<size_t>(element())) {
      const float x = static_cast<float>(static_cast<int32_t>(random())) * 0x1p-30f;  // within +-2
      const uint16_t bf16 = numeric::bf16_from_f32(x);
      std::memcpy(bytes.data() + at, element() == 4 ? static_cast<const void*>(&x) : &bf16,
                  static_cast<size_t>(element()));
    }
    return bytes;
  }

  void head_alone(int64_t job, const Output& output) const {
    const Geometry* geometry = plan.geometry();
    // A dense problem runs in raster order, unless scales go by tiles.
    const bool ordered = geometry && !(geometry->dense() && !plan.quantizer());
    const int32_t* index = ordered ? geometry->order().to_raster().data() : nullptr;
    const auto dtype = plan.spec().dtype;
    auto rows = [&](const std::vector<uint8_t>& x, int64_t tokens) {
      return head_rows(source(x, tokens, Layout::kTokensFirst), dtype, job, heads(), index);
    };
    kernel::AttentionHead head;
    head.queries = plan.queries();
    head.keys = plan.keys();
    head.dim = dim();
    head.softmax_scale = scale;
    head.q = rows(q, plan.queries());
    head.k = rows(k, plan.keys());
    head.v = rows(v, plan.keys());
    std::vector<uint8_t> codes[3];
    std::vector<float> mean, token_scale[2], v_scale(static_cast<size_t>(dim()));
    if (plan.quantizer()) {
      const auto& groups = geometry->groups();
      std::vector<float> group_scale(static_cast<size_t>(groups.count));
      kernel::RowsView* views[] = {&head.q, &head.k, &head.v};
      for (int i = 0; i < 3; ++i) {
        codes[i].resize(static_cast<size_t>(plan.keys() * dim()));
        const kernel::QuantizeInput in{*views[i], dtype, plan.keys(), dim()};
        if (i == 2) {
          plan.quantizer()->kernel.channels(in, codes[i].data(), v_scale.data());
        } else {
          kernel::QuantizeInput tokens = in;
          if (i == 1 && plan.spec().smooth_keys) {
            mean.resize(static_cast<size_t>(dim()));
            kernel::key_means(in, mean.data());
            tokens.mean = mean.data();
          }
          token_scale[i].resize(static_cast<size_t>(plan.keys()));
          plan.quantizer()->kernel.tokens(tokens, groups.of_token.data(), groups.count, codes[i].data(),
                                          group_scale.data(), token_scale[i].data());
        }
        *views[i] = {codes[i].data(), dim(), nullptr};
      }
      head.q_scale = token_scale[0].data();
      head.k_scale = token_scale[1].data();
      head.v_scale = v_scale.data();
    }
    const auto all = kernel::Visibility::dense(plan.queries(), plan.keys());
    const auto& kernel = plan.entry().kernel;
    Workspace packed(kernel.packed_bytes(plan.keys(), dim()) + 64), scratch(kernel.scratch_bytes(plan.keys(), dim()));
    if (plan.keys() > 0) kernel.pack(head, 0, plan.keys(), packed.bytes().data());
    const Target& out = output.out;
    const auto target = head_rows({out.data, out.batch, out.head, out.token}, dtype, job, heads(), index);
    for (const auto& block : (ordered ? geometry->visibility(job % heads()) : all).blocks())
      kernel.run(head, packed.bytes().data(), block,
                 {const_cast<void*>(target.data), target.stride, dtype, index, output.lse + job * plan.queries(),
                  output.row_max + job * plan.queries()},
                 scratch.bytes().data());
    if (mean.empty()) return;
    std::vector<float> shift(static_cast<size_t>(plan.queries()));
    kernel::lse_shift({rows(q, plan.queries()), dtype, plan.queries(), dim()}, mean.data(), scale, shift.data());
    for (int64_t i = 0; i < plan.queries(); ++i)
      output.lse[job * plan.queries() + index[i]] += shift[static_cast<size_t>(i)];
  }
};

inline std::shared_ptr<const Geometry> sliding(const pattern::Grid& grid, const pattern::Grid& tile,
                                               const pattern::Grid& window) {
  return std::make_shared<const Geometry>(grid, tile, tile, pattern::sliding_tile(grid, tile, window));
}

}  // namespace fpsa::plan::testing_support
