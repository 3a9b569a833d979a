#include "tests/kernel/cuda/emulated_quantize.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <random>

#include "fpsa/kernel/cuda/quantize_sm90a-inl.h"
#include "fpsa/kernel/cuda/quantize_values_sm90a-inl.h"
#include "fpsa/kernel/cuda/tiling/pack.h"
#include "fpsa/kernel/reference/prepass.h"
#include "fpsa/numeric/bf16.h"

namespace fpsa::kernel::cuda::testing_support {
namespace {

constexpr uint8_t kGuardByte = 0xa5;
constexpr float kGuard = -12345.0f;
constexpr size_t kGap = 64;  // elements of guard before and after an output

// An output between guards, which take() checks; it begins at a multiple of 16 bytes.
template <class T>
struct Guarded {
  Guarded(size_t count, T guard) : count(count), guard(guard), memory(count + 2 * kGap + 16, guard) {
    at = memory.data() + kGap;
    while (reinterpret_cast<uintptr_t>(at) % 16 != 0)
      ++at;
  }
  std::vector<T> take() const {
    for (const T* x = memory.data(); x < memory.data() + memory.size(); ++x)
      if (x < at || x >= at + count) {
        EXPECT_EQ(*x, guard) << "written outside, at " << x - at;
      }
    return {at, at + count};
  }
  size_t count;
  T guard;
  std::vector<T> memory;
  T* at;
};

template <int kDim, bool kNorm, bool kTurn>
emulation::Report run_rows(const QuantizeRowsParams& params, int blocks, int together,
                           const emulation::Options& options) {
  const QuantizeMap map = quantize_map(params.heads, kDim, kNorm, kTurn);
  return emulation::run({.blocks = blocks,
                         .threads = 32 * (quantize_warps(params.heads * kDim) + kOtherQuantizeWarps),
                         .shared_bytes = map.bytes,
                         .shared_base = 1024,
                         .together = together},
                        options, [&] { quantize_rows_sm90a<kDim, kNorm, kTurn>(params); });
}

template <int kDim>
emulation::Report run_rows(const QuantizeRowsParams& params, int blocks, int together,
                           const emulation::Options& options) {
  if (params.weight)
    return params.turns ? run_rows<kDim, true, true>(params, blocks, together, options)
                        : run_rows<kDim, true, false>(params, blocks, together, options);
  return params.turns ? run_rows<kDim, false, true>(params, blocks, together, options)
                      : run_rows<kDim, false, false>(params, blocks, together, options);
}

}  // namespace

EmulatedQuantize::EmulatedQuantize(const QuantizeProblem& problem)
    : problem_(problem),
      order_(problem.grid, problem.tile, problem.granularity),
      layout_(order_.tile_begin()),
      groups_(pattern::token_groups(order_)),
      plan_(layout_, order_.to_raster(), groups_.of_token, groups_.count, problem.lag) {
  std::mt19937_64 random(problem.seed);
  std::normal_distribution<float> normal(0.0f, 1.0f);
  x_.assign(static_cast<size_t>(problem.batch * batch_stride() + 16), 0x7fc0);  // gaps hold NaN
  while (reinterpret_cast<uintptr_t>(x_.data() + start_) % 16 != 0)
    ++start_;
  for (int64_t batch = 0; batch < problem.batch; ++batch)
    for (int64_t row = 0; row < order_.tokens(); ++row)
      for (int64_t head = 0; head < problem.heads; ++head)
        for (int64_t d = 0; d < problem.dim; ++d)
          at(batch, row, head, d) =
              numeric::bf16_from_f32(std::ldexp(normal(random), static_cast<int>(random() % 12) - 8));
  for (int64_t i = 0; i < problem.heads * problem.dim; ++i)
    weight.push_back(1.0f + 0.3f * normal(random));
  for (int64_t i = 0; i < order_.tokens() * problem.dim / 2; ++i) {
    const float angle = 5.0f * normal(random);
    turns.push_back(std::cos(angle));
    turns.push_back(std::sin(angle));
  }
}

std::vector<uint16_t> EmulatedQuantize::sample(int64_t batch) const {
  std::vector<uint16_t> rows;
  for (int64_t row = 0; row < order_.tokens(); ++row)
    for (int64_t head = 0; head < problem_.heads; ++head) {
      const auto from = x_.begin() + offset(batch, row, head);
      rows.insert(rows.end(), from, from + problem_.dim);
    }
  return rows;
}

PrepassInput EmulatedQuantize::input_of(const std::vector<uint16_t>& rows) const {
  PrepassInput in;
  in.x = {rows.data(), problem_.heads * problem_.dim, order_.to_raster().data()};
  in.dtype = Dtype::kBf16;
  in.rows = order_.tokens();
  in.heads = problem_.heads;
  in.dim = problem_.dim;
  return in;
}

QuantizeResult EmulatedQuantize::reference_rows() const {
  const Prepass kernel = kernel::reference::prepass_e4m3();
  const int64_t tokens = order_.tokens(), heads = problem_.heads, dim = problem_.dim, slots = layout_.slots();
  const auto runs = static_cast<int64_t>(groups_.run_group.size());
  QuantizeResult result;
  for (int64_t batch = 0; batch < problem_.batch; ++batch) {
    const std::vector<uint16_t> rows = sample(batch);
    PrepassInput in = input_of(rows);
    in.weight = problem_.norm ? weight.data() : nullptr;
    in.eps = problem_.eps;
    in.turns = problem_.turn ? turns.data() : nullptr;
    std::vector<float> inverse_rms(static_cast<size_t>(tokens)), of_run(static_cast<size_t>(heads)),
        group_scale(static_cast<size_t>(groups_.count * heads)), scale(static_cast<size_t>(heads * tokens));
    const auto of_group = [&](int64_t run) {
      return group_scale.data() + groups_.run_group[static_cast<size_t>(run)] * heads;
    };
    const auto begin = [&](int64_t run) { return groups_.run_begin[static_cast<size_t>(run)]; };
    for (int64_t run = 0; run < runs; ++run) {
      kernel.absmax(in, begin(run), begin(run + 1), inverse_rms.data(), of_run.data());
      for (int64_t head = 0; head < heads; ++head) {
        float& top = of_group(run)[head];
        top = std::bit_cast<float>(std::max(std::bit_cast<uint32_t>(top),
                                            std::bit_cast<uint32_t>(of_run[static_cast<size_t>(head)])));
      }
    }
    for (float& x : group_scale)
      x = kernel.scale(x);
    std::vector<uint8_t> codes(static_cast<size_t>(heads * tokens * dim));
    for (int64_t run = 0; run < runs; ++run)
      kernel.codes(in, begin(run), begin(run + 1), inverse_rms.data(), of_group(run), codes.data(), scale.data());
    std::vector<uint8_t> packed(static_cast<size_t>(slots * dim));
    std::vector<float> scales(static_cast<size_t>(slots));
    for (int64_t head = 0; head < heads; ++head) {
      pack_codes(layout_, codes.data() + head * tokens * dim, dim, packed.data());
      pack_scales(layout_, scale.data() + head * tokens, scales.data());
      result.codes.insert(result.codes.end(), packed.begin(), packed.end());
      result.scale.insert(result.scale.end(), scales.begin(), scales.end());
    }
  }
  return result;
}

QuantizeResult EmulatedQuantize::reference_values() const {
  const Prepass kernel = kernel::reference::prepass_e4m3();
  const int64_t tokens = order_.tokens(), heads = problem_.heads, dim = problem_.dim;
  QuantizeResult result;
  for (int64_t batch = 0; batch < problem_.batch; ++batch) {
    const std::vector<uint16_t> rows = sample(batch);
    PrepassInput in = input_of(rows);
    std::vector<float> scale(static_cast<size_t>(heads * dim));
    kernel.channel_absmax(in, 0, tokens, scale.data());
    for (float& x : scale)
      x = kernel.scale(x);
    std::vector<uint8_t> codes(static_cast<size_t>(heads * tokens * dim)),
        packed(static_cast<size_t>(layout_.slots() * dim));
    kernel.channel_codes(in, 0, tokens, scale.data(), codes.data());
    for (int64_t head = 0; head < heads; ++head) {
      pack_values(layout_, codes.data() + head * tokens * dim, dim, packed.data());
      result.codes.insert(result.codes.end(), packed.begin(), packed.end());
    }
    result.scale.insert(result.scale.end(), scale.begin(), scale.end());
  }
  return result;
}

QuantizeResult EmulatedQuantize::emulated_rows(int blocks, int together, const emulation::Options& options,
                                               emulation::Report* report) const {
  const int64_t rows = problem_.batch * problem_.heads * plan_.slots;
  Guarded<uint8_t> codes(static_cast<size_t>(rows * problem_.dim), kGuardByte);
  Guarded<float> scale(static_cast<size_t>(rows), kGuard), turning(turns.size(), 0.0f);
  std::copy(turns.begin(), turns.end(), turning.at);
  std::vector<uint32_t> magnitudes(static_cast<size_t>(problem_.batch * plan_.groups * problem_.heads)),
      complete(static_cast<size_t>(problem_.batch * plan_.units)), ticket(1);
  std::vector<float> inverse_rms(static_cast<size_t>(problem_.batch * plan_.slots), kGuard);

  QuantizeRowsParams params;
  params.x = {x_.data() + start_, batch_stride(), row_stride(), head_stride()};
  params.weight = problem_.norm ? weight.data() : nullptr;
  params.turns = problem_.turn ? turning.at : nullptr;
  params.eps = problem_.eps;
  params.plan = view_of(plan_.words.data(), plan_.slots);
  params.slots = static_cast<int32_t>(plan_.slots);
  params.groups = static_cast<int32_t>(plan_.groups);
  params.units = static_cast<int32_t>(plan_.units);
  params.batch = static_cast<int32_t>(problem_.batch);
  params.heads = static_cast<int32_t>(problem_.heads);
  params.codes = codes.at;
  params.scale = scale.at;
  params.magnitudes = magnitudes.data();
  params.inverse_rms = inverse_rms.data();
  params.complete = complete.data();
  params.ticket = ticket.data();
  const emulation::Report made = problem_.dim == 128 ? run_rows<128>(params, blocks, together, options)
                                                     : run_rows<64>(params, blocks, together, options);
  if (report) *report = made;
  return {codes.take(), scale.take()};
}

QuantizeResult EmulatedQuantize::emulated_values(int multiprocessors, const emulation::Options& options,
                                                 emulation::Report* report) const {
  const int64_t jobs = problem_.batch * problem_.heads, width = problem_.heads * problem_.dim;
  Guarded<uint8_t> codes(static_cast<size_t>(jobs * plan_.slots * problem_.dim), kGuardByte);
  Guarded<float> scale(static_cast<size_t>(jobs * problem_.dim), kGuard);
  std::vector<uint32_t> magnitudes(scale.count);
  const ValueTiling tiling = value_tiling(width, plan_.slots, problem_.batch, multiprocessors);

  QuantizeValuesParams params;
  params.x = {x_.data() + start_, batch_stride(), row_stride(), head_stride()};
  params.row_of_slot = plan_.words.data();
  params.slots = static_cast<int32_t>(plan_.slots);
  params.tokens = static_cast<int32_t>(order_.tokens());
  params.batch = static_cast<int32_t>(problem_.batch);
  params.heads = static_cast<int32_t>(problem_.heads);
  params.tiling = tiling;
  params.codes = codes.at;
  params.scale = scale.at;
  params.magnitudes = magnitudes.data();
  const auto run = [&](int blocks, const std::function<void()>& kernel) {
    const emulation::Report made = emulation::run({.blocks = blocks, .threads = kValueThreads}, options, kernel);
    if (report) report->calls.insert(report->calls.end(), made.calls.begin(), made.calls.end());
  };
  const int first = tiling.column_chunks * tiling.row_chunks * params.batch;
  const int second = tiling.column_blocks * tiling.segment_chunks * params.batch;
  if (problem_.dim == 128) {
    run(first, [&] { value_magnitudes_sm90a<128>(params); });
    run(second, [&] { value_codes_sm90a<128>(params); });
  } else {
    run(first, [&] { value_magnitudes_sm90a<64>(params); });
    run(second, [&] { value_codes_sm90a<64>(params); });
  }
  return {codes.take(), scale.take()};
}

void expect_same(const QuantizeResult& got, const QuantizeResult& want) {
  ASSERT_EQ(got.scale.size(), want.scale.size());
  for (size_t i = 0; i < want.scale.size(); ++i)
    if (!std::isnan(got.scale[i]) || !std::isnan(want.scale[i])) {
      ASSERT_EQ(std::bit_cast<uint32_t>(got.scale[i]), std::bit_cast<uint32_t>(want.scale[i]))
          << "scale " << i << ": expected " << want.scale[i] << ", got " << got.scale[i];
    }
  ASSERT_EQ(got.codes.size(), want.codes.size());
  for (size_t i = 0; i < want.codes.size(); ++i)
    ASSERT_EQ(got.codes[i], want.codes[i]) << "code " << i;
}

}  // namespace fpsa::kernel::cuda::testing_support
