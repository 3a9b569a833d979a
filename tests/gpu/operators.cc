#include "tests/gpu/operators.h"

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <ATen/core/grad_mode.h>

#include <exception>
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

// A peer's error may be twice that of one implementation: both sides round.
constexpr double kForward = 2 * tolerance::kOpsGradRms, kBackward = 2 * tolerance::kOpsGradRms;

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
};

std::vector<at::Tensor> inputs_of(const Problem& problem, int count) {
  std::vector<at::Tensor> made;
  for (int i = 0; i < count; ++i) {
    auto x = at::randn({problem.batch, problem.grid.volume(), problem.heads, problem.dim}).to(at::kBFloat16);
    made.push_back(problem.heads_first ? x.transpose(1, 2).contiguous() : x);
  }
  return made;
}

std::shared_ptr<const ops::Plan> plan_of(const Problem& problem) {
  return ops::plan_for(problem.grid, problem.tile, problem.granularity, "sta", problem.window);
}

void check_forward_and_backward(const Problem& problem, const at::Device& device) {
  // The CPU has no F16: it gets the same values in F32.
  auto x = inputs_of(problem, 4);
  std::vector<at::Tensor> y;
  for (at::Tensor& one : x) {
    const bool f16 = problem.type == at::kHalf;
    if (!f16) one = one.to(problem.type);
    y.push_back(one.to(device, problem.type));
    if (f16) one = one.to(at::kFloat);
  }
  const auto plan = plan_of(problem);
  ops::AttentionOptions options;
  options.precision = problem.precision;
  options.heads_first = problem.heads_first;
  options = ops::saving(options);
  const auto want = ops::attention(x[0], x[1], x[2], *plan, options);
  const auto got = ops::attention(y[0], y[1], y[2], *plan, options);
  FPSA_CHECK(got.out.scalar_type() == problem.type, "out: expected the type of q, got ",
             c10::toString(got.out.scalar_type()));
  check_close("out", got.out.to(x[0].scalar_type()), want.out, kForward);
  check_close("lse", got.lse, want.lse, tolerance::kGpuLse);
  if (want.exact.defined()) check_close("exact", got.exact.to(x[0].scalar_type()), want.exact, kForward);
  const auto expected = ops::attention_backward(x[3], x[0], x[1], x[2], want, *plan, options);
  const auto gradients = ops::attention_backward(y[3], y[0], y[1], y[2], got, *plan, options);
  check_close("d_q", gradients.q.to(x[0].scalar_type()), expected.q, kBackward);
  check_close("d_k", gradients.k.to(x[0].scalar_type()), expected.k, kBackward);
  check_close("d_v", gradients.v.to(x[0].scalar_type()), expected.v, kBackward);
}

// Bits of Q's codes and scales.
void check_codes(const Problem& problem, const at::Device& device) {
  const auto x = inputs_of(problem, 1)[0];
  const auto plan = plan_of(problem);
  const auto want = ops::quantize_tokens(x, *plan);
  const auto y = x.to(device);
  const ops::CudaSteps steps({y, y, y}, *plan, /*coded=*/true);
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
  check_close("out", ops::attention_of_projected(projected, *plan, Precision::kE4m3).out, want.out, kForward);
}

void check_dense_and_copies(const Problem& problem, const at::Device& device) {
  const auto x = inputs_of(problem, 3);
  // Channels that are not contiguous are copied.
  const auto far = [&](const at::Tensor& one) { return one.to(device).transpose(1, 3).contiguous().transpose(1, 3); };
  const auto want = ops::dense_attention(x[0], x[1], x[2]);
  check_close("out", ops::dense_attention(far(x[0]), far(x[1]), far(x[2])).out, want.out, kForward);
}

// Queries and keys of different numbers, and none of either.
void check_cross(const Problem& problem, const at::Device& device) {
  const auto make = [&](int64_t tokens) {
    return at::randn({problem.batch, tokens, problem.heads, problem.dim}).to(at::kBFloat16);
  };
  const int64_t queries = problem.grid.volume();
  const auto q = make(queries), k = make(problem.keys), v = make(problem.keys), d_out = make(queries);
  const auto y = [&](const at::Tensor& one) { return one.to(device); };
  const auto options = ops::saving({});
  const auto want = ops::dense_attention(q, k, v, options), got = ops::dense_attention(y(q), y(k), y(v), options);
  if (problem.keys == 0) {
    FPSA_CHECK(at::equal(got.out.to(at::kCPU), want.out) && at::equal(got.lse.to(at::kCPU), want.lse),
               "out: expected zeros, and lse -inf, where there is no key");
  } else {
    check_close("out", got.out, want.out, kForward);
    check_close("lse", got.lse, want.lse, tolerance::kGpuLse);
  }
  const auto expected = ops::dense_attention_backward(d_out, q, k, v, want, options);
  const auto gradients = ops::dense_attention_backward(y(d_out), y(q), y(k), y(v), got, options);
  check_close("d_q", gradients.q, expected.q, kBackward);
  check_close("d_k", gradients.k, expected.k, kBackward);
  check_close("d_v", gradients.v, expected.v, kBackward);
}

}  // namespace

std::vector<OperatorVerdict> check_operators(int index) {
  const at::Device device(at::kCUDA, static_cast<c10::DeviceIndex>(index));
  const at::NoGradGuard no_gradients;
  at::globalContext().setFloat32MatmulPrecision("medium");  // F32 at precision none is refused otherwise
  std::vector<OperatorVerdict> verdicts;
  const auto check = [&](const std::string& name, auto&& function, const Problem& problem) {
    OperatorVerdict verdict{name, {}};
    try {
      function(problem, device);
    } catch (const std::exception& error) {
      verdict.failure = error.what();
    }
    verdicts.push_back(verdict);
  };
  for (const int64_t dim : {64, 128}) {
    for (const Precision precision : {Precision::kNone, Precision::kE4m3})
      for (const bool heads_first : {false, true}) {
        Problem problem;
        problem.dim = dim;
        problem.precision = precision;
        problem.heads_first = heads_first;
        check(join("forward and backward ", precision == Precision::kNone ? "none" : "e4m3", " D", dim,
                   heads_first ? " heads first" : ""),
              check_forward_and_backward, problem);
      }
    for (const at::ScalarType type : {at::kHalf, at::kFloat}) {
      Problem problem;
      problem.dim = dim;
      problem.type = type;
      check(join("forward and backward e4m3 D", dim, " ", c10::toString(type)), check_forward_and_backward, problem);
      problem.precision = Precision::kNone;
      check(join("forward and backward none D", dim, " ", c10::toString(type)), check_forward_and_backward, problem);
    }
    for (const int64_t keys : {0, 1, 77, 2500}) {
      Problem problem;
      problem.dim = dim;
      problem.keys = keys;
      check(join("dense, ", keys, " keys D", dim), check_cross, problem);
    }
    for (const pattern::Grid& granularity : {pattern::Grid{3, 4, 8}, {6, 4, 16}, {1, 2, 4}}) {
      Problem problem;
      problem.dim = dim;
      problem.granularity = granularity;
      check(join("codes D", dim, " granularity ", pattern::to_string(granularity)), check_codes, problem);
    }
    Problem problem;
    problem.dim = dim;
    check(join("projected D", dim), check_projected, problem);
    check(join("dense, strides that are copied D", dim), check_dense_and_copies, problem);
  }
  return verdicts;
}

}  // namespace fpsa::gpu
