#include "fpsa/app/bench_problem.h"

#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "fpsa/base/check.h"
#include "fpsa/kernel/smoothing.h"
#include "fpsa/ops/parallel.h"
#include "fpsa/ops/views.h"
#include "fpsa/plan/prepass.h"

namespace fpsa::app::bench {
namespace {

// P and the output are F32; sums of up to 75,600 terms, which round at random.
constexpr double kF32Limit = 1e-5;
// Both sides round P and the output to BF16 by themselves: two relative roundings of 2^-9 each, and a factor 2.
constexpr double kBf16Limit = 0.0079;
// The same, and codes of P that differ by a step of 2^-4 for at most every hundredth of them.
constexpr double kE4m3Limit = 0.0142;
// Codes of P are whole numbers. With standard normal inputs and m = 7, as at L = 75,600, their root mean square is
// 255 * 2^-7 * e = 5.4. The reference rounds all of them under the last m, with an error of 1/sqrt(12); a kernel those
// before the last rise of m with half of that.
constexpr double kInt8Limit = 0.0598;

constexpr float kNormEps = 1e-6f;  // of the pre-pass's RMSNorm

// Three stretches of positions in tile order.
std::vector<kernel::QueryBlock> probes(const kernel::Visibility& visibility, int64_t tokens) {
  constexpr int64_t kRows = 8;
  std::vector<kernel::QueryBlock> found;
  for (const int64_t at : {int64_t{0}, tokens / 2, std::max<int64_t>(tokens - kRows, 0)}) {
    const auto block =
        std::ranges::find_if(visibility.blocks(), [&](const kernel::QueryBlock& b) { return b.end > at; });
    const auto end = static_cast<int32_t>(std::min<int64_t>(at + kRows, block->end));
    found.push_back({static_cast<int32_t>(at), end, block->ranges, block->range_count});
  }
  return found;
}

// A [1,L,1,D] tensor in tile order.
kernel::QuantizeInput coder_input(const at::Tensor& x, const ops::Plan& plan) {
  return {ops::rows_of(x, 0, 0, plan.order().to_raster().data()), ops::kernel_dtype(x.scalar_type()), x.size(1),
          x.size(3)};
}

// Every entry makes the same codes, so those of the reference show an error of the others.
void set_codes(KernelHead& made, const Inputs& inputs, const ops::Plan& plan, const Format& format) {
  const auto& coder = kernel::quantize_at(format.dtype, kernel::Isa::kReference).kernel;
  kernel::AttentionHead& head = made.head;
  const auto bytes = [&] { return made.storage.emplace_back(at::empty({head.keys, head.dim}, at::kByte)); };
  const auto floats = [&](int64_t n) {
    return made.storage.emplace_back(at::empty({n}, at::kFloat)).mutable_data_ptr<float>();
  };
  const auto by_token = [&](const kernel::QuantizeInput& in, kernel::RowsView& rows, const float*& row_scale) {
    auto* codes = bytes().mutable_data_ptr<uint8_t>();
    float* scale = floats(head.keys);
    coder.tokens(in, plan.groups().of_token.data(), plan.groups().count, codes, floats(plan.groups().count), scale);
    rows = {codes, head.dim, nullptr};
    row_scale = scale;
  };
  by_token(coder_input(inputs.q, plan), head.q, head.q_scale);
  auto keys = coder_input(inputs.k, plan);
  if (format.smooth_keys) {
    float* mean = floats(head.dim);
    kernel::key_means(keys, mean);
    keys.mean = mean;
  }
  by_token(keys, head.k, head.k_scale);
  auto* codes = bytes().mutable_data_ptr<uint8_t>();
  float* scale = floats(head.dim);
  coder.channels(coder_input(inputs.v, plan), codes, scale);
  head.v = {codes, head.dim, nullptr};
  head.v_scale = scale;
}

}  // namespace

Inputs make_inputs(const Shape& shape, at::ScalarType type) {
  auto generator = at::make_generator<at::CPUGeneratorImpl>(static_cast<uint64_t>(shape.tokens()));
  const auto make = [&] {
    return at::randn({1, shape.tokens(), shape.heads, shape.dim}, generator, at::TensorOptions(at::kFloat)).to(type);
  };
  Inputs inputs;
  inputs.q = make();
  inputs.k = make();
  inputs.v = make();
  return inputs;
}

const std::vector<Format>& formats() {
  using kernel::Dtype;
  static const std::vector<Format> all = {
      {Dtype::kF32, ops::Precision::kNone, at::kFloat, false, kF32Limit},
      {Dtype::kBf16, ops::Precision::kNone, at::kBFloat16, false, kBf16Limit},
      {Dtype::kE4m3, ops::Precision::kE4m3, at::kBFloat16, false, kE4m3Limit},
      {Dtype::kInt8, ops::Precision::kInt8, at::kBFloat16, true, kInt8Limit},
  };
  return all;
}

const Format& format_of(kernel::Dtype dtype) {
  const auto found = std::ranges::find(formats(), dtype, &Format::dtype);
  FPSA_CHECK(found != formats().end(), "bench: no format for kernels of dtype ", kernel::dtype_name(dtype));
  return *found;
}

KernelHead kernel_head(const Inputs& inputs, const ops::Plan& plan, const Format& format) {
  KernelHead made;
  made.head.queries = made.head.keys = plan.tokens();
  made.head.dim = inputs.q.size(3);
  made.head.softmax_scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(made.head.dim)));
  const auto first = [](const at::Tensor& x) { return x.narrow(2, 0, 1); };
  const Inputs head = {first(inputs.q), first(inputs.k), first(inputs.v)};
  if (format.eight_bit()) {
    set_codes(made, head, plan, format);
    return made;
  }
  const int32_t* index = plan.order().to_raster().data();
  made.head.q = ops::rows_of(head.q, 0, 0, index);
  made.head.k = ops::rows_of(head.k, 0, 0, index);
  made.head.v = ops::rows_of(head.v, 0, 0, index);
  made.storage = {head.q, head.k, head.v};
  return made;
}

