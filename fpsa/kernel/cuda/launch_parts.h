// What launchers of sm_90a kernels share: errors of CUDA, tensor maps, the device. Included by .cu files only.
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <limits>

#include "fpsa/base/check.h"
#include "fpsa/kernel/cuda/attention_params.h"
#include "fpsa/kernel/cuda/launch.h"

namespace fpsa::kernel::cuda {

inline void check(cudaError_t error, const char* what) {
  FPSA_CHECK(error == cudaSuccess, what, ": CUDA says ", cudaGetErrorName(error), " (", cudaGetErrorString(error), ")");
}

// The driver's encoder, found at run time: the program also starts where there is no driver.
inline decltype(&cuTensorMapEncodeTiled) tensor_map_encoder() {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result;
  check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result),
        "cuTensorMapEncodeTiled");
  FPSA_CHECK(result == cudaDriverEntryPointSuccess, "cuTensorMapEncodeTiled: not in this driver; it needs CUDA 12");
  return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(found);
}

inline ptx::TensorMap encode_map(const ptx::TensorMapSpec& spec, const char* name) {
  static const auto encode_tiled = tensor_map_encoder();
  static constexpr CUtensorMapSwizzle kSwizzles[] = {CU_TENSOR_MAP_SWIZZLE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                                     CU_TENSOR_MAP_SWIZZLE_64B, CU_TENSOR_MAP_SWIZZLE_32B};
  static_assert(sizeof(ptx::TensorMap) == sizeof(CUtensorMap) && alignof(ptx::TensorMap) >= alignof(CUtensorMap));
  FPSA_CHECK(spec.element_bytes == 1 || spec.element_bytes == 2, name, ": expected elements of 1 or 2 bytes, got ",
             spec.element_bytes);
  cuuint64_t size[3], stride[2];
  cuuint32_t box[3], step[3];
  for (int i = 0; i < spec.rank; ++i) {
    size[i] = spec.size[i];
    box[i] = spec.box[i];
    step[i] = 1;
    if (i > 0) stride[i - 1] = spec.stride[i];
  }
  ptx::TensorMap map;
  const CUresult result =
      encode_tiled(reinterpret_cast<CUtensorMap*>(&map),
                   spec.element_bytes == 1 ? CU_TENSOR_MAP_DATA_TYPE_UINT8 : CU_TENSOR_MAP_DATA_TYPE_UINT16,
                   static_cast<cuuint32_t>(spec.rank), const_cast<void*>(spec.data), size, stride, box, step,
                   CU_TENSOR_MAP_INTERLEAVE_NONE, kSwizzles[static_cast<int>(spec.swizzle)],
                   CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  FPSA_CHECK(result == CUDA_SUCCESS, name, ": the driver refuses its tensor map, error ", static_cast<int>(result));
  return map;
}

// The current device, which must be one that runs sm_90a code.
inline int check_device() {
  int device, major, minor;
  check(cudaGetDevice(&device), "device");
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "device");
  check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "device");
  FPSA_CHECK(major == 9 && minor == 0, "device: expected compute capability 9.0 (H100, H200, H20), got ", major, ".",
             minor, "; sm_90a code runs nowhere else, use the dense path of torch");
  return device;
}
// Its multiprocessors.
inline int multiprocessors() {
  const int device = check_device();
  int count;
  check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device), "device");
  return count;
}

inline void check_alignment(std::initializer_list<const void*> pointers) {
  for (const void* pointer : pointers)
    FPSA_CHECK(pointer && reinterpret_cast<uintptr_t>(pointer) % 16 == 0,
               "attention: expected arrays at multiples of 16 bytes, got one at ", pointer);
}

