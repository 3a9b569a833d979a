// The instantiations of attention_bwd_bf16_sm90a for the device, and the launch of the backward.
#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <limits>

#include "fpsa/kernel/cuda/attention_bwd_bf16_sm90a-inl.h"
#include "fpsa/kernel/cuda/attention_bwd_launch.h"
#include "fpsa/kernel/cuda/launch_parts.h"

namespace fpsa::kernel::cuda {
inline namespace FPSA_TARGET {

// nvcc 13.0 makes host code that does not compile of a kernel whose template parameter is a class.
template <int kDim, bool kOfKeys, bool kCoded, ptx::Element kElement>
__global__ void __launch_bounds__(kThreads, 1) attention_bwd_bf16_kernel(const __grid_constant__ AttentionBwdParams p) {
  attention_bwd_bf16_sm90a<choose_bwd_tiling(kDim, kOfKeys, kCoded), kElement>(p);
}

}  // namespace FPSA_TARGET
namespace {

constexpr int64_t kMost = std::numeric_limits<int32_t>::max();

// Every instantiation, in one list.
void start_pass(const AttentionBwdParams& params, int64_t dim, bool of_keys, bool coded, bool f16, int64_t blocks,
                void* stream) {
#define FPSA_CASE(dim_, of_keys_, coded_, f16_)                                                                    \
  if (dim == dim_ && of_keys == of_keys_ && coded == coded_ && f16 == f16_)                                        \
  return start(attention_bwd_bf16_kernel<dim_, of_keys_, coded_, f16_ ? ptx::Element::kF16 : ptx::Element::kBf16>, \
               f16_ ? "attention_bwd_f16_sm90a" : "attention_bwd_bf16_sm90a", blocks, kThreads,                    \
               bwd_shared_map(choose_bwd_tiling(dim_, of_keys_, coded_)).bytes, params, stream)
  FPSA_CASE(128, true, false, false);
  FPSA_CASE(128, false, false, false);
  FPSA_CASE(128, true, false, true);
  FPSA_CASE(128, false, false, true);
  FPSA_CASE(128, true, true, false);
  FPSA_CASE(128, false, true, false);
  FPSA_CASE(64, true, false, false);
  FPSA_CASE(64, false, false, false);
  FPSA_CASE(64, true, false, true);
  FPSA_CASE(64, false, false, true);
  FPSA_CASE(64, true, true, false);
  FPSA_CASE(64, false, true, false);
#undef FPSA_CASE
}

void check_rows(const DeviceRows& rows, const char* name) {
  const int64_t bytes = rows.type == DeviceOutType::kF32 ? 4 : 2;
  for (const int64_t stride : {rows.batch_stride, rows.head_stride, rows.row_stride})
    FPSA_CHECK(stride * bytes % 16 == 0, name, ": expected strides that are multiples of 16 bytes, got ",
               stride * bytes, "; copy it to rows that are, or pass 0 along a dimension of one");
  check_alignment({rows.data});
}

void check_launch(const AttentionBwdLaunch& launch) {
  FPSA_CHECK(launch.dim == 64 || launch.dim == 128, "head_dim: expected 64 or 128, got ", launch.dim,
             "; use the dense path of torch");
  const int64_t jobs = launch.batch * launch.heads;
  for (const int64_t segments : {launch.query_segments, launch.key_segments})
    FPSA_CHECK(segments > 0 && jobs * segments * kSegment <= kMost, "batch: its heads have ",
               jobs * segments * kSegment, " slots, expected 1 to 2^31 - 1; split it");
  for (const DeviceWork* work : {&launch.of_queries, &launch.of_keys}) {
    const int64_t items = work->item_count * (launch.shared_mask ? jobs : launch.batch);
    FPSA_CHECK(items <= kMost, "batch: its work has ", items, " items, expected at most 2^31 - 1; split it");
  }
  FPSA_CHECK(launch.softmax_scale > 0 && std::isfinite(launch.softmax_scale),
             "softmax_scale: expected a positive number, got ", launch.softmax_scale);
  FPSA_CHECK(!launch.coded || !launch.f16, "f16: expected BF16 operands with codes, got F16; codes expand to BF16");
  check_rows(launch.out, "out");
  check_rows(launch.d_out, "d_out");
  check_rows(launch.d_q, "d_q");
  check_rows(launch.d_k, "d_k");
  check_rows(launch.d_v, "d_v");
  check_alignment({launch.q, launch.k, launch.v, launch.scratch});
  if (launch.coded) check_alignment({launch.q_codes, launch.k_codes, launch.k_scale});
}

OutView view(const DeviceRows& rows) {
  return {rows.data, static_cast<OutType>(rows.type), rows.batch_stride, rows.head_stride, rows.row_stride};
}
InView in_view(const DeviceRows& rows) {
  return {rows.data, static_cast<OutType>(rows.type), rows.batch_stride, rows.head_stride, rows.row_stride};
}

int64_t packed_bytes(int64_t jobs, int64_t segments, int64_t dim) {
  return jobs * segments * kSegment * dim * 2;
}

void prepare(const AttentionBwdLaunch& launch, uint16_t* packed, float* statistics, void* stream) {
  AttentionBwdPrepareParams params;
  params.out = in_view(launch.out);
  params.d_out = in_view(launch.d_out);
  params.lse = launch.lse;
  params.row_max = launch.row_max;
  params.q_scale = launch.q_scale;
  params.v_scale = launch.v_scale;
  params.row_of_slot = launch.of_queries.row_of_slot;
  params.batch = static_cast<int32_t>(launch.batch);
  params.heads = static_cast<int32_t>(launch.heads);
  params.segments = static_cast<int32_t>(launch.query_segments);
  params.queries = launch.queries;
  params.packed = packed;
  params.statistics = statistics;
  start_attention_bwd_prepare(params, launch.dim, launch.coded, launch.f16, stream);
}

AttentionBwdParams params_of(const AttentionBwdLaunch& launch, const uint16_t* packed, const float* statistics) {
  const AttentionBwdMaps maps = attention_bwd_maps(launch.q, launch.k, launch.v, packed, launch.q_codes, launch.k_codes,
                                                   static_cast<int>(launch.dim), launch.batch * launch.heads,
                                                   launch.query_segments, launch.key_segments);
  AttentionBwdParams params;
  params.q = encode_map(maps.q, "q");
  params.k = encode_map(maps.k, "k");
  params.v = encode_map(maps.v, "v");
  params.d_out = encode_map(maps.d_out, "d_out");
  if (launch.coded) {
    params.q_codes = encode_map(maps.q_codes, "q_codes");
    params.k_codes = encode_map(maps.k_codes, "k_codes");
  }
  params.statistics = statistics;
  params.k_scale = launch.k_scale;
  params.v_scale = launch.v_scale;
  params.batch = static_cast<int32_t>(launch.batch);
  params.heads = static_cast<int32_t>(launch.heads);
  params.query_segments = static_cast<int32_t>(launch.query_segments);
  params.key_segments = static_cast<int32_t>(launch.key_segments);
  params.shared_mask = launch.shared_mask;
  params.log2_factor = 1.44269504089f * launch.softmax_scale;
  params.softmax_scale = launch.softmax_scale;
  return params;
}

}  // namespace

int64_t attention_bwd_scratch_bytes(int64_t batch, int64_t heads, int64_t query_segments, int64_t dim, bool coded) {
  const int64_t jobs = batch * heads;
  return packed_bytes(jobs, query_segments, dim) + jobs * query_segments * kStatisticBytes * bwd_statistics(coded);
}

void launch_attention_bwd_bf16(const AttentionBwdLaunch& launch, void* stream) {
  const int64_t jobs = launch.batch * launch.heads;
  if (jobs == 0) return;
  check_launch(launch);
  const int64_t most_blocks = multiprocessors();
  auto* packed = static_cast<uint16_t*>(launch.scratch);
  auto* statistics = reinterpret_cast<float*>(static_cast<char*>(launch.scratch) +
                                              packed_bytes(jobs, launch.query_segments, launch.dim));
  prepare(launch, packed, statistics, stream);
  AttentionBwdParams params = params_of(launch, packed, statistics);
  for (const bool of_keys : {true, false}) {
    const DeviceWork& work = of_keys ? launch.of_keys : launch.of_queries;
    params.items = work.items;
    params.entries = work.entries;
    params.row_of_slot = work.row_of_slot;
    params.item_count = static_cast<int32_t>(work.item_count);
    params.first = view(of_keys ? launch.d_k : launch.d_q);
    params.second = of_keys ? view(launch.d_v) : OutView{};
    const int64_t items = work.item_count * (launch.shared_mask ? jobs : launch.batch);
    start_pass(params, launch.dim, of_keys, launch.coded, launch.f16, std::min(most_blocks, items), stream);
  }
}

}  // namespace fpsa::kernel::cuda
