// The instantiations of attention_fwd_e4m3_sm90a for the device, and their launch.
#include <cuda.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "fpsa/base/check.h"
#include "fpsa/kernel/cuda/attention_fwd_e4m3_sm90a-inl.h"
#include "fpsa/kernel/cuda/launch.h"

namespace fpsa::kernel::cuda {
inline namespace FPSA_TARGET {

// nvcc 13.0 makes host code that does not compile of a kernel whose template parameter is a class.
template <int kDim, bool kColumnScales, bool kExact>
__global__ void __launch_bounds__(kThreads, 1) attention_fwd_e4m3_kernel(const __grid_constant__ AttentionFwdParams p) {
  attention_fwd_e4m3_sm90a<choose_tiling(kDim, kColumnScales, kExact)>(p);
}

}  // namespace FPSA_TARGET
namespace {

void check(cudaError_t error, const char* what) {
  FPSA_CHECK(error == cudaSuccess, what, ": CUDA says ", cudaGetErrorName(error), " (", cudaGetErrorString(error), ")");
}

// The driver's encoder, found at run time: the program also starts where there is no driver.
decltype(&cuTensorMapEncodeTiled) encoder() {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result;
  check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result),
        "cuTensorMapEncodeTiled");
  FPSA_CHECK(result == cudaDriverEntryPointSuccess, "cuTensorMapEncodeTiled: not in this driver; it needs CUDA 12");
  return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(found);
}

ptx::TensorMap encode(const ptx::TensorMapSpec& spec, const char* name) {
  static const auto encode_tiled = encoder();
  static constexpr CUtensorMapSwizzle kSwizzles[] = {CU_TENSOR_MAP_SWIZZLE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                                     CU_TENSOR_MAP_SWIZZLE_64B, CU_TENSOR_MAP_SWIZZLE_32B};
  static_assert(sizeof(ptx::TensorMap) == sizeof(CUtensorMap) && alignof(ptx::TensorMap) >= alignof(CUtensorMap));
  cuuint64_t size[3], stride[2];
  cuuint32_t box[3], step[3];
  for (int i = 0; i < spec.rank; ++i) {
    size[i] = spec.size[i];
    box[i] = spec.box[i];
    step[i] = 1;
    if (i > 0) stride[i - 1] = spec.stride[i];
  }
  ptx::TensorMap map;
  const CUresult result = encode_tiled(
      reinterpret_cast<CUtensorMap*>(&map), CU_TENSOR_MAP_DATA_TYPE_UINT8, static_cast<cuuint32_t>(spec.rank),
      const_cast<void*>(spec.data), size, stride, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE,
      kSwizzles[static_cast<int>(spec.swizzle)], CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  FPSA_CHECK(result == CUDA_SUCCESS, name, ": the driver refuses its tensor map, error ", static_cast<int>(result));
  return map;
}

template <int kDim, bool kColumnScales, bool kExact>
void start(const AttentionFwdParams& params, int blocks, cudaStream_t stream) {
  constexpr SharedMap kMap = shared_map(choose_tiling(kDim, kColumnScales, kExact));
  const auto kernel = attention_fwd_e4m3_kernel<kDim, kColumnScales, kExact>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(kMap.bytes)),
        "attention_fwd_e4m3_sm90a");
  kernel<<<blocks, kThreads, kMap.bytes, stream>>>(params);
  check(cudaGetLastError(), "attention_fwd_e4m3_sm90a");
}

// Every instantiation, in one list.
void dispatch(const AttentionFwdLaunch& launch, const AttentionFwdParams& params, int blocks, cudaStream_t stream) {
#define FPSA_CASE(dim_, columns_, exact_)                                               \
  if (launch.dim == dim_ && launch.column_scales == columns_ && launch.exact == exact_) \
  return start<dim_, columns_, exact_>(params, blocks, stream)
  FPSA_CASE(128, false, false);
  FPSA_CASE(128, true, false);
  FPSA_CASE(128, false, true);
  FPSA_CASE(128, true, true);
  FPSA_CASE(64, false, false);
  FPSA_CASE(64, true, false);
  FPSA_CASE(64, false, true);
  FPSA_CASE(64, true, true);
#undef FPSA_CASE
  FPSA_CHECK(false, "head_dim: expected 64 or 128, got ", launch.dim, "; use the dense path of torch");
}

