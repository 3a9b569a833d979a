// The instantiations of quantize_sm90a for the device, and their launch.
#include <algorithm>
#include <limits>

#include "fpsa/kernel/cuda/launch_parts.h"
#include "fpsa/kernel/cuda/quantize_launch.h"
#include "fpsa/kernel/cuda/quantize_sm90a-inl.h"
#include "fpsa/kernel/cuda/quantize_values_sm90a-inl.h"

namespace fpsa::kernel::cuda {
inline namespace FPSA_TARGET {

template <int kDim, bool kNorm, bool kTurn>
__global__ void __launch_bounds__(kMostQuantizeThreads, 2)
    quantize_rows_kernel(const __grid_constant__ QuantizeRowsParams p) {
  quantize_rows_sm90a<kDim, kNorm, kTurn>(p);
}
template <int kDim>
__global__ void __launch_bounds__(kValueThreads, 8)
    value_magnitudes_kernel(const __grid_constant__ QuantizeValuesParams p) {
  value_magnitudes_sm90a<kDim>(p);
}
template <int kDim>
__global__ void __launch_bounds__(kValueThreads, 8) value_codes_kernel(const __grid_constant__ QuantizeValuesParams p) {
  value_codes_sm90a<kDim>(p);
}

}  // namespace FPSA_TARGET
namespace {

constexpr char kName[] = "quantize_sm90a";

void check_aligned(const void* pointer, const char* name) {
  FPSA_CHECK(reinterpret_cast<uintptr_t>(pointer) % 16 == 0, name,
             ": expected an array at a multiple of 16 bytes, got ", pointer);
}

// What both launches ask of x and the sizes.
template <class Launch>
void check_common(const Launch& launch) {
  FPSA_CHECK(launch.dim == 64 || launch.dim == 128, "head_dim: expected 64 or 128, got ", launch.dim);
  // nvcc 13.0 loses the braces of a list in the head of a loop in a template.
  const int64_t strides[] = {launch.batch_stride, launch.row_stride, launch.head_stride};
  for (const int64_t stride : strides)
    FPSA_CHECK(stride % 8 == 0, "x: expected strides that are multiples of 16 bytes, got ", 2 * stride,
               "; copy it to rows that are, or pass 0 along a dimension of one");
  check_aligned(launch.x, "x");
  check_aligned(launch.codes, "codes");
  check_aligned(launch.scratch, "scratch");
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  FPSA_CHECK(launch.batch * launch.heads * launch.slots <= kMost, "batch: its heads have ",
             launch.batch * launch.heads * launch.slots, " slots, expected at most 2^31 - 1; split it");
}

int64_t multiple_of_16(int64_t bytes) {
  return (bytes + 15) / 16 * 16;
}

template <int kDim, bool kNorm, bool kTurn>
void start_rows(const QuantizeRowsParams& params, int multiprocessors, cudaStream_t stream) {
  const QuantizeMap map = quantize_map(params.heads, kDim, kNorm, kTurn);
  const int threads = 32 * (quantize_warps(params.heads * kDim) + kOtherQuantizeWarps);
  const auto kernel = quantize_rows_kernel<kDim, kNorm, kTurn>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(map.bytes)), kName);
  int blocks = 0;
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, threads, map.bytes), kName);
  kernel<<<std::max(blocks, 1) * multiprocessors, threads, map.bytes, stream>>>(params);
  check(cudaGetLastError(), kName);
}

// Every instantiation for Q and K, in one list.
void dispatch_rows(const QuantizeRowsParams& params, int64_t dim, int multiprocessors, cudaStream_t stream) {
  const bool norm = params.weight, turn = params.turns;
#define FPSA_CASE(dim_, norm_, turn_)                    \
  if (dim == dim_ && norm == norm_ && turn == turn_) \
  return start_rows<dim_, norm_, turn_>(params, multiprocessors, stream)
  FPSA_CASE(128, true, true);
  FPSA_CASE(128, true, false);
  FPSA_CASE(128, false, true);
  FPSA_CASE(128, false, false);
  FPSA_CASE(64, true, true);
  FPSA_CASE(64, true, false);
  FPSA_CASE(64, false, true);
  FPSA_CASE(64, false, false);
#undef FPSA_CASE
}

