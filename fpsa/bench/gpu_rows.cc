#include "fpsa/bench/gpu_rows.h"

#include <algorithm>
#include <limits>
#include <numbers>
#include <vector>

#include "fpsa/kernel/cuda/tiling/segments.h"

namespace fpsa::bench {
namespace {

namespace cuda = kernel::cuda;

at::Tensor decoded(const at::Tensor& codes) {
  return codes.view(at::kFloat8_e4m3fn).to(at::kFloat).to(at::kDouble);
}

// [segments, D, 32] in the order of value_place() to [slots, D].
at::Tensor values_by_slot(const at::Tensor& codes, int64_t dim) {
  std::vector<int64_t> place;
  for (int key = 0; key < cuda::kSegment; ++key)
    place.push_back(cuda::value_place(key));
  const auto index = at::tensor(place, at::kLong).to(codes.device());
  return codes.view({-1, dim, cuda::kSegment}).index_select(2, index).transpose(1, 2).reshape({-1, dim});
}

struct Probes {
  std::vector<int64_t> slots, raster;
  at::Tensor visible;  // [rows, slots] bool, on the CPU
};

Probes probes(const ops::Plan& plan) {
  const cuda::SegmentLayout layout(plan.order().tile_begin());
  const auto positions = layout.position_of_slot();
  const int64_t tokens = plan.tokens(), rows = std::min<int64_t>(8, tokens);
  std::vector<int64_t> slot_of(static_cast<size_t>(tokens));
  for (size_t slot = 0; slot < positions.size(); ++slot)
    if (positions[slot] >= 0) slot_of[static_cast<size_t>(positions[slot])] = static_cast<int64_t>(slot);
  Probes found;
  std::vector<at::Tensor> visible;
  for (const int64_t first : {int64_t{0}, (tokens - rows) / 2, tokens - rows}) {
    for (int64_t at = first; at < first + rows; ++at) {
      found.slots.push_back(slot_of[static_cast<size_t>(at)]);
      found.raster.push_back(plan.order().to_raster()[static_cast<size_t>(at)]);
      const auto& begins = plan.order().tile_begin();
      const int64_t tile = std::ranges::upper_bound(begins, static_cast<int32_t>(at)) - begins.begin() - 1;
      auto row = at::zeros({layout.slots()}, at::kBool);
      for (const int32_t key_tile : plan.mask().visible(0, tile)) {
        const int64_t begin = int64_t{layout.begin(key_tile)} * cuda::kSegment;
        row.narrow(0, begin, plan.order().tile_tokens(key_tile)).fill_(true);
      }
      visible.push_back(row);
    }
  }
  found.visible = at::stack(visible);
  return found;
}

}  // namespace

double row_error(const ops::CudaPacked& packed, const ops::Plan& plan, float softmax_scale, const at::Tensor& out) {
  const Probes at_rows = probes(plan);
  const auto device = out.device();
  const bool coded = packed.q_scale.defined();
  const auto head = [](const at::Tensor& x) { return x.select(0, 0).select(0, 0); };
  const auto by_slot = [&](const at::Tensor& x, const at::Tensor& scale) {
    return coded ? decoded(head(x)) * head(scale).to(at::kDouble).unsqueeze(1) : head(x).to(at::kDouble);
  };
  const auto slots = at::tensor(at_rows.slots, at::kLong).to(device);
  const auto q = by_slot(packed.q, packed.q_scale).index_select(0, slots);
  const auto k = by_slot(packed.k, packed.k_scale);
  const auto v = coded ? decoded(values_by_slot(head(packed.v), out.size(3))) * head(packed.v_scale).to(at::kDouble)
                       : head(packed.v).to(at::kDouble);
  const auto hidden = at_rows.visible.to(device).logical_not();
  const auto scores = (q.matmul(k.t()) * (std::numbers::log2e * softmax_scale))
                          .masked_fill(hidden, -std::numeric_limits<double>::infinity());
  const auto top = scores.amax(1, /*keepdim=*/true).ceil();
  const auto p = at::exp2(scores - top);
  const auto used =
      coded ? (p * 256).to(at::kFloat).to(at::kFloat8_e4m3fn).to(at::kFloat).to(at::kDouble) / 256 : p;
  const auto expected = used.matmul(v) / p.sum(1, /*keepdim=*/true);
  const auto raster = at::tensor(at_rows.raster, at::kLong).to(device);
  const auto got = out.select(0, 0).select(1, 0).index_select(0, raster).to(at::kDouble);
  return ((got - expected).norm() / expected.norm().clamp_min(1e-300)).item<double>();
}

}  // namespace fpsa::bench
