// The BF16 forward and backward for sm_90a, emulated, where queries and keys are of different numbers: the lists and
// layouts that ops/cuda_plan.h makes for dense attention, in smaller tiles.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include "fpsa/base/check.h"
#include "fpsa/kernel/cuda/attention_bwd_bf16_sm90a-inl.h"
#include "fpsa/kernel/cuda/attention_bwd_prepare-inl.h"
#include "fpsa/kernel/cuda/attention_fwd_bf16_sm90a-inl.h"
#include "fpsa/kernel/cuda/emulation/run.h"
#include "fpsa/kernel/cuda/tiling/work_list.h"
#include "fpsa/numeric/bf16.h"
#include "tests/kernel/cuda/emulated_memory.h"
#include "tests/tolerance.h"

namespace fpsa::kernel::cuda {
namespace {

using testing_support::Aligned;
using testing_support::Cells;

constexpr int64_t kDim = 64;

// One side: tokens in a row, in tiles of 64.
struct Side {
  explicit Side(int64_t tokens) : tokens(tokens), layout(tile_begin(tokens)), rows(layout.position_of_slot()) {}
  static std::vector<int32_t> tile_begin(int64_t tokens) {
    std::vector<int32_t> begin = {0};
    while (begin.back() < tokens)
      begin.push_back(std::min<int32_t>(begin.back() + 64, static_cast<int32_t>(tokens)));
    return begin;
  }
  int64_t tiles() const { return (tokens + 63) / 64; }
  int32_t segments() const { return static_cast<int32_t>(layout.segments()); }
  int64_t tokens;
  SegmentLayout layout;
  std::span<const int32_t> rows;  // raster order is tile order here
};

struct Values {
  Values(int64_t rows, uint64_t seed) {
    std::mt19937_64 random(seed);
    std::normal_distribution<float> normal;
    for (int64_t i = 0; i < rows * kDim; ++i)
      bits.push_back(numeric::bf16_from_f32(normal(random)));
  }
  double at(int64_t row, int64_t d) const {
    return numeric::f32_from_bf16(bits[static_cast<size_t>(row * kDim + d)]);
  }
  Aligned<uint16_t> packed(const Side& side) const {
    Aligned<uint16_t> slots(side.rows.size() * kDim);
    for (size_t slot = 0; slot < side.rows.size(); ++slot)
      for (size_t d = 0; d < kDim; ++d)
        slots.data[slot * kDim + d] =
            side.rows[slot] < 0 ? uint16_t{0} : bits[static_cast<size_t>(side.rows[slot]) * kDim + d];
    return slots;
  }
  std::vector<uint16_t> bits;
};

// Attention and its gradients in F64.
struct Exact {
  Exact(const Values& q, const Values& k, const Values& v, const Values& d_out, int64_t queries, int64_t keys)
      : out(static_cast<size_t>(queries * kDim)),
        d_q(out.size()),
        d_k(static_cast<size_t>(keys * kDim)),
        d_v(d_k.size()) {
    const auto dot = [](const Values& a, int64_t i, const Values& b, int64_t j) {
      double sum = 0;
      for (int64_t d = 0; d < kDim; ++d)
        sum += a.at(i, d) * b.at(j, d);
      return sum;
    };
    const double scale = 1 / std::sqrt(static_cast<double>(kDim));
    std::vector<double> p(static_cast<size_t>(keys));
    for (int64_t i = 0; i < queries; ++i) {
      double sum = 0, delta = 0;
      for (int64_t j = 0; j < keys; ++j)
        sum += p[static_cast<size_t>(j)] = std::exp(scale * dot(q, i, k, j));
      lse.push_back(std::log(sum));
      for (int64_t j = 0; j < keys; ++j) {
        p[static_cast<size_t>(j)] /= sum;
        delta += p[static_cast<size_t>(j)] * dot(d_out, i, v, j);
      }
      for (int64_t j = 0; j < keys; ++j) {
        const double share = p[static_cast<size_t>(j)], d_s = scale * share * (dot(d_out, i, v, j) - delta);
        for (int64_t d = 0; d < kDim; ++d) {
          const auto of_query = static_cast<size_t>(i * kDim + d), of_key = static_cast<size_t>(j * kDim + d);
          out[of_query] += share * v.at(j, d);
          d_q[of_query] += d_s * k.at(j, d);
          d_k[of_key] += d_s * q.at(i, d);
          d_v[of_key] += share * d_out.at(i, d);
        }
      }
    }
  }
  std::vector<double> out, lse, d_q, d_k, d_v;
};

double relative_rms(const std::vector<float>& got, const std::vector<double>& want) {
  EXPECT_EQ(got.size(), want.size());
  double error = 0, size = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    error += (got[i] - want[i]) * (got[i] - want[i]);
    size += want[i] * want[i];
  }
  return std::sqrt(error / size);
}

// Two blocks of threads, single or as a cluster.
template <int kCluster>
void run_forward(const AttentionParams& params) {
  constexpr AttentionTiling kTiling = choose_bf16_tiling(kDim, kCluster);
  emulation::run({.blocks = 2,
                  .threads = kThreads,
                  .registers = kRegistersAtStart,
                  .shared_bytes = shared_map(kTiling).bytes,
                  .cluster = kCluster},
                 {}, [&] { attention_fwd_bf16_sm90a<kTiling>(params); });
}

class CrossAttention : public testing::TestWithParam<std::pair<int, int>> {};

TEST_P(CrossAttention, MatchesF64) {
  const Side queries(GetParam().first), keys(GetParam().second);
  const Values q(queries.tokens, 1), k(keys.tokens, 2), v(keys.tokens, 3), d_out(queries.tokens, 4);
  const Exact want(q, k, v, d_out, queries.tokens, keys.tokens);
  const pattern::BlockMask mask = pattern::from_matrix(
      std::vector<uint8_t>(static_cast<size_t>(queries.tiles() * keys.tiles()), 1), 1, queries.tiles(), keys.tiles());
  const WorkList of_queries(mask, queries.layout, keys.layout), of_keys(exchanged(mask), keys.layout, queries.layout);
  const auto q_slots = q.packed(queries), k_slots = k.packed(keys), v_slots = v.packed(keys);
  const float scale = 1 / std::sqrt(static_cast<float>(kDim));

  Cells out(queries.tokens, kDim, OutType::kF32);
  std::vector<float> lse(static_cast<size_t>(queries.tokens));
  const auto view = [](Cells& cells) { return OutView{cells.start(), OutType::kF32, 0, 0, cells.pitch()}; };
  AttentionParams forward;
  const AttentionMaps maps = attention_bf16_maps(q_slots.data, k_slots.data, v_slots.data, kDim, 1,
                                                 queries.segments(), keys.segments());
  forward.q = {maps.q};
  forward.k = {maps.k};
  forward.v = {maps.v};
  forward.items = of_queries.items.data();
  forward.entries = of_queries.entries.data();
  forward.row_of_slot = queries.rows.data();
  forward.item_count = static_cast<int32_t>(of_queries.items.size());
  forward.batch = forward.heads = 1;
  forward.query_segments = queries.segments();
  forward.key_segments = keys.segments();
  forward.queries = queries.tokens;
  forward.log2_factor = static_cast<float>(std::numbers::log2e) * scale;
  forward.out = view(out);
  forward.lse = lse.data();
  run_forward<1>(forward);
  const std::vector<float> got = out.take();
  Cells in_clusters(queries.tokens, kDim, OutType::kF32);
  AttentionParams of_pairs = forward;
  of_pairs.paired = static_cast<int32_t>(of_queries.paired);
  of_pairs.out = view(in_clusters);
  run_forward<2>(of_pairs);
  EXPECT_EQ(in_clusters.take(), got);
  EXPECT_LE(relative_rms(got, want.out), tolerance::kAttentionBwdRms);
  for (size_t i = 0; i < lse.size(); ++i)
    EXPECT_NEAR(lse[i], want.lse[i], 1e-5) << "row " << i;

  Aligned<uint8_t> out_rows(got.size() * 4), d_rows(d_out.bits.size() * 2);
  std::copy_n(reinterpret_cast<const uint8_t*>(got.data()), got.size() * 4, out_rows.data);
  std::copy_n(reinterpret_cast<const uint8_t*>(d_out.bits.data()), d_out.bits.size() * 2, d_rows.data);
  Aligned<uint16_t> d_slots(queries.rows.size() * kDim);
  Aligned<float> statistics(queries.rows.size() * static_cast<size_t>(bwd_statistics(false)));
  AttentionBwdPrepareParams prepare;
  prepare.out = {out_rows.data, OutType::kF32, 0, 0, kDim};
  prepare.d_out = {d_rows.data, OutType::kBf16, 0, 0, kDim};
  prepare.lse = lse.data();
  prepare.row_of_slot = queries.rows.data();
  prepare.batch = prepare.heads = 1;
  prepare.segments = queries.segments();
  prepare.queries = queries.tokens;
  prepare.packed = d_slots.data;
  prepare.statistics = statistics.data;
  emulation::run({.blocks = 1, .threads = kPrepareThreads, .registers = 128}, {},
                 [&] { attention_bwd_prepare<kDim, false>(prepare); });

  Cells d_q(queries.tokens, kDim, OutType::kF32), d_k(keys.tokens, kDim, OutType::kF32),
      d_v(keys.tokens, kDim, OutType::kF32);
  const AttentionBwdMaps bwd_maps = attention_bwd_maps(q_slots.data, k_slots.data, v_slots.data, d_slots.data, nullptr,
                                                       nullptr, kDim, 1, queries.segments(), keys.segments());
  AttentionBwdParams backward;
  backward.q = {bwd_maps.q};
  backward.k = {bwd_maps.k};
  backward.v = {bwd_maps.v};
  backward.d_out = {bwd_maps.d_out};
  backward.statistics = statistics.data;
  backward.batch = backward.heads = 1;
  backward.query_segments = queries.segments();
  backward.key_segments = keys.segments();
  backward.log2_factor = forward.log2_factor;
  backward.softmax_scale = scale;
  const auto run_pass = [&]<bool kOfKeys>(const WorkList& work, const Side& rows, OutView first, OutView second) {
    AttentionBwdParams params = backward;
    params.items = work.items.data();
    params.entries = work.entries.data();
    params.item_count = static_cast<int32_t>(work.items.size());
    params.row_of_slot = rows.rows.data();
    params.first = first;
    params.second = second;
    constexpr AttentionBwdTiling kPass = choose_bwd_tiling(kDim, kOfKeys, false);
    emulation::run({.blocks = 2,
                    .threads = kThreads,
                    .registers = kRegistersAtStart,
                    .shared_bytes = bwd_shared_map(kPass).bytes},
                   {}, [&] { attention_bwd_bf16_sm90a<kPass>(params); });
  };
  run_pass.operator()<true>(of_keys, keys, view(d_k), view(d_v));
  run_pass.operator()<false>(of_queries, queries, view(d_q), {});
  EXPECT_LE(relative_rms(d_q.take(), want.d_q), tolerance::kAttentionBwdRms);
  EXPECT_LE(relative_rms(d_k.take(), want.d_k), tolerance::kAttentionBwdRms);
  EXPECT_LE(relative_rms(d_v.take(), want.d_v), tolerance::kAttentionBwdRms);
}

INSTANTIATE_TEST_SUITE_P(Lengths, CrossAttention,
                         testing::Values(std::pair(150, 77), std::pair(5, 300), std::pair(260, 33)),
                         [](const auto& info) { return join(info.param.first, "Queries", info.param.second, "Keys"); });

}  // namespace
}  // namespace fpsa::kernel::cuda
