// The instantiations of attention_fwd_e4m3_sm90a for the device, and their launch.
#include <algorithm>

#include "fpsa/kernel/cuda/attention_fwd_e4m3_sm90a-inl.h"
#include "fpsa/kernel/cuda/launch_parts.h"

namespace fpsa::kernel::cuda {
inline namespace FPSA_TARGET {

// nvcc 13.0 makes host code that does not compile of a kernel whose template parameter is a class.
template <int kDim, bool kColumnScales, bool kExact, int kCluster>
__global__ void __launch_bounds__(kThreads, 1) attention_fwd_e4m3_kernel(const __grid_constant__ AttentionFwdParams p) {
  attention_fwd_e4m3_sm90a<choose_tiling(kDim, kColumnScales, kExact, kCluster)>(p);
}

}  // namespace FPSA_TARGET
namespace {

// Every instantiation, in one list.
void dispatch(const AttentionFwdLaunch& launch, const AttentionFwdParams& params, int64_t items, void* stream) {
  constexpr const char* kName = "attention_fwd_e4m3_sm90a";
  if (choose_coded_cluster(static_cast<int>(launch.dim), launch.column_scales, launch.exact, launch.item_count,
                           launch.paired) == 2)
    return start_clusters(attention_fwd_e4m3_kernel<128, false, false, 2>, kName, items, 2, kThreads,
                          shared_map(choose_tiling(128, false, false, 2)).bytes, params, stream);
  const int64_t blocks = std::min<int64_t>(multiprocessors(), items);
#define FPSA_CASE(dim_, columns_, exact_)                                                     \
  if (launch.dim == dim_ && launch.column_scales == columns_ && launch.exact == exact_)       \
  return start(attention_fwd_e4m3_kernel<dim_, columns_, exact_, 1>, kName, blocks, kThreads, \
               shared_map(choose_tiling(dim_, columns_, exact_)).bytes, params, stream)
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

}  // namespace

void launch_attention_fwd_e4m3(const AttentionFwdLaunch& launch, void* stream) {
  const int64_t items = checked_items(launch);
  if (items == 0) return;
  check_device();
  check_alignment({launch.k_scale});
  AttentionFwdParams params;
  fill(params, launch,
       attention_maps(launch.q, launch.k, launch.v, static_cast<int>(launch.dim), launch.batch * launch.heads,
                      launch.query_segments, launch.key_segments));
  params.q_scale = launch.q_scale;
  params.k_scale = launch.k_scale;
  params.v_scale = launch.v_scale;
  dispatch(launch, params, items, stream);
}

}  // namespace fpsa::kernel::cuda
