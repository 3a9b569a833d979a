// Launches of quantize_sm90a on device memory, for host code that knows no CUDA headers.
#pragma once

#include <cstdint>

namespace fpsa::kernel::cuda {

/// Q or K, from the projection to what attention_fwd_e4m3_sm90a takes: RMSNorm over all heads, RoPE, tile order, codes
/// and scales, by the contract of kernel/prepass.h.
///   Shapes    x BF16 [B,L,H,D]; weight F32 [H*D] or null: no norm; turns F32 [L,D], raster order, cos, sin, cos, sin
///             ... of each pair's angle, for all of the batch, or null: no rotation; plan: QuantizePlan::words
///             (tiling/quantize_plan.h) with its counts; codes [B,H,slots,D]; scale F32 [B,H,slots]
///   Layout    x: strides in elements, D contiguous, rows at multiples of 16 bytes; weight, turns, codes, scale and
///             scratch at multiples of 16 bytes; codes and scale contiguous. Norm and turns both null: x is quantised
///             as it is
///   Units     real = code x scale
///   Requires  D 64 or 128, H*D at most 10,880; eps 2^-100 or more; scratch of quantize_rows_scratch_bytes(), which
///             holds nothing before or after and serves one launch at a time
///   Edges     slots without a token: codes 0, the scale of the segment's first slot. Others as in kernel/quantize.h
///   Numerics  the bits of kernel/prepass.h, on every run
struct QuantizeRowsLaunch {
  const void* x = nullptr;
  int64_t batch_stride = 0, row_stride = 0, head_stride = 0;
  const float* weight = nullptr;
  float eps = 0;
  const float* turns = nullptr;
  const int32_t* plan = nullptr;
  int64_t slots = 0, groups = 0, units = 0;  // of the plan
  int64_t batch = 0, heads = 0, dim = 0;
  uint8_t* codes = nullptr;
  float* scale = nullptr;
  void* scratch = nullptr;
};

/// V: one scale per channel over the whole sequence, codes transposed for the second product.
///   Shapes    x BF16 [B,L,H,D]; row_of_slot [slots], the first words of a plan; codes [B,H,slots/32,D,32], the 32
///             values of a segment and channel in the order of value_place(); scale F32 [B,H,D]
///   Layout, Units, Requires, Edges, Numerics as above; scratch of quantize_values_scratch_bytes()
struct QuantizeValuesLaunch {
  const void* x = nullptr;
  int64_t batch_stride = 0, row_stride = 0, head_stride = 0;
  const int32_t* row_of_slot = nullptr;
  int64_t slots = 0, tokens = 0;  // tokens = L
  int64_t batch = 0, heads = 0, dim = 0;
  uint8_t* codes = nullptr;
  float* scale = nullptr;
  void* scratch = nullptr;
};

/// Bytes of scratch, a multiple of 16.
int64_t quantize_rows_scratch_bytes(int64_t batch, int64_t heads, int64_t slots, int64_t groups, int64_t units);
int64_t quantize_values_scratch_bytes(int64_t batch, int64_t heads, int64_t dim);

/// Enqueues the kernels on a stream (a cudaStream_t) of the current device; returns at once and allocates nothing, so
/// it may be captured in a graph.
///   Errors    fpsa::Error: a device other than compute capability 9.0, a head dim other than 64 and 128, pointers or
///             strides that are not multiples of 16 bytes, too many heads, 2^31 or more slots, an error of CUDA
void launch_quantize_rows(const QuantizeRowsLaunch& launch, void* stream);
void launch_quantize_values(const QuantizeValuesLaunch& launch, void* stream);

}  // namespace fpsa::kernel::cuda
