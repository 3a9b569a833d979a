#include "tests/kernel/cuda/emulated_backward.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <random>

#include "fpsa/kernel/cuda/attention_bwd_bf16_sm90a-inl.h"
#include "fpsa/kernel/cuda/attention_bwd_prepare-inl.h"
#include "fpsa/kernel/cuda/tiling/pack.h"
#include "fpsa/kernel/reference/attention_bwd.h"
#include "fpsa/kernel/reference/attention_fwd.h"
#include "fpsa/kernel/visibility.h"
#include "fpsa/numeric/bf16.h"
#include "fpsa/numeric/bounds.h"
#include "fpsa/numeric/e4m3.h"
#include "tests/kernel/cuda/emulated_memory.h"

namespace fpsa::kernel::cuda::testing_support {
namespace {

template <AttentionBwdTiling kTiling, ptx::Element kElement = ptx::Element::kBf16>
emulation::Report run_tiling(const AttentionBwdParams& params, int blocks, const emulation::Options& options) {
  constexpr BwdSharedMap kMap = bwd_shared_map(kTiling);
  return emulation::run(
      {.blocks = blocks, .threads = kThreads, .registers = kRegistersAtStart, .shared_bytes = kMap.bytes}, options,
      [&] { attention_bwd_bf16_sm90a<kTiling, kElement>(params); });
}

template <bool kOfKeys>
emulation::Report run_pass(const AttentionBwdParams& params, const BackwardProblem& problem, int blocks,
                           const emulation::Options& options) {
  constexpr auto kF16 = ptx::Element::kF16;
  if (problem.f16)
    return problem.dim == 128 ? run_tiling<choose_bwd_tiling(128, kOfKeys, false), kF16>(params, blocks, options)
                              : run_tiling<choose_bwd_tiling(64, kOfKeys, false), kF16>(params, blocks, options);
  if (problem.dim == 128)
    return problem.coded ? run_tiling<choose_bwd_tiling(128, kOfKeys, true)>(params, blocks, options)
                         : run_tiling<choose_bwd_tiling(128, kOfKeys, false)>(params, blocks, options);
  return problem.coded ? run_tiling<choose_bwd_tiling(64, kOfKeys, true)>(params, blocks, options)
                       : run_tiling<choose_bwd_tiling(64, kOfKeys, false)>(params, blocks, options);
}

template <class Body>
void run_rows(int blocks, const Body& body) {
  emulation::run({.blocks = blocks, .threads = kPrepareThreads, .registers = 128, .shared_bytes = 0}, {}, body);
}

// Rows as a kernel reads them, of any type.
struct Rows {
  Rows(const std::vector<float>& values, OutType type, int64_t heads, int64_t rows, int64_t dim)
      : bytes(values.size() * 4) {
    for (size_t i = 0; i < values.size(); ++i) {
      if (type == OutType::kF32)
        std::memcpy(bytes.data + i * 4, &values[i], 4);
      else
        reinterpret_cast<uint16_t*>(bytes.data)[i] =
            bits_of(type == OutType::kF16 ? ptx::Element::kF16 : ptx::Element::kBf16, values[i]);
    }
    view = {bytes.data, type, heads * rows * dim, rows * dim, dim};
  }
  Aligned<uint8_t> bytes;
  InView view;
};

void add_calls(emulation::Report& report, const emulation::Report& more) {
  for (const emulation::Call& call : more.calls)
    if (std::ranges::find(report.calls, call) == report.calls.end()) report.calls.push_back(call);
}

}  // namespace

EmulatedBackward::EmulatedBackward(const BackwardProblem& problem)
    : problem_(problem),
      order_(problem.grid, problem.tile, problem.granularity),
      layout_(order_.tile_begin()),
      of_queries_(problem.mask, layout_, layout_),
      of_keys_(exchanged(problem.mask), layout_, layout_) {
  std::mt19937_64 random(problem.seed);
  const auto jobs = static_cast<size_t>(problem.batch * problem.heads);
  const auto tokens = static_cast<size_t>(order_.tokens()), dim = static_cast<size_t>(problem.dim);
  std::normal_distribution<float> normal;
  const auto fill = [&](std::vector<uint8_t>& codes, std::vector<uint16_t>& values, double spread) {
    for (size_t i = 0; i < jobs * tokens * dim; ++i) {
      if (problem.coded)
        codes.push_back(numeric::e4m3_from_f32(100 * normal(random)));
      else
        values.push_back(bits_of(element(), static_cast<float>(spread) * normal(random)));
    }
  };
  fill(q_codes, q, problem.spread);
  fill(k_codes, k, problem.spread);
  fill(v_codes, v, 1.0);
  for (size_t i = 0; i < jobs * tokens * dim; ++i) {
    const float x = normal(random);
    d_out.push_back(problem.rounded_gradient ? value_of(element(), bits_of(element(), x)) : x);
  }
  if (problem.coded) {
    const auto groups = pattern::token_groups(order_);
    std::uniform_real_distribution<float> uniform(0.5f, 1.5f);
    const auto scales = [&](std::vector<float>& scale) {
      std::vector<float> of_group(static_cast<size_t>(groups.count));
      for (size_t job = 0; job < jobs; ++job) {
        for (float& x : of_group)
          x = static_cast<float>(problem.spread / 100) * uniform(random);
        for (const int32_t group : groups.of_token)
          scale.push_back(of_group[static_cast<size_t>(group)]);
      }
    };
    scales(q_scale);
    scales(k_scale);
    for (size_t i = 0; i < jobs * dim; ++i)
      v_scale.push_back(uniform(random) / 100);
  }
  run_forward();
}

AttentionHead EmulatedBackward::head(int64_t job) const {
  const int64_t rows = order_.tokens(), dim = problem_.dim, at = job * rows * dim;
  AttentionHead head;
  head.queries = head.keys = rows;
  head.dim = dim;
  if (problem_.coded) {
    head.q = {q_codes.data() + at, dim, nullptr};
    head.k = {k_codes.data() + at, dim, nullptr};
    head.v = {v_codes.data() + at, dim, nullptr};
    head.q_scale = q_scale.data() + job * rows;
    head.k_scale = k_scale.data() + job * rows;
    head.v_scale = v_scale.data() + job * dim;
  } else if (problem_.f16) {
    head.q = {wide_[0].data() + at, dim, nullptr};
    head.k = {wide_[1].data() + at, dim, nullptr};
    head.v = {wide_[2].data() + at, dim, nullptr};
  } else {
    head.q = {q.data() + at, dim, nullptr};
    head.k = {k.data() + at, dim, nullptr};
    head.v = {v.data() + at, dim, nullptr};
  }
  head.softmax_scale = 1.0f / std::sqrt(static_cast<float>(dim));
  return head;
}

void EmulatedBackward::run_forward() {
  const int64_t jobs = problem_.batch * problem_.heads, rows = order_.tokens(), dim = problem_.dim;
  out.assign(static_cast<size_t>(jobs * rows * dim), 0.0f);
  std::vector<float> coded_out(out.size());
  lse.assign(static_cast<size_t>(jobs * rows), 0.0f);
  row_max = lse;
  const std::vector<uint16_t>* given[] = {&q, &k, &v};
  for (int which = 0; which < 3 && problem_.f16; ++which) {
    wide_[which].clear();
    for (const uint16_t bits : *given[which])
      wide_[which].push_back(value_of(element(), bits));
  }
  const AttentionFwd kernel = problem_.coded ? kernel::reference::attention_fwd_e4m3()
                              : problem_.f16 ? kernel::reference::attention_fwd_f32()
                                             : kernel::reference::attention_fwd_bf16();
  std::vector<uint8_t> scratch(static_cast<size_t>(kernel.scratch_bytes(rows, dim)));
  for (int64_t job = 0; job < jobs; ++job) {
    const Visibility visible(problem_.mask, problem_.mask.heads() == 1 ? 0 : job % problem_.heads, order_.tile_begin(),
                             order_.tile_begin());
    AttentionOut to;
    to.out = coded_out.data() + job * rows * dim;
    to.exact = out.data() + job * rows * dim;
    to.stride = to.exact_stride = dim;
    to.index = order_.to_raster().data();
    to.lse = lse.data() + job * rows;
    to.row_max = row_max.data() + job * rows;
    const AttentionHead at = head(job);
    for (const QueryBlock& block : visible.blocks())
      kernel.run(at, nullptr, block, to, scratch.data());
  }
}

AttentionBwdHead EmulatedBackward::backward_head(int64_t job) const {
  const int64_t rows = order_.tokens(), dim = problem_.dim, at = job * rows * dim;
  AttentionBwdHead result;
  result.forward = head(job);
  result.out = {out.data() + at, dim, order_.to_raster().data()};
  result.d_out = {d_out.data() + at, dim, order_.to_raster().data()};
  result.lse = lse.data() + job * rows;
  result.row_max = row_max.data() + job * rows;
  return result;
}

BackwardResult EmulatedBackward::reference() const {
  const int64_t jobs = problem_.batch * problem_.heads, rows = order_.tokens(), dim = problem_.dim;
  BackwardResult result;
  result.q.resize(static_cast<size_t>(jobs * rows * dim));
  result.k = result.v = result.q;
  const AttentionBwd kernel = problem_.coded ? kernel::reference::attention_bwd_e4m3()
                              : problem_.f16 ? kernel::reference::attention_bwd_f32()
                                             : kernel::reference::attention_bwd_bf16();
  std::vector<uint8_t> packed(static_cast<size_t>(kernel.packed_bytes(rows, dim)));
  for (int64_t job = 0; job < jobs; ++job) {
    const Visibility seen = Visibility::transposed(problem_.mask, problem_.mask.heads() == 1 ? 0 : job % problem_.heads,
                                                   order_.tile_begin(), order_.tile_begin());
    const AttentionBwdHead at = backward_head(job);
    std::vector<double> sums(static_cast<size_t>(rows * dim));
    AttentionGrads grads;
    grads.d_q = result.q.data() + job * rows * dim;
    grads.d_k = result.k.data() + job * rows * dim;
    grads.d_v = result.v.data() + job * rows * dim;
    grads.q_stride = grads.k_stride = grads.v_stride = dim;
    grads.q_index = grads.k_index = order_.to_raster().data();
    kernel.pack(at, 0, rows, packed.data());
    for (const QueryBlock& block : seen.blocks())
      kernel.run(at, packed.data(), block, grads, sums.data(), nullptr);
    kernel.finish(at, {sums.data(), 0, 1}, 0, rows, grads);
  }
  return result;
}

BackwardResult EmulatedBackward::emulated(const RunOptions& run, const emulation::Options& options,
                                          emulation::Report* report) const {
  const int64_t jobs = problem_.batch * problem_.heads, rows = order_.tokens(), dim = problem_.dim;
  const int64_t slots = layout_.slots(), segments = layout_.segments();
  const bool coded = problem_.coded;
  const auto elements = static_cast<size_t>(jobs * slots * dim);
  Aligned<uint16_t> q_packed(elements), k_packed(elements), v_packed(elements), d_packed(elements);
  Aligned<uint8_t> q_coded(elements), k_coded(elements), v_coded(elements);
  Aligned<float> q_scales(static_cast<size_t>(jobs * slots)), k_scales(static_cast<size_t>(jobs * slots));
  Aligned<float> statistics(static_cast<size_t>(jobs * slots * bwd_statistics(coded)));
  std::vector<int32_t> row_of_slot(static_cast<size_t>(slots));
  rows_of_slots(layout_, order_.to_raster(), row_of_slot.data());
  const auto positions = layout_.position_of_slot();
  for (int64_t job = 0; job < jobs; ++job) {
    if (coded) {
      pack_codes(layout_, q_codes.data() + job * rows * dim, dim, q_coded.data + job * slots * dim);
      pack_codes(layout_, k_codes.data() + job * rows * dim, dim, k_coded.data + job * slots * dim);
      pack_values(layout_, v_codes.data() + job * rows * dim, dim, v_coded.data + job * slots * dim);
      pack_scales(layout_, q_scale.data() + job * rows, q_scales.data + job * slots);
      pack_scales(layout_, k_scale.data() + job * rows, k_scales.data + job * slots);
      continue;
    }
    for (int64_t slot = 0; slot < slots; ++slot)
      for (int64_t d = 0; d < dim; ++d) {
        const int64_t position = positions[static_cast<size_t>(slot)], to = (job * slots + slot) * dim + d;
        const auto from = static_cast<size_t>((job * rows + position) * dim + d);
        q_packed.data[to] = position < 0 ? uint16_t{0} : q[from];
        k_packed.data[to] = position < 0 ? uint16_t{0} : k[from];
        v_packed.data[to] = position < 0 ? uint16_t{0} : v[from];
      }
  }
  if (coded) {
    for (const auto& [from, to, of_values] :
         {std::tuple(q_coded.data, q_packed.data, false), std::tuple(k_coded.data, k_packed.data, false),
          std::tuple(v_coded.data, v_packed.data, true)}) {
      const AttentionBwdExpandParams params{from, to, jobs * segments, of_values};
      run_rows(run.blocks, [&] {
        if (dim == 128)
          attention_bwd_expand<128>(params);
        else
          attention_bwd_expand<64>(params);
      });
    }
  }

  const Rows out_rows(out, run.given, problem_.heads, rows, dim), d_rows(d_out, run.given, problem_.heads, rows, dim);
  AttentionBwdPrepareParams prepare;
  prepare.out = out_rows.view;
  prepare.d_out = d_rows.view;
  prepare.lse = lse.data();
  prepare.row_max = row_max.data();
  prepare.q_scale = q_scales.data;
  prepare.v_scale = v_scale.data();
  prepare.row_of_slot = row_of_slot.data();
  prepare.batch = static_cast<int32_t>(problem_.batch);
  prepare.heads = static_cast<int32_t>(problem_.heads);
  prepare.segments = static_cast<int32_t>(segments);
  prepare.queries = rows;
  prepare.packed = d_packed.data;
  prepare.statistics = statistics.data;
  run_rows(run.blocks, [&] {
    using enum ptx::Element;
    if (problem_.f16)
      dim == 128 ? attention_bwd_prepare<128, false, kF16>(prepare) : attention_bwd_prepare<64, false, kF16>(prepare);
    else if (dim == 128)
      coded ? attention_bwd_prepare<128, true>(prepare) : attention_bwd_prepare<128, false>(prepare);
    else
      coded ? attention_bwd_prepare<64, true>(prepare) : attention_bwd_prepare<64, false>(prepare);
  });

  Cells d_q(jobs * rows, dim, run.type), d_k(jobs * rows, dim, run.type), d_v(jobs * rows, dim, run.type);
  const auto view = [&](Cells& cells) {
    return OutView{cells.start(), run.type, problem_.heads * rows * cells.pitch(), rows * cells.pitch(), cells.pitch()};
  };
  const AttentionBwdMaps maps =
      attention_bwd_maps(q_packed.data, k_packed.data, v_packed.data, d_packed.data, q_coded.data, k_coded.data,
                         static_cast<int>(dim), jobs, segments, segments);
  AttentionBwdParams params;
  params.q = {maps.q};
  params.k = {maps.k};
  params.v = {maps.v};
  params.d_out = {maps.d_out};
  params.q_codes = {maps.q_codes};
  params.k_codes = {maps.k_codes};
  params.statistics = statistics.data;
  params.k_scale = k_scales.data;
  params.v_scale = v_scale.data();
  params.row_of_slot = row_of_slot.data();
  params.batch = static_cast<int32_t>(problem_.batch);
  params.heads = static_cast<int32_t>(problem_.heads);
  params.query_segments = params.key_segments = static_cast<int32_t>(segments);
  params.softmax_scale = head(0).softmax_scale;
  params.log2_factor = static_cast<float>(std::numbers::log2e) * params.softmax_scale;
  const auto with = [&](const WorkList& work, OutView first, OutView second) {
    AttentionBwdParams of_pass = params;
    of_pass.items = work.items.data();
    of_pass.entries = work.entries.data();
    of_pass.item_count = static_cast<int32_t>(work.items.size());
    of_pass.shared_mask = work.shared;
    of_pass.first = first;
    of_pass.second = second;
    return of_pass;
  };
  emulation::Report made;
  if (run.of_keys) add_calls(made, run_pass<true>(with(of_keys_, view(d_k), view(d_v)), problem_, run.blocks, options));
  if (run.of_queries) add_calls(made, run_pass<false>(with(of_queries_, view(d_q), {}), problem_, run.blocks, options));
  if (report) *report = made;
  return {d_q.take(), d_k.take(), d_v.take()};
}

// Element of Q, K or V (0, 1, 2) as a real number.
double EmulatedBackward::value(int which, int64_t job, int64_t position, int64_t channel) const {
  const auto at = static_cast<size_t>((job * tokens() + position) * problem_.dim + channel);
  if (!problem_.coded) return value_of(element(), (which == 0 ? q : which == 1 ? k : v)[at]);
  const double code = numeric::f32_from_e4m3((which == 0 ? q_codes : which == 1 ? k_codes : v_codes)[at]);
  const auto row = static_cast<size_t>(job * tokens() + position);
  return code * (which == 0   ? q_scale[row]
                 : which == 1 ? k_scale[row]
                              : v_scale[static_cast<size_t>(job * problem_.dim + channel)]);
}

EmulatedBackward::Bounds EmulatedBackward::bounds() const {
  const int64_t jobs = problem_.batch * problem_.heads, rows = tokens(), dim = problem_.dim;
  const double eps = numeric::kF32Epsilon, u = problem_.f16 ? 0x1p-11 : numeric::kBf16Epsilon;
  const float scale = head(0).softmax_scale;
  const auto coded_p = [](double x) {
    return static_cast<double>(numeric::f32_from_e4m3(numeric::e4m3_from_f32(static_cast<float>(x))));
  };
  Bounds bounds;
  bounds.q.assign(static_cast<size_t>(jobs * rows * dim), 1e-30);
  bounds.k = bounds.v = bounds.q;
  std::vector<int64_t> tile_of(static_cast<size_t>(rows));
  for (int64_t tile = 0; tile < order_.tile_count(); ++tile)
    std::fill(tile_of.begin() + order_.tile_begin(tile), tile_of.begin() + order_.tile_begin(tile + 1), tile);
  const double terms = static_cast<double>(rows + 4) * eps;
  for (int64_t job = 0; job < jobs; ++job) {
    const int64_t mask_head = problem_.mask.heads() == 1 ? 0 : job % problem_.heads;
    std::vector<double> real[3], gradient, exact;
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t d = 0; d < dim; ++d) {
        for (int which = 0; which < 3; ++which)
          real[which].push_back(value(which, job, i, d));
        const auto at = static_cast<size_t>((job * rows + order_.to_raster()[static_cast<size_t>(i)]) * dim + d);
        gradient.push_back(d_out[at]);
        exact.push_back(out[at]);
      }
    const auto dot = [&](const std::vector<double>& a, int64_t i, const std::vector<double>& b, int64_t j) {
      std::pair<double, double> result;  // and the sum of magnitudes
      for (int64_t d = 0; d < dim; ++d) {
        const double term = a[static_cast<size_t>(i * dim + d)] * b[static_cast<size_t>(j * dim + d)];
        result.first += term;
        result.second += std::abs(term);
      }
      return result;
    };
    for (int64_t i = 0; i < rows; ++i) {
      const auto row = static_cast<size_t>(job * rows + order_.to_raster()[static_cast<size_t>(i)]);
      const auto [delta, delta_size] = dot(gradient, i, exact, i);
      const auto visible = problem_.mask.visible(mask_head, tile_of[static_cast<size_t>(i)]);
      for (int64_t j = 0; j < rows; ++j) {
        if (!std::ranges::binary_search(visible, static_cast<int32_t>(tile_of[static_cast<size_t>(j)]))) continue;
        const auto [s, s_size] = dot(real[0], i, real[1], j);
        const auto [g, g_size] = dot(gradient, i, real[2], j);
        const double logit = s * scale;
        // The dot product, three scalings, the shift and its own rounding; 2^x; with codes 1 / row sum likewise.
        const double relative = numeric::dot_bound(eps, dim + 4, s_size) * scale +
                                4 * eps * (std::abs(lse[row]) + std::abs(logit - lse[row])) + 2 * 0x1p-22 + 8 * eps;
        const double plain = std::exp(logit - lse[row]);
        double p = plain, p_error = plain * (relative + 2 * u);  // P and d_out are rounded
        if (problem_.coded) {
          const double m = row_max[row], x = 256 * std::exp2(logit * std::numbers::log2e - m);
          const double unit = std::exp(m * std::numbers::ln2 - lse[row]) / 256;
          p = coded_p(x) * unit;
          p_error = p * (relative + u) + (coded_p(x * (1 + 2 * relative)) - coded_p(x * (1 - 2 * relative))) * unit;
        }
        const double d_s = plain * (g - delta);
        const double d_s_error =
            std::abs(d_s) * (relative + u) +
            plain * (numeric::dot_bound(eps, dim + 4, g_size + delta_size) + u * (g_size + delta_size));
        for (int64_t d = 0; d < dim; ++d) {
          const auto of_key = (static_cast<size_t>(job * rows + order_.to_raster()[static_cast<size_t>(j)])) *
                                  static_cast<size_t>(dim) +
                              static_cast<size_t>(d);
          const auto of_query = row * static_cast<size_t>(dim) + static_cast<size_t>(d);
          const auto at_i = static_cast<size_t>(i * dim + d), at_j = static_cast<size_t>(j * dim + d);
          const double d_s_all = d_s_error + std::abs(d_s) * terms;
          bounds.q[of_query] += scale * d_s_all * std::abs(real[1][at_j]);
          bounds.k[of_key] += scale * d_s_all * std::abs(real[0][at_i]);
          bounds.v[of_key] += (p_error + p * terms) * std::abs(gradient[at_i]);
        }
      }
    }
  }
  return bounds;
}

}  // namespace fpsa::kernel::cuda::testing_support