PrepassCall::PrepassCall(const Inputs& inputs, std::shared_ptr<const ops::Plan> plan, const Format& format)
    : inputs_(inputs), plan_(std::move(plan)), format_(format) {
  const int64_t tokens = inputs.q.size(1), heads = inputs.q.size(2), dim = inputs.q.size(3), width = heads * dim;
  weight_ = at::linspace(0.5, 1.5, width, at::kFloat);
  const auto frequency = at::pow(1e4, at::arange(dim / 2, at::kFloat) / (-0.5 * static_cast<double>(dim)));
  const auto angle = at::outer(at::arange(tokens, at::kFloat), frequency);
  turns_ = at::stack({angle.cos(), angle.sin()}, 2).view({tokens, dim});
  codes_ = at::empty({3, tokens * width}, at::kByte);
  scales_ = at::empty({2 * tokens * heads + width}, at::kFloat);
  scratch_ = at::empty({plan::prepass_workspace_bytes(*plan_, 1, heads, dim, format.smooth_keys)}, at::kByte);
}

void PrepassCall::run() const {
  const int64_t tokens = inputs_.q.size(1), heads = inputs_.q.size(2), dim = inputs_.q.size(3), width = heads * dim;
  const auto of = [&](const at::Tensor& x, const float* norm) {
    return plan::Projection{x.const_data_ptr(), tokens * width, width, norm};
  };
  const float* norm = weight_.const_data_ptr<float>();
  const plan::Projections projections{of(inputs_.q, norm),
                                      of(inputs_.k, norm),
                                      of(inputs_.v, nullptr),
                                      ops::kernel_dtype(inputs_.q.scalar_type()),
                                      1,
                                      heads,
                                      dim,
                                      kNormEps,
                                      turns_.const_data_ptr<float>(),
                                      format_.smooth_keys};
  auto* code = codes_.mutable_data_ptr<uint8_t>();
  auto* scale = scales_.mutable_data_ptr<float>();
  const plan::PrepassOutput output{code,  code + tokens * width,  code + 2 * tokens * width,
                                   scale, scale + tokens * heads, scale + 2 * tokens * heads};
  ops::TorchRunner runner;
  plan::prepass(kernel::prepass(format_.dtype).kernel, *plan_, projections, output,
                {static_cast<std::byte*>(scratch_.mutable_data_ptr()), static_cast<size_t>(scratch_.numel())}, runner);
}

