#include "tests/kernel/cuda/emulated_attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <numbers>

#include "fpsa/kernel/cuda/attention_fwd_e4m3_sm90a-inl.h"
#include "fpsa/kernel/cuda/tiling/pack.h"
#include "fpsa/numeric/bf16.h"

namespace fpsa::kernel::cuda::testing_support {
namespace {

constexpr float kGuard = -12345.0f;

float f32_from_f16(uint16_t bits) {
  const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
  const double size = exponent == 0    ? std::ldexp(mantissa, -24)
                      : exponent == 31 ? (mantissa ? NAN : INFINITY)
                                       : std::ldexp(1024 + mantissa, exponent - 25);
  return static_cast<float>(bits & 0x8000 ? -size : size);
}

// A buffer whose start is aligned as a tensor map needs it.
template <class T>
struct Aligned {
  explicit Aligned(size_t count) : memory(count + 64 / sizeof(T)) {
    data = memory.data();
    while (reinterpret_cast<uintptr_t>(data) % 64 != 0)
      ++data;
  }
  std::vector<T> memory;
  T* data;
};

// Output of any type with guard values around and between its rows.
struct Cells {
  Cells(int64_t rows, int64_t dim, OutType type)
      : rows(rows), dim(dim), type(type), bytes(static_cast<size_t>((rows + 2) * pitch() * size())) {
    for (int64_t i = 0; i < (rows + 2) * pitch(); ++i)
      put(i, kGuard);
  }
  int64_t pitch() const { return dim + 8; }
  int64_t size() const { return type == OutType::kF32 ? 4 : 2; }
  void* start() { return bytes.data + pitch() * size(); }
  void put(int64_t i, float x) {
    if (type == OutType::kF32)
      std::memcpy(bytes.data + i * 4, &x, 4);
    else {
      const uint32_t bits = type == OutType::kBf16 ? numeric::bf16_from_f32(x) : ptx::f16x2(x, 0);
      std::memcpy(bytes.data + i * 2, &bits, 2);
    }
  }
  float get(int64_t i) const {
    float x;
    uint16_t bits;
    if (type == OutType::kF32) return std::memcpy(&x, bytes.data + i * 4, 4), x;
    std::memcpy(&bits, bytes.data + i * 2, 2);
    return type == OutType::kBf16 ? numeric::f32_from_bf16(bits) : f32_from_f16(bits);
  }
  // Values without the gaps, which must be untouched.
  std::vector<float> take() const {
    std::vector<float> values;
    const float guard = Cells(0, 8, type).get(0);
    for (int64_t row = -1; row <= rows; ++row)
      for (int64_t d = 0; d < pitch(); ++d) {
        const float x = get((row + 1) * pitch() + d);
        if (row >= 0 && row < rows && d < dim)
          values.push_back(x);
        else
          EXPECT_EQ(x, guard) << "written outside, row " << row << " element " << d;
      }
    return values;
  }
  int64_t rows, dim;
  OutType type;
  Aligned<uint8_t> bytes;
};

template <AttentionTiling kTiling>
emulation::Report run_tiling(const AttentionFwdParams& params, int blocks, const emulation::Options& options) {
  constexpr SharedMap kMap = shared_map(kTiling);
  return emulation::run(
      {.blocks = blocks, .threads = kThreads, .registers = kRegistersAtStart, .shared_bytes = kMap.bytes}, options,
      [&] { attention_fwd_e4m3_sm90a<kTiling>(params); });
}

constexpr AttentionTiling folding(AttentionTiling tiling, int every) {
  tiling.fold_every = every;
  return tiling;
}

template <int kDim>
emulation::Report run_dim(const AttentionFwdParams& params, bool columns, const EmulatedAttention::RunOptions& run,
                          const emulation::Options& options) {
  if (run.fold_every == 3 && !run.exact) {
    return columns ? run_tiling<folding(choose_tiling(kDim, true, false), 3)>(params, run.blocks, options)
                   : run_tiling<folding(choose_tiling(kDim, false, false), 3)>(params, run.blocks, options);
  }
  EXPECT_EQ(run.fold_every, 1) << "not instantiated";
  if (run.exact) {
    return columns ? run_tiling<choose_tiling(kDim, true, true)>(params, run.blocks, options)
                   : run_tiling<choose_tiling(kDim, false, true)>(params, run.blocks, options);
  }
  return columns ? run_tiling<choose_tiling(kDim, true, false)>(params, run.blocks, options)
                 : run_tiling<choose_tiling(kDim, false, false)>(params, run.blocks, options);
}

}  // namespace

EmulatedResult EmulatedAttention::emulated(const RunOptions& run, const emulation::Options& options,
                                           emulation::Report* report) const {
  const int64_t jobs = problem().batch * problem().heads, rows = order().tokens(), dim = problem().dim;
  const int64_t slots = layout().slots(), segments = layout().segments();
  Aligned<uint8_t> q_packed(static_cast<size_t>(jobs * slots * dim)), k_packed(static_cast<size_t>(jobs * slots * dim)),
      v_packed(static_cast<size_t>(jobs * slots * dim));
  Aligned<float> q_scales(static_cast<size_t>(jobs * slots)), k_scales(static_cast<size_t>(jobs * slots));
  std::vector<int32_t> row_of_slot(static_cast<size_t>(slots));
  rows_of_slots(layout(), order().to_raster(), row_of_slot.data());
  for (int64_t job = 0; job < jobs; ++job) {
    pack_codes(layout(), q.data() + job * rows * dim, dim, q_packed.data + job * slots * dim);
    pack_codes(layout(), k.data() + job * rows * dim, dim, k_packed.data + job * slots * dim);
    pack_values(layout(), v.data() + job * rows * dim, dim, v_packed.data + job * slots * dim);
    pack_scales(layout(), q_scale.data() + job * rows, q_scales.data + job * slots);
    pack_scales(layout(), k_scale.data() + job * rows, k_scales.data + job * slots);
  }
  Cells out(jobs * rows, dim, run.type);
  EmulatedResult result;
  result.lse.assign(static_cast<size_t>(jobs * rows), kGuard);
  result.row_max = result.lse;

  const AttentionMaps maps =
      attention_maps(q_packed.data, k_packed.data, v_packed.data, static_cast<int>(dim), jobs, segments, segments);
  AttentionFwdParams params;
  params.q = {maps.q};
  params.k = {maps.k};
  params.v = {maps.v};
  params.q_scale = q_scales.data;
  params.k_scale = k_scales.data;
  params.v_scale = v_scale.data();
  params.items = work().items.data();
  params.entries = work().entries.data();
  params.row_of_slot = row_of_slot.data();
  params.item_count = static_cast<int32_t>(work().items.size());
  params.batch = static_cast<int32_t>(problem().batch);
  params.heads = static_cast<int32_t>(problem().heads);
  params.query_segments = params.key_segments = static_cast<int32_t>(segments);
  params.queries = rows;
  params.shared_mask = work().shared;
  params.log2_factor = static_cast<float>(std::numbers::log2e) * head(0).softmax_scale;
  params.out = {out.start(), run.type, problem().heads * rows * out.pitch(), rows * out.pitch(), out.pitch()};
  params.lse = result.lse.data();
  params.row_max = result.row_max.data();
  const emulation::Report made = dim == 128 ? run_dim<128>(params, column_scales(), run, options)
                                            : run_dim<64>(params, column_scales(), run, options);
  if (report) *report = made;
  (run.exact ? result.exact : result.out) = out.take();
  return result;
}

}  // namespace fpsa::kernel::cuda::testing_support