template <int kDim>
void start_values(const QuantizeValuesParams& params, int multiprocessors, cudaStream_t stream) {
  QuantizeValuesParams p = params;
  p.tiling = value_tiling(params.heads * kDim, params.slots, params.batch, multiprocessors);
  const int first = p.tiling.column_chunks * p.tiling.row_chunks * p.batch;
  const int second = p.tiling.column_blocks * p.tiling.segment_chunks * p.batch;
  value_magnitudes_kernel<kDim><<<first, kValueThreads, 0, stream>>>(p);
  check(cudaGetLastError(), kName);
  value_codes_kernel<kDim><<<second, kValueThreads, 0, stream>>>(p);
  check(cudaGetLastError(), kName);
}

}  // namespace

int64_t quantize_rows_scratch_bytes(int64_t batch, int64_t heads, int64_t slots, int64_t groups, int64_t units) {
  return multiple_of_16(4 * batch * (groups * heads + units) + 4) + multiple_of_16(4 * batch * slots);
}
int64_t quantize_values_scratch_bytes(int64_t batch, int64_t heads, int64_t dim) {
  return multiple_of_16(4 * batch * heads * dim);
}

void launch_quantize_rows(const QuantizeRowsLaunch& launch, void* stream) {
  check_common(launch);
  FPSA_CHECK(launch.heads * launch.dim <= kMostQuantizeWidth, "heads: expected at most ",
             kMostQuantizeWidth / launch.dim, " of ", launch.dim, " channels, got ", launch.heads);
  FPSA_CHECK(!launch.weight || launch.eps >= 0x1p-100f, "eps: expected 2^-100 or more, got ", launch.eps);
  check_aligned(launch.turns, "turns");
  check_aligned(launch.scale, "scale");
  if (launch.batch * launch.heads * launch.slots == 0) return;
  const auto on = static_cast<cudaStream_t>(stream);
  const int count = multiprocessors();

  QuantizeRowsParams params;
  params.x = {static_cast<const uint16_t*>(launch.x), launch.batch_stride, launch.row_stride, launch.head_stride};
  params.weight = launch.weight;
  params.turns = launch.turns;
  params.eps = launch.eps;
  params.plan = view_of(launch.plan, launch.slots);
  params.slots = static_cast<int32_t>(launch.slots);
  params.groups = static_cast<int32_t>(launch.groups);
  params.units = static_cast<int32_t>(launch.units);
  params.batch = static_cast<int32_t>(launch.batch);
  params.heads = static_cast<int32_t>(launch.heads);
  params.codes = launch.codes;
  params.scale = launch.scale;
  // What must be zero, then what need not.
  params.magnitudes = static_cast<uint32_t*>(launch.scratch);
  params.complete = params.magnitudes + launch.batch * launch.groups * launch.heads;
  params.ticket = params.complete + launch.batch * launch.units;
  const int64_t zeros = multiple_of_16(4 * launch.batch * (launch.groups * launch.heads + launch.units) + 4);
  params.inverse_rms = reinterpret_cast<float*>(static_cast<uint8_t*>(launch.scratch) + zeros);
  check(cudaMemsetAsync(launch.scratch, 0, static_cast<size_t>(zeros), on), kName);
  dispatch_rows(params, launch.dim, count, on);
}

void launch_quantize_values(const QuantizeValuesLaunch& launch, void* stream) {
  check_common(launch);
  if (launch.batch * launch.heads * launch.slots == 0) return;
  const auto on = static_cast<cudaStream_t>(stream);
  const int count = multiprocessors();
  QuantizeValuesParams params;
  params.x = {static_cast<const uint16_t*>(launch.x), launch.batch_stride, launch.row_stride, launch.head_stride};
  params.row_of_slot = launch.row_of_slot;
  params.slots = static_cast<int32_t>(launch.slots);
  params.tokens = static_cast<int32_t>(launch.tokens);
  params.batch = static_cast<int32_t>(launch.batch);
  params.heads = static_cast<int32_t>(launch.heads);
  params.codes = launch.codes;
  params.scale = launch.scale;
  params.magnitudes = static_cast<uint32_t*>(launch.scratch);
  const int64_t zeros = quantize_values_scratch_bytes(launch.batch, launch.heads, launch.dim);
  check(cudaMemsetAsync(launch.scratch, 0, static_cast<size_t>(zeros), on), kName);
  if (launch.dim == 128)
    start_values<128>(params, count, on);
  else
    start_values<64>(params, count, on);
}

}  // namespace fpsa::kernel::cuda
