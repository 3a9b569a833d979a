#include "fpsa/ops/cuda_steps.h"

#include <algorithm>
#include <utility>

#include "fpsa/kernel/cuda/quantize_launch.h"
#include "fpsa/kernel/cuda/tiling/attention_tiling.h"
#include "fpsa/ops/cuda_stream.h"

namespace fpsa::ops {
namespace {

namespace cuda = kernel::cuda;

cuda::DeviceOutType out_type(at::ScalarType type) {
  return type == at::kFloat ? cuda::DeviceOutType::kF32
         : type == at::kHalf ? cuda::DeviceOutType::kF16
                             : cuda::DeviceOutType::kBf16;
}

// A launch's, of a tensor [B,L,H,D].
template <class To>
void set_strides(To& to, const at::Tensor& x) {
  const KernelStrides strides = kernel_strides(x);
  to.batch_stride = strides.batch;
  to.row_stride = strides.row;
  to.head_stride = strides.head;
}

const float* floats(const at::Tensor& x) {
  return x.defined() ? x.const_data_ptr<float>() : nullptr;
}

}  // namespace

bool readable_by_kernels(const at::Tensor& x) {
  const int64_t piece = 16 / x.element_size();
  const auto [batch, row, head] = kernel_strides(x);
  return x.stride(3) == 1 && batch % piece == 0 && row % piece == 0 && head % piece == 0 &&
         reinterpret_cast<uintptr_t>(x.const_data_ptr()) % 16 == 0;
}

KernelStrides kernel_strides(const at::Tensor& x) {
  const auto of = [&](int dim) { return x.size(dim) == 1 ? 0 : x.stride(dim); };
  return {of(0), of(1), of(2)};
}

CudaSteps::CudaSteps(CudaInputs inputs, bool coded)
    : inputs_(std::move(inputs)),
      coded_(coded),
      batch_(inputs_.q.size(0)),
      tokens_(inputs_.q.size(1)),
      heads_(inputs_.q.size(2)),
      dim_(inputs_.q.size(3)) {}

CudaSteps::CudaSteps(CudaInputs inputs, const Plan& plan, bool coded) : CudaSteps(std::move(inputs), coded) {
  host_plan_ = &plan;
  const cuda::DeviceScope current(device());
  plan_ = key_plan_ = plan_on_device(plan, device(), current_cuda_stream(device()));
  const auto& image = plan_->image;
  work_ = {plan_->at<cuda::WorkItem>(image.items), plan_->at<int32_t>(image.entries), plan_->row_of_slot(),
           image.item_count, image.paired};
  allocate();
}

CudaSteps::CudaSteps(CudaInputs inputs, const CrossPlan& plan) : CudaSteps(std::move(inputs), /*coded=*/false) {
  cross_plan_ = &plan;
  const cuda::DeviceScope current(device());
  void* stream = current_cuda_stream(device());
  plan_ = plan_on_device(*plan.queries, device(), stream);
  key_plan_ = plan_on_device(*plan.keys, device(), stream);
  cross_work_ = cross_work_on_device(plan, /*of_keys=*/false, device(), stream);
  work_ = {cross_work_->items(), cross_work_->entries(), plan_->row_of_slot(), cross_work_->item_count,
           cross_work_->paired};
  allocate();
}

void CudaSteps::allocate() {
  const auto& image = plan_->image;
  const auto bytes = inputs_.q.options().dtype(at::kByte), f32 = inputs_.q.options().dtype(at::kFloat);
  const auto operands = [&](int64_t slots) {
    return at::empty({batch_, heads_, slots, dim_}, coded_ ? bytes : inputs_.q.options());
  };
  packed_.q = operands(image.slots);
  packed_.k = operands(key_plan_->image.slots);
  packed_.v = operands(key_plan_->image.slots);
  if (!coded_) return;
  for (at::Tensor* scale : {&packed_.q_scale, &packed_.k_scale})
    *scale = at::empty({batch_, heads_, image.slots}, f32);
  packed_.v_scale = at::empty({batch_, heads_, dim_}, f32);
  // Launches of one stream follow one another, so they share their scratch.
  const int64_t rows =
      cuda::quantize_rows_scratch_bytes(batch_, heads_, image.slots, image.groups, image.units);
  scratch_ = at::empty({std::max(rows, cuda::quantize_values_scratch_bytes(batch_, heads_, dim_))}, bytes);
}

std::shared_ptr<const DeviceWorkList> CudaSteps::key_work(void* stream) const {
  return cross_plan_ ? cross_work_on_device(*cross_plan_, /*of_keys=*/true, device(), stream)
                     : key_work_on_device(*host_plan_, device(), stream);
}

void CudaSteps::quantize_rows(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& codes,
                              const at::Tensor& scale, void* stream) const {
  const auto& image = plan_->image;
  cuda::QuantizeRowsLaunch launch;
  launch.x = x.const_data_ptr();
  set_strides(launch, x);
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

void CudaSteps::quantize_values(void* stream) const {
  const at::Tensor& v = inputs_.v;
  cuda::QuantizeValuesLaunch launch;
  launch.x = v.const_data_ptr();
  set_strides(launch, v);
  launch.row_of_slot = plan_->row_of_slot();
  launch.slots = plan_->image.slots;
  launch.tokens = tokens_;
  launch.batch = batch_;
  launch.heads = heads_;
  launch.dim = dim_;
  launch.codes = packed_.v.mutable_data_ptr<uint8_t>();
  launch.scale = packed_.v_scale.mutable_data_ptr<float>();
  launch.scratch = scratch_.mutable_data_ptr();
  cuda::launch_quantize_values(launch, stream);
}

void CudaSteps::pack_rows(const at::Tensor& x, const DevicePlan& plan, const at::Tensor& to, void* stream) const {
  cuda::PackBf16Launch launch;
  launch.from = x.const_data_ptr();
  set_strides(launch, x);
  launch.to = to.mutable_data_ptr();
  launch.row_of_slot = plan.row_of_slot();
  launch.batch = batch_;
  launch.heads = heads_;
  launch.segments = plan.image.segments;
  launch.dim = dim_;
  cuda::launch_pack_bf16(launch, stream);
}

void CudaSteps::pack() const {
  const cuda::DeviceScope current(device());
  void* stream = current_cuda_stream(device());
  if (coded_) {
    quantize_rows(inputs_.q, inputs_.q_weight, packed_.q, packed_.q_scale, stream);
    quantize_rows(inputs_.k, inputs_.k_weight, packed_.k, packed_.k_scale, stream);
    quantize_values(stream);
    return;
  }
  pack_rows(inputs_.q, *plan_, packed_.q, stream);
  pack_rows(inputs_.k, *key_plan_, packed_.k, stream);
  pack_rows(inputs_.v, *key_plan_, packed_.v, stream);
}

void CudaSteps::attend(float softmax_scale, const at::Tensor& out, const at::Tensor& lse, const at::Tensor& row_max,
                       bool exact) const {
  const cuda::DeviceScope current(device());
  const auto& image = plan_->image;
  cuda::AttentionFwdLaunch launch;
  launch.q = packed_.q.const_data_ptr();
  launch.k = packed_.k.const_data_ptr();
  launch.v = packed_.v.const_data_ptr();
  launch.q_scale = floats(packed_.q_scale);
  launch.k_scale = floats(packed_.k_scale);
  launch.v_scale = floats(packed_.v_scale);
  launch.items = work_.items;
  launch.entries = work_.entries;
  launch.row_of_slot = work_.row_of_slot;
  launch.item_count = work_.item_count;
  launch.paired = work_.paired;
  launch.batch = batch_;
  launch.heads = heads_;
  launch.query_segments = image.segments;
  launch.key_segments = key_plan_->image.segments;
  launch.queries = tokens_;
  launch.dim = dim_;
  launch.shared_mask = image.shared_mask;
  launch.column_scales = image.column_scales;
  launch.exact = exact;
  launch.f16 = inputs_.q.scalar_type() == at::kHalf;
  launch.softmax_scale = softmax_scale;
  launch.out = out.mutable_data_ptr();
  launch.type = out_type(out.scalar_type());
  set_strides(launch, out);
  launch.lse = lse.defined() ? lse.mutable_data_ptr<float>() : nullptr;
  launch.row_max = row_max.defined() ? row_max.mutable_data_ptr<float>() : nullptr;
  void* stream = current_cuda_stream(device());
  coded_ ? cuda::launch_attention_fwd_e4m3(launch, stream) : cuda::launch_attention_fwd_bf16(launch, stream);
}

int CudaSteps::cluster(bool exact) const {
  return coded_ ? cuda::choose_coded_cluster(static_cast<int>(dim_), plan_->image.column_scales, exact,
                                             work_.item_count, work_.paired)
                : cuda::choose_cluster(work_.item_count, work_.paired);
}

at::Tensor CudaSteps::expanded(const at::Tensor& codes, bool of_values, void* stream) const {
  auto values = at::empty(codes.sizes(), inputs_.q.options());
  cuda::ExpandCodesLaunch launch;
  launch.codes = codes.const_data_ptr();
  launch.values = values.mutable_data_ptr();
  launch.segments = batch_ * heads_ * plan_->image.segments;
  launch.dim = dim_;
  launch.of_values = of_values;
  cuda::launch_expand_codes(launch, stream);
  return values;
}

void CudaSteps::backward(float softmax_scale, const at::Tensor& d_out, const CudaSaved& saved,
                         const AttentionGradients& gradients) const {
  const cuda::DeviceScope current(device());
  void* stream = current_cuda_stream(device());
  const auto& image = plan_->image;
  const auto keys = key_work(stream);
  const auto q = coded_ ? expanded(packed_.q, false, stream) : packed_.q;
  const auto k = coded_ ? expanded(packed_.k, false, stream) : packed_.k;
  const auto v = coded_ ? expanded(packed_.v, true, stream) : packed_.v;
  const auto scratch = at::empty(
      {cuda::attention_bwd_scratch_bytes(batch_, heads_, image.segments, dim_, coded_)}, q.options().dtype(at::kByte));
  const auto rows = [](const at::Tensor& x) {
    cuda::DeviceRows rows{const_cast<void*>(x.const_data_ptr()), out_type(x.scalar_type())};
    set_strides(rows, x);
    return rows;
  };
  cuda::AttentionBwdLaunch launch;
  launch.q = q.const_data_ptr();
  launch.k = k.const_data_ptr();
  launch.v = v.const_data_ptr();
  launch.f16 = inputs_.q.scalar_type() == at::kHalf;
  launch.coded = coded_;
  if (coded_) {
    launch.q_codes = packed_.q.const_data_ptr();
    launch.k_codes = packed_.k.const_data_ptr();
    launch.q_scale = floats(packed_.q_scale);
    launch.k_scale = floats(packed_.k_scale);
    launch.v_scale = floats(packed_.v_scale);
    launch.row_max = floats(saved.row_max);
  }
  launch.lse = floats(saved.lse);
  launch.out = rows(saved.out);
  launch.d_out = rows(d_out);
  launch.of_queries = work_;
  launch.of_keys = {keys->items(), keys->entries(), key_plan_->row_of_slot(), keys->item_count, keys->paired};
  launch.batch = batch_;
  launch.heads = heads_;
  launch.query_segments = image.segments;
  launch.key_segments = key_plan_->image.segments;
  launch.queries = tokens_;
  launch.dim = dim_;
  launch.shared_mask = image.shared_mask;
  launch.softmax_scale = softmax_scale;
  launch.d_q = rows(gradients.q);
  launch.d_k = rows(gradients.k);
  launch.d_v = rows(gradients.v);
  launch.scratch = scratch.mutable_data_ptr();
  cuda::launch_attention_bwd_bf16(launch, stream);
}

}  // namespace fpsa::ops