/// The items of a launch, whose common arguments are in order.
inline int64_t checked_items(const AttentionFwdLaunch& launch) {
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  FPSA_CHECK(launch.dim == 64 || launch.dim == 128, "head_dim: expected 64 or 128, got ", launch.dim);
  const int64_t jobs = launch.batch * launch.heads;
  const int64_t items = launch.item_count * (launch.shared_mask ? jobs : launch.batch);
  if (items == 0) return 0;
  // A block's index goes one grid beyond the last item.
  FPSA_CHECK(items <= kMost - (1 << 16), "batch: its work has ", items,
             " items, expected less than 2^31 - 2^16; split it");
  for (const int64_t segments : {launch.query_segments, launch.key_segments})
    FPSA_CHECK(jobs * segments * kSegment <= kMost, "batch: its heads have ", jobs * segments * kSegment,
               " slots, expected at most 2^31 - 1; split it");
  FPSA_CHECK(launch.softmax_scale > 0 && std::isfinite(launch.softmax_scale),
             "softmax_scale: expected a positive number, for maxima are taken before scaling, got ",
             launch.softmax_scale);
  FPSA_CHECK(launch.paired >= 0 && launch.paired <= launch.item_count && launch.paired % 2 == 0,
             "paired: expected WorkList::paired, an even part of the ", launch.item_count, " items, got ",
             launch.paired);
  const int64_t bytes = launch.type == DeviceOutType::kF32 ? 4 : 2;
  for (const int64_t stride : {launch.batch_stride, launch.head_stride, launch.row_stride})
    FPSA_CHECK(stride * bytes % 16 == 0, "out: expected strides that are multiples of 16 bytes, got ", stride * bytes,
               "; give rows that are, or pass 0 along a dimension of one");
  check_alignment({launch.q, launch.k, launch.v, launch.out});
  return items;
}

inline void fill(AttentionParams& params, const AttentionFwdLaunch& launch, const AttentionMaps& maps) {
  params.q = encode_map(maps.q, "q");
  params.k = encode_map(maps.k, "k");
  params.v = encode_map(maps.v, "v");
  params.items = launch.items;
  params.entries = launch.entries;
  params.row_of_slot = launch.row_of_slot;
  params.item_count = static_cast<int32_t>(launch.item_count);
  params.paired = static_cast<int32_t>(launch.paired);
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
}

/// Lets a kernel have its dynamic shared memory.
template <class Kernel>
void allow_shared_bytes(Kernel* kernel, const char* name, uint32_t bytes) {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)), name);
}

/// Starts a kernel with its dynamic shared memory.
template <class Kernel, class Params>
void start(Kernel* kernel, const char* name, int64_t blocks, int threads, uint32_t shared_bytes, const Params& params,
           void* stream) {
  allow_shared_bytes(kernel, name, shared_bytes);
  kernel<<<static_cast<unsigned>(blocks), threads, shared_bytes, static_cast<cudaStream_t>(stream)>>>(params);
  check(cudaGetLastError(), name);
}

/// Starts a kernel whose blocks take `items` in turns: as many clusters as run at the same time, or as have an item for
/// each block. A cluster needs its multiprocessors in one part of the chip, where an odd one is left over if some are
/// disabled, so the device is asked.
template <class Kernel, class Params>
void start_clusters(Kernel* kernel, const char* name, int64_t items, int cluster, int threads, uint32_t shared_bytes,
                    const Params& params, void* stream) {
  allow_shared_bytes(kernel, name, shared_bytes);
  const auto size = static_cast<unsigned>(cluster);
  cudaLaunchAttribute shape;
  shape.id = cudaLaunchAttributeClusterDimension;
  shape.val.clusterDim.x = size;
  shape.val.clusterDim.y = shape.val.clusterDim.z = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = size;
  config.blockDim = static_cast<unsigned>(threads);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = static_cast<cudaStream_t>(stream);
  config.attrs = &shape;
  config.numAttrs = 1;
  int together = 0;
  check(cudaOccupancyMaxActiveClusters(&together, kernel, &config), name);
  FPSA_CHECK(together > 0, name, ": the device runs no cluster of ", cluster, " blocks of ", shared_bytes,
             " bytes of shared memory; another process or a partition of the device may hold its multiprocessors");
  config.gridDim = size * static_cast<unsigned>(std::min<int64_t>(together, (items + cluster - 1) / cluster));
  check(cudaLaunchKernelEx(&config, kernel, params), name);
}

}  // namespace fpsa::kernel::cuda
