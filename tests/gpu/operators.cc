#include "tests/gpu/operators.h"

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <cmath>
#include <exception>
#include <string_view>
#include <tuple>
#include <vector>

#include "fpsa/base/check.h"
#include "fpsa/kernel/cuda/tiling/pack.h"
#include "fpsa/ops/attention.h"
#include "fpsa/ops/attention_grad.h"
#include "fpsa/ops/cuda_attention.h"
#include "fpsa/ops/cuda_steps.h"
#include "fpsa/ops/plan.h"
#include "fpsa/ops/prepass.h"
#include "fpsa/ops/quantize.h"
#include "tests/tolerance.h"

namespace fpsa::gpu {
namespace {

using ops::Precision;

// torch's setting for products of F32, put back at the end.
class Float32Products {
 public:
  explicit Float32Products(const char* setting) : before_(at::globalContext().float32MatmulPrecision()) {
    at::globalContext().setFloat32MatmulPrecision(setting);
  }
  ~Float32Products() {
    using enum at::Float32MatmulPrecision;
    at::globalContext().setFloat32MatmulPrecision(before_ == HIGHEST ? "highest" : before_ == HIGH ? "high" : "medium");
  }
  Float32Products(const Float32Products&) = delete;
  Float32Products& operator=(const Float32Products&) = delete;

 private:
  at::Float32MatmulPrecision before_;
};

void check_close(const char* what, const at::Tensor& got, const at::Tensor& want, double limit) {
  const auto wide = [](const at::Tensor& x) { return x.to(at::kCPU).to(at::kDouble); };
  FPSA_CHECK(got.sizes() == want.sizes() && got.scalar_type() == want.scalar_type(), what, ": expected ", want.sizes(),
             " ", c10::toString(want.scalar_type()), ", got ", got.sizes(), " ", c10::toString(got.scalar_type()));
  const double error =
      ((wide(got) - wide(want)).norm() / wide(want).norm().clamp_min(1e-300)).item<double>();
  FPSA_CHECK(error <= limit, what, ": expected the CPU's within a relative distance of ", limit, ", got ", error);
}

struct Problem {
  pattern::Grid grid = {5, 12, 20}, tile = {3, 4, 8}, granularity = {3, 4, 8}, window = {1, 2, 2};
  int64_t batch = 2, heads = 3, dim = 128;
  Precision precision = Precision::kE4m3;
  bool heads_first = false;
  at::ScalarType type = at::kBFloat16;
  int64_t keys = 0;  // of check_cross

