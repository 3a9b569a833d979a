#include "fpsa/ops/cuda_steps.h"

#include <algorithm>
#include <utility>

#include "fpsa/kernel/cuda/launch.h"
#include "fpsa/kernel/cuda/quantize_launch.h"
#include "fpsa/ops/cuda_stream.h"

namespace fpsa::ops {
namespace {

namespace cuda = kernel::cuda;

cuda::DeviceOutType out_type(at::ScalarType type) {
  return type == at::kFloat ? cuda::DeviceOutType::kF32
         : type == at::kHalf ? cuda::DeviceOutType::kF16
                             : cuda::DeviceOutType::kBf16;
}

const float* floats(const at::Tensor& x) {
  return x.defined() ? x.const_data_ptr<float>() : nullptr;
}

}  // namespace

bool readable_by_kernels(const at::Tensor& x) {
  const auto whole = [&](int dim) { return x.stride(dim) % 8 == 0 || x.size(dim) == 1; };
  return x.stride(3) == 1 && whole(0) && whole(1) && whole(2) &&
         reinterpret_cast<uintptr_t>(x.const_data_ptr()) % 16 == 0;
}

CudaSteps::CudaSteps(CudaInputs inputs, const Plan& plan)
    : inputs_(std::move(inputs)),
      batch_(inputs_.q.size(0)),
      tokens_(inputs_.q.size(1)),
      heads_(inputs_.q.size(2)),
      dim_(inputs_.q.size(3)) {
  const cuda::DeviceScope current(device());
  plan_ = plan_on_device(plan, device(), current_cuda_stream(device()));
  const auto& image = plan_->image;
  const auto bytes = inputs_.q.options().dtype(at::kByte), f32 = inputs_.q.options().dtype(at::kFloat);
  for (at::Tensor* codes : {&codes_.q, &codes_.k, &codes_.v})
    *codes = at::empty({batch_, heads_, image.slots, dim_}, bytes);
  for (at::Tensor* scale : {&codes_.q_scale, &codes_.k_scale})
    *scale = at::empty({batch_, heads_, image.slots}, f32);
  codes_.v_scale = at::empty({batch_, heads_, dim_}, f32);
  // Launches of one stream follow one another, so they share their scratch.
  const int64_t rows =
      cuda::quantize_rows_scratch_bytes(batch_, heads_, image.slots, image.groups, image.units);
  scratch_ = at::empty({std::max(rows, cuda::quantize_values_scratch_bytes(batch_, heads_, dim_))}, bytes);
}

void CudaSteps::quantize_rows(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& codes,
                              const at::Tensor& scale, void* stream) const {
  const auto& image = plan_->image;
  cuda::QuantizeRowsLaunch launch;
  launch.x = x.const_data_ptr();
  launch.batch_stride = x.stride(0);
  launch.row_stride = x.stride(1);
  launch.head_stride = x.stride(2);
  launch.weight = floats(weight);
  launch.eps = inputs_.eps;
  launch.turns = floats(inputs_.turns);
  launch.plan = plan_->at<int32_t>(image.quantize);
  launch.slots = image.slots;
  launch.groups = image.groups;
  launch.units = image.units;
  launch.batch = batch_;
  launch.heads = heads_;
  launch.dim = dim_;
  launch.codes = codes.mutable_data_ptr<uint8_t>();
  launch.scale = scale.mutable_data_ptr<float>();
  launch.scratch = scratch_.mutable_data_ptr();
  cuda::launch_quantize_rows(launch, stream);
}

void CudaSteps::quantize() const {
  const cuda::DeviceScope current(device());
  void* stream = current_cuda_stream(device());
  quantize_rows(inputs_.q, inputs_.q_weight, codes_.q, codes_.q_scale, stream);
  quantize_rows(inputs_.k, inputs_.k_weight, codes_.k, codes_.k_scale, stream);
  const at::Tensor& v = inputs_.v;
  cuda::QuantizeValuesLaunch launch;
  launch.x = v.const_data_ptr();
  launch.batch_stride = v.stride(0);
  launch.row_stride = v.stride(1);
  launch.head_stride = v.stride(2);
  launch.row_of_slot = plan_->at<int32_t>(plan_->image.quantize);
  launch.slots = plan_->image.slots;
  launch.tokens = tokens_;
  launch.batch = batch_;
  launch.heads = heads_;
  launch.dim = dim_;
  launch.codes = codes_.v.mutable_data_ptr<uint8_t>();
  launch.scale = codes_.v_scale.mutable_data_ptr<float>();
  launch.scratch = scratch_.mutable_data_ptr();
  cuda::launch_quantize_values(launch, stream);
}

void CudaSteps::attend(float softmax_scale, const at::Tensor& out, const at::Tensor& lse, const at::Tensor& row_max,
                       bool exact) const {
  const cuda::DeviceScope current(device());
  const auto& image = plan_->image;
  cuda::AttentionFwdLaunch launch;
  launch.q = codes_.q.const_data_ptr();
  launch.k = codes_.k.const_data_ptr();
  launch.v = codes_.v.const_data_ptr();
  launch.q_scale = floats(codes_.q_scale);
  launch.k_scale = floats(codes_.k_scale);
  launch.v_scale = floats(codes_.v_scale);
  launch.items = plan_->at<cuda::WorkItem>(image.items);
  launch.entries = plan_->at<int32_t>(image.entries);
  launch.row_of_slot = plan_->at<int32_t>(image.quantize);
  launch.item_count = image.item_count;
  launch.batch = batch_;
  launch.heads = heads_;
  launch.query_segments = launch.key_segments = image.segments;
  launch.queries = tokens_;
  launch.dim = dim_;
  launch.shared_mask = image.shared_mask;
  launch.column_scales = image.column_scales;
  launch.exact = exact;
  launch.softmax_scale = softmax_scale;
  launch.out = out.mutable_data_ptr();
  launch.type = out_type(out.scalar_type());
  launch.batch_stride = out.stride(0);
  launch.row_stride = out.stride(1);
  launch.head_stride = out.stride(2);
  launch.lse = lse.defined() ? lse.mutable_data_ptr<float>() : nullptr;
  launch.row_max = row_max.defined() ? row_max.mutable_data_ptr<float>() : nullptr;
  cuda::launch_attention_fwd_e4m3(launch, current_cuda_stream(device()));
}

}  // namespace fpsa::ops