void PrepassCall::check(const std::string& what) const {
  const int64_t tokens = inputs_.q.size(1), heads = inputs_.q.size(2), dim = inputs_.q.size(3), width = heads * dim;
  const auto& raster = plan_->order().to_raster();
  const auto prepared = [&](const at::Tensor& x) {
    kernel::PrepassInput in;
    in.x = {x.const_data_ptr(), width, raster.data()};
    in.dtype = ops::kernel_dtype(x.scalar_type());
    in.rows = tokens;
    in.heads = heads;
    in.dim = dim;
    in.weight = weight_.const_data_ptr<float>();
    in.eps = kNormEps;
    in.turns = turns_.const_data_ptr<float>();
    const auto rows = at::empty_like(x);
    kernel::prepass_at(format_.dtype, kernel::Isa::kReference).kernel.prepare(in, 0, tokens, rows.mutable_data_ptr());
    // Back to raster order, as kernel_head() takes it.
    const auto order = at::tensor(at::ArrayRef<int32_t>(raster)).to(at::kLong);
    return at::empty_like(x).index_copy_(1, order, rows);
  };
  const auto made = kernel_head({prepared(inputs_.q), prepared(inputs_.k), inputs_.v}, *plan_, format_);
  const auto& right = made.head;
  const auto same = [&](const char* name, const auto* got, const auto* expected, int64_t count) {
    FPSA_CHECK(std::memcmp(got, expected, static_cast<size_t>(count) * sizeof *got) == 0, what, ": expected ", name,
               " with the bits of the reference, got others; no time is reported for a wrong result");
  };
  const auto* code = codes_.const_data_ptr<uint8_t>();
  const auto* scale = scales_.const_data_ptr<float>();
  const auto codes_of = [](const kernel::RowsView& rows) { return static_cast<const uint8_t*>(rows.data); };
  same("codes of Q", code, codes_of(right.q), tokens * dim);
  same("codes of K", code + tokens * width, codes_of(right.k), tokens * dim);
  same("codes of V", code + 2 * tokens * width, codes_of(right.v), tokens * dim);
  same("scales of Q", scale, right.q_scale, tokens);
  same("scales of K", scale + tokens * heads, right.k_scale, tokens);
  same("scales of V", scale + 2 * tokens * heads, right.v_scale, dim);
}

Rows reference_rows(const Inputs& inputs, const ops::Plan& plan, const Format& format) {
  const KernelHead made = kernel_head(inputs, plan, format);
  const kernel::AttentionHead& head = made.head;
  const auto& kernel = kernel::attention_fwd_at(format.dtype, kernel::Isa::kReference).kernel;
  const auto bytes = [](int64_t n) { return at::empty({std::max<int64_t>(n, 1)}, at::kByte); };
  const auto packed = bytes(kernel.packed_bytes(head.keys, head.dim));
  const auto scratch = bytes(kernel.scratch_bytes(head.keys, head.dim));
  kernel.pack(head, 0, head.keys, packed.mutable_data_ptr());
  const auto out = at::empty({head.queries, head.dim}, at::kFloat);  // by position
  Rows rows;
  std::vector<at::Tensor> values;
  for (const auto& block : probes(plan.visibility(0), plan.tokens())) {
    kernel::AttentionOut to;
    to.out = out.mutable_data_ptr();
    to.stride = head.dim;
    kernel.run(head, packed.const_data_ptr(), block, to, scratch.mutable_data_ptr());
    for (int32_t i = block.begin; i < block.end; ++i) {
      rows.raster.push_back(plan.order().to_raster()[static_cast<size_t>(i)]);
      rows.positions.push_back(i);
    }
    values.push_back(out.narrow(0, block.begin, block.end - block.begin));
  }
  rows.values = at::cat(values).to(at::kDouble);
  return rows;
}

at::Tensor rows_of(const at::Tensor& x, const Rows& rows) {
  return x.select(0, 0).select(1, 0).index_select(0, at::tensor(at::ArrayRef<int64_t>(rows.raster)));
}

double check_rows(const at::Tensor& got, const Rows& expected, double limit, const std::string& what) {
  const auto difference = got.to(at::kDouble) - expected.values;
  const double error = (difference.norm() / expected.values.norm().clamp_min(1e-300)).item<double>();
  FPSA_CHECK(error <= limit, what, ": expected the reference's rows within a relative distance of ", limit, ", got ",
             error, "; no time is reported for a wrong result");
  return error;
}

}  // namespace fpsa::app::bench