  bool f16_products() const { return type == at::kHalf && precision == Precision::kNone; }
  // A peer's error may be twice that of one implementation: both sides round.
  double limit() const { return 2 * (f16_products() ? tolerance::kGpuF16Rms : tolerance::kOpsGradRms); }
  std::string_view kernel() const {
    return precision == Precision::kE4m3 ? "attention_fwd_e4m3_sm90a"
           : type == at::kHalf           ? "attention_fwd_f16_sm90a"
                                         : "attention_fwd_bf16_sm90a";
  }
};

// Values of all bits that the type has.
std::vector<at::Tensor> inputs_of(const Problem& problem, int count) {
  std::vector<at::Tensor> made;
  for (int i = 0; i < count; ++i) {
    auto x = at::randn({problem.batch, problem.grid.volume(), problem.heads, problem.dim}).to(problem.type);
    made.push_back(problem.heads_first ? x.transpose(1, 2).contiguous() : x);
  }
  return made;
}

// The same values as the CPU takes them: it has no F16, and would code what the device rounds to BF16 before.
at::Tensor on_cpu(const at::Tensor& x, const Problem& problem) {
  if (problem.type == at::kBFloat16) return x;
  return (problem.precision == Precision::kE4m3 ? x.to(at::kBFloat16) : x).to(at::kFloat);
}

std::shared_ptr<const ops::Plan> plan_of(const Problem& problem) {
  return ops::plan_for(problem.grid, problem.tile, problem.granularity, "sta", problem.window);
}

ops::AttentionOptions options_of(const Problem& problem) {
  ops::AttentionOptions options;
  options.precision = problem.precision;
  options.heads_first = problem.heads_first;
  return ops::saving(options);
}

void check_result(const Problem& problem, const ops::AttentionResult& got, const ops::AttentionResult& want) {
  FPSA_CHECK(got.kernel.starts_with(problem.kernel()), "kernel: expected ", problem.kernel(), ", got ", got.kernel);
  FPSA_CHECK(got.out.scalar_type() == problem.type, "out: expected the type of q, got ",
             c10::toString(got.out.scalar_type()));
  check_close("out", got.out.to(want.out.scalar_type()), want.out, problem.limit());
  check_close("lse", got.lse, want.lse, tolerance::kGpuLse);
  if (want.exact.defined()) check_close("exact", got.exact.to(want.exact.scalar_type()), want.exact, problem.limit());
}

void check_gradients(const Problem& problem, const ops::AttentionGradients& got, const ops::AttentionGradients& want) {
  for (const auto& [name, x, y] :
       {std::tuple("d_q", &got.q, &want.q), {"d_k", &got.k, &want.k}, {"d_v", &got.v, &want.v}}) {
    FPSA_CHECK(x->scalar_type() == problem.type, name, ": expected the type of q, got ",
               c10::toString(x->scalar_type()));
    check_close(name, x->to(y->scalar_type()), *y, problem.limit());
  }
}

void check_forward_and_backward(const Problem& problem, const at::Device& device) {
  const auto values = inputs_of(problem, 4);
  std::vector<at::Tensor> x, y;
  for (const at::Tensor& one : values) {
    x.push_back(on_cpu(one, problem));
    y.push_back(one.to(device));
  }
  if (problem.type != at::kBFloat16) x[3] = values[3].to(at::kFloat);  // the gradient is not coded
  const auto plan = plan_of(problem);
  const auto options = options_of(problem);
  const auto want = ops::attention(x[0], x[1], x[2], *plan, options);
  const auto got = ops::attention(y[0], y[1], y[2], *plan, options);
  check_result(problem, got, want);
  check_gradients(problem, ops::attention_backward(y[3], y[0], y[1], y[2], got, *plan, options),
                  ops::attention_backward(x[3], x[0], x[1], x[2], want, *plan, options));
}

// The gradients that torch's graph gives are those of the backward.
void check_autograd(const Problem& problem, const at::Device& device) {
  std::vector<at::Tensor> x;
  for (const at::Tensor& one : inputs_of(problem, 4))
    x.push_back(one.to(device));
  const auto plan = plan_of(problem);
  const auto options = options_of(problem);
  const auto result = ops::attention(x[0], x[1], x[2], *plan, options);
  const auto want = ops::attention_backward(x[3], x[0], x[1], x[2], result, *plan, options);
  const at::AutoGradMode gradients(true);
  for (int i = 0; i < 3; ++i)
    x[static_cast<size_t>(i)].set_requires_grad(true);
  const auto out = ops::differentiable_attention(x[0], x[1], x[2], plan, options).out;
  FPSA_CHECK(at::equal(out.detach(), result.out), "out: expected the forward's bits with gradients too, got others");
  out.backward(x[3]);
  FPSA_CHECK(at::equal(x[0].grad(), want.q) && at::equal(x[1].grad(), want.k) && at::equal(x[2].grad(), want.v),
             "gradients: expected the backward's bits, got others");
}

// The first call of a plan, whose upload that stream must find.
void check_side_stream(const Problem& problem, const at::Device& device) {
  const auto x = inputs_of(problem, 3);
  const std::vector<at::Tensor> y = {x[0].to(device), x[1].to(device), x[2].to(device)};
  const auto plan = plan_of(problem);
  const auto options = options_of(problem);
  const c10::impl::VirtualGuardImpl cuda(at::kCUDA);
  const c10::StreamGuard side(cuda.getStreamFromGlobalPool(device));
  check_result(problem, ops::attention(y[0], y[1], y[2], *plan, options),
               ops::attention(x[0], x[1], x[2], *plan, options));
}

// Any stride is legal where there is one of something.
void check_strides_of_one(const Problem& problem, const at::Device& device) {
  std::vector<at::Tensor> even, odd;
  for (const at::Tensor& one : inputs_of(problem, 4)) {
    even.push_back(one.to(device));
    odd.push_back(even.back().as_strided(one.sizes(), {3, problem.dim, 5, 1}));
  }
  const auto plan = plan_of(problem);
  auto options = options_of(problem);
  const auto want = ops::attention(even[0], even[1], even[2], *plan, options);
  const auto expected = ops::attention_backward(even[3], even[0], even[1], even[2], want, *plan, options);
  options.out = at::empty_like(even[0]).as_strided(even[0].sizes(), {3, problem.dim, 5, 1});
  const auto got = ops::attention(odd[0], odd[1], odd[2], *plan, options);
  const auto gradients = ops::attention_backward(odd[3], odd[0], odd[1], odd[2], got, *plan, options);
  FPSA_CHECK(at::equal(got.out, want.out) && at::equal(gradients.q, expected.q) && at::equal(gradients.k, expected.k) &&
                 at::equal(gradients.v, expected.v),
             "expected the bits of contiguous tensors, got others");
}

// F32 without codes is refused unless torch was told that its products may be those of BF16.
void check_refusal(const Problem& problem, const at::Device& device) {
  const Float32Products exact("highest");
  const auto x = inputs_of(problem, 1)[0].to(device);
  std::string said = "nothing";
  try {
    ops::attention(x, x, x, *plan_of(problem), options_of(problem));
  } catch (const c10::Error& error) {
    said = error.what_without_backtrace();
  }
  FPSA_CHECK(said.find("dtype: expected bfloat16 or float16 for precision none") != std::string::npos,
             "expected a refusal of F32, got ", said);
}

// Bits of Q's codes and scales, of widths that are whole spans of the kernel's and others.
void check_codes(const Problem& problem, const at::Device& device) {
  const auto x = inputs_of(problem, 1)[0];
  const auto plan = plan_of(problem);
  const auto want = ops::quantize_tokens(x, *plan);
  const auto y = x.to(device);
  ops::CudaInputs inputs;
  inputs.q = inputs.k = inputs.v = y;
  const ops::CudaSteps steps(inputs, *plan, /*coded=*/true);
  steps.pack();
  const auto codes = steps.packed().q.to(at::kCPU), scales = steps.packed().q_scale.to(at::kCPU);
  const kernel::cuda::SegmentLayout layout(plan->order().tile_begin());
  const int64_t slots = layout.slots(), tokens = plan->tokens(), dim = problem.dim;
  const auto packed = at::empty({slots, dim}, at::kByte), packed_scale = at::empty({slots}, at::kFloat);
  for (int64_t job = 0; job < problem.batch * problem.heads; ++job) {
    kernel::cuda::pack_codes(layout, want.codes.const_data_ptr<uint8_t>() + job * tokens * dim, dim,
                             packed.mutable_data_ptr<uint8_t>());
    kernel::cuda::pack_scales(layout, want.token_scale.const_data_ptr<float>() + job * tokens,
                              packed_scale.mutable_data_ptr<float>());
    FPSA_CHECK(at::equal(codes.view({-1, slots, dim})[job], packed), "codes of head ", job,
               ": expected the CPU's bits, got others");
    FPSA_CHECK(at::equal(scales.view({-1, slots})[job], packed_scale), "scales of head ", job,
               ": expected the CPU's bits, got others");
  }
}

void check_projected(const Problem& problem, const at::Device& device) {
  const auto x = inputs_of(problem, 3);
  const int64_t tokens = problem.grid.volume(), width = problem.heads * problem.dim;
  const auto angle = at::rand({tokens, 1, problem.dim / 2});
  ops::Projected projected{.q = x[0].flatten(2),
                           .k = x[1].flatten(2),
                           .v = x[2].flatten(2),
                           .q_weight = at::rand({width}),
                           .k_weight = at::rand({width}),
                           .eps = 1e-6,
                           .heads = problem.heads,
                           .rope = at::polar(at::ones_like(angle), angle)};
  const auto plan = plan_of(problem);
  const auto want = ops::attention_of_projected(projected, *plan, Precision::kE4m3);
  for (at::Tensor* one : {&projected.q, &projected.k, &projected.v, &projected.q_weight, &projected.k_weight,
                          &projected.rope})
    *one = one->to(device);
  check_close("out", ops::attention_of_projected(projected, *plan, Precision::kE4m3).out, want.out, problem.limit());
}

void check_dense_and_copies(const Problem& problem, const at::Device& device) {
  const auto x = inputs_of(problem, 3);
  // Channels that are not contiguous are copied.
  const auto far = [&](const at::Tensor& one) { return one.to(device).transpose(1, 3).contiguous().transpose(1, 3); };
  const auto want = ops::dense_attention(x[0], x[1], x[2]);
  check_close("out", ops::dense_attention(far(x[0]), far(x[1]), far(x[2])).out, want.out, problem.limit());
}

// With one key P is 1 and its derivative 0: what comes is the rounding of terms that cancel, dP - D, along the other
// operand. `bound`: the norm of each row's terms.
void check_vanishing(const char* what, const Problem& problem, const at::Tensor& got, const at::Tensor& bound) {
  const double unit = tolerance::kGpuVanishing * (problem.f16_products() ? 0x1p-3 : 1.0);
  const auto rows = got.to(at::kCPU).to(at::kDouble).norm(2, -1);
  const double worst = (rows / bound.clamp_min(1e-300)).max().item<double>();
  FPSA_CHECK(worst <= unit, what, ": expected 0 to within ", unit, " of its terms, got ", worst);
}

// Queries and keys of different numbers, and none of either.
void check_cross(const Problem& problem, const at::Device& device) {
  const auto make = [&](int64_t tokens) {
    return at::randn({problem.batch, tokens, problem.heads, problem.dim}).to(problem.type);
  };
  const int64_t queries = problem.grid.volume();
  const auto q = make(queries), k = make(problem.keys), v = make(problem.keys), d_out = make(queries);
  const auto x = [&](const at::Tensor& one) { return on_cpu(one, problem); };
  const auto y = [&](const at::Tensor& one) { return one.to(device); };
  const auto options = ops::saving({});
  const auto want = ops::dense_attention(x(q), x(k), x(v), options),
             got = ops::dense_attention(y(q), y(k), y(v), options);
  if (problem.keys == 0) {
    FPSA_CHECK(at::equal(got.out.to(at::kCPU).to(want.out.scalar_type()), want.out) &&
                   at::equal(got.lse.to(at::kCPU), want.lse),
               "out: expected zeros, and lse -inf, where there is no key");
  } else {
    check_result(problem, got, want);
  }
  const auto expected = ops::dense_attention_backward(x(d_out), x(q), x(k), x(v), want, options);
  const auto gradients = ops::dense_attention_backward(y(d_out), y(q), y(k), y(v), got, options);
  if (problem.keys != 1) return check_gradients(problem, gradients, expected);
  check_close("d_v", gradients.v.to(expected.v.scalar_type()), expected.v, problem.limit());
  const auto norm = [](const at::Tensor& one) { return one.to(at::kDouble).norm(2, -1); };  // [B,L,H]
  const auto d_s = norm(d_out) * norm(v) / std::sqrt(static_cast<double>(problem.dim));
  check_vanishing("d_q", problem, gradients.q, d_s * norm(k));
  check_vanishing("d_k", problem, gradients.k, (d_s * norm(q)).sum(1, /*keepdim=*/true));
}

}  // namespace

std::vector<OperatorVerdict> check_operators(int index) {
  const at::Device device(at::kCUDA, static_cast<c10::DeviceIndex>(index));
  const at::NoGradGuard no_gradients;
  const Float32Products rounded("medium");  // F32 at precision none is refused otherwise
  std::vector<OperatorVerdict> verdicts;
  const auto check = [&](const std::string& name, auto&& function, const Problem& problem) {
    OperatorVerdict verdict{join(name, " D", problem.dim), {}};
    try {
      function(problem, device);
    } catch (const std::exception& error) {
      verdict.failure = error.what();
    }
    verdicts.push_back(verdict);
  };
  for (const int64_t dim : {64, 128}) {
    Problem plain;
    plain.dim = dim;
    for (const at::ScalarType type : {at::kBFloat16, at::kHalf, at::kFloat})
      for (const Precision precision : {Precision::kNone, Precision::kE4m3}) {
        Problem problem = plain;
        problem.type = type;
        problem.precision = precision;
        const auto of = join(' ', c10::toString(type), precision == Precision::kNone ? " none" : " e4m3");
        for (const bool heads_first : {false, true}) {
          problem.heads_first = heads_first;
          check(join("forward and backward", of, heads_first ? " heads first" : ""), check_forward_and_backward,
                problem);
        }
        check(join("autograd", of, " heads first"), check_autograd, problem);
        problem.heads_first = false;
        problem.batch = problem.heads = 1;
        check(join("strides of one", of), check_strides_of_one, problem);
      }
    for (const at::ScalarType type : {at::kBFloat16, at::kHalf})
      for (const int64_t keys : {0, 1, 77, 2500}) {
        Problem problem = plain;
        problem.precision = Precision::kNone;
        problem.type = type;
        problem.keys = keys;
        check(join("dense, ", keys, " keys ", c10::toString(type)), check_cross, problem);
      }
    for (const int64_t heads : {3, 4, 8}) {
      Problem problem = plain;
      problem.heads = heads;
      for (const pattern::Grid& granularity : {pattern::Grid{3, 4, 8}, {6, 4, 16}, {1, 2, 4}}) {
        problem.granularity = granularity;
        check(join("codes of ", heads, " heads, granularity ", pattern::to_string(granularity)), check_codes, problem);
      }
      problem.granularity = plain.granularity;
      check(join("projected, ", heads, " heads"), check_projected, problem);
    }
    check("dense, strides that are copied", check_dense_and_copies, plain);
    Problem refused = plain;
    refused.precision = Precision::kNone;
    refused.type = at::kFloat;
    check("F32 refused under 'highest'", check_refusal, refused);
    Problem fresh = plain;
    fresh.grid = {7, 12, 20};  // which no other case has
    fresh.tile = {3, 4, dim == 64 ? 8 : 4};
    fresh.granularity = fresh.tile;
    check("a new plan on a side stream", check_side_stream, fresh);
  }
  Problem wide;  // the widest model's
  wide.heads = 40;
  check("codes of 40 heads", check_codes, wide);
  check("projected, 40 heads", check_projected, wide);
  return verdicts;
}

}  // namespace fpsa::gpu