// Multiprocessors of the current device, which must be one that runs sm_90a code.
int multiprocessors() {
  int device, major, minor, count;
  check(cudaGetDevice(&device), "device");
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "device");
  check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "device");
  FPSA_CHECK(major == 9 && minor == 0, "device: expected compute capability 9.0 (H100, H200, H20), got ", major, ".",
             minor, "; sm_90a code runs nowhere else, use the dense path of torch");
  check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device), "device");
  return count;
}

}  // namespace

void launch_attention_fwd_e4m3(const AttentionFwdLaunch& launch, void* stream) {
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  FPSA_CHECK(launch.dim == 64 || launch.dim == 128, "head_dim: expected 64 or 128, got ", launch.dim);
  const int64_t jobs = launch.batch * launch.heads;
  const int64_t items = launch.item_count * (launch.shared_mask ? jobs : launch.batch);
  if (items == 0) return;
  // A block's index goes one grid beyond the last item.
  FPSA_CHECK(items <= kMost - (1 << 16), "batch: its work has ", items,
             " items, expected less than 2^31 - 2^16; split it");
  for (const int64_t segments : {launch.query_segments, launch.key_segments})
    FPSA_CHECK(jobs * segments * kSegment <= kMost, "batch: its heads have ", jobs * segments * kSegment,
               " slots, expected at most 2^31 - 1; split it");
  FPSA_CHECK(launch.softmax_scale > 0 && std::isfinite(launch.softmax_scale),
             "softmax_scale: expected a positive number, for maxima are taken before scaling, got ",
             launch.softmax_scale);
  const int64_t bytes = launch.type == DeviceOutType::kF32 ? 4 : 2;
  for (const int64_t stride : {launch.batch_stride, launch.head_stride, launch.row_stride})
    FPSA_CHECK(stride * bytes % 16 == 0, "out: expected strides that are multiples of 16 bytes, got ", stride * bytes);
  for (const void* pointer :
       {launch.q, launch.k, launch.v, static_cast<const void*>(launch.k_scale), static_cast<const void*>(launch.out)})
    FPSA_CHECK(pointer && reinterpret_cast<uintptr_t>(pointer) % 16 == 0,
               "attention: expected arrays at multiples of 16 bytes, got one at ", pointer);
  const int64_t blocks = multiprocessors();

  const AttentionMaps maps = attention_maps(launch.q, launch.k, launch.v, static_cast<int>(launch.dim), jobs,
                                            launch.query_segments, launch.key_segments);
  AttentionFwdParams params;
  params.q = encode(maps.q, "q");
  params.k = encode(maps.k, "k");
  params.v = encode(maps.v, "v");
  params.q_scale = launch.q_scale;
  params.k_scale = launch.k_scale;
  params.v_scale = launch.v_scale;
  params.items = launch.items;
  params.entries = launch.entries;
  params.row_of_slot = launch.row_of_slot;
  params.item_count = static_cast<int32_t>(launch.item_count);
  params.batch = static_cast<int32_t>(launch.batch);
  params.heads = static_cast<int32_t>(launch.heads);
  params.query_segments = static_cast<int32_t>(launch.query_segments);
  params.key_segments = static_cast<int32_t>(launch.key_segments);
  params.queries = launch.queries;
  params.shared_mask = launch.shared_mask;
  params.log2_factor = 1.44269504089f * launch.softmax_scale;
  params.out = {launch.out, static_cast<OutType>(launch.type), launch.batch_stride, launch.head_stride,
                launch.row_stride};
  params.lse = launch.lse;
  params.row_max = launch.row_max;
  dispatch(launch, params, static_cast<int>(std::min(blocks, items)), static_cast<cudaStream_t>(stream));
}

}  // namespace fpsa::kernel::cuda
