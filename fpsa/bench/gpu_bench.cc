#include "fpsa/bench/gpu_bench.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <torch/headeronly/version.h>

#include <algorithm>
#include <cmath>

#include "fpsa/base/check.h"
#include "fpsa/bench/gpu_clock.h"
#include "fpsa/bench/gpu_peers.h"
#include "fpsa/bench/gpu_rows.h"
#include "fpsa/kernel/cuda/cuda.h"
#include "fpsa/ops/cuda_steps.h"
#include "fpsa/ops/cuda_stream.h"
#include "fpsa/ops/plan.h"

namespace fpsa::bench {
namespace {

namespace cuda = kernel::cuda;
using pattern::Grid;

enum class Kind {
  kCoded,     // the E4M3 kernel on codes
  kPrepass,   // and norm, rotation and codes, alone and before it
  kBf16,      // the BF16 kernel on slots
  kBackward,  // the BF16 backward, with what it prepares
};

// One self-attention. The grids: 32K tokens in tiles of 512, and the paper's own, 81 frames of 720x1280.
struct Problem {
  const char *group, *name;
  Kind kind;
  Grid grid, tile, window;
  int64_t heads, dim;
};
constexpr Grid k32K = {32, 32, 32}, kCube = {8, 8, 8}, kPaper = {21, 45, 80}, kTile = {6, 8, 8};
const Problem kProblems[] = {
    {kDenseGroup, "32K e4m3 D128", Kind::kCoded, k32K, kCube, pattern::kFullWindow, 16, 128},
    {kDenseGroup, "32K e4m3 D64", Kind::kCoded, k32K, kCube, pattern::kFullWindow, 16, 64},
    {kDenseGroup, "32K bf16 D128", Kind::kBf16, k32K, kCube, pattern::kFullWindow, 16, 128},
    {kDenseGroup, "32K bf16 D64", Kind::kBf16, k32K, kCube, pattern::kFullWindow, 16, 64},
    {kLadderGroup, "all tiles", Kind::kCoded, k32K, kCube, pattern::kFullWindow, 16, 128},
    {kLadderGroup, "window (4,4,2)", Kind::kCoded, k32K, kCube, {4, 4, 2}, 16, 128},
    {kLadderGroup, "window (4,4,1)", Kind::kCoded, k32K, kCube, {4, 4, 1}, 16, 128},
    {kLadderGroup, "window (2,2,2)", Kind::kCoded, k32K, kCube, {2, 2, 2}, 16, 128},
    {kLadderGroup, "window (2,2,1)", Kind::kCoded, k32K, kCube, {2, 2, 1}, 16, 128},
    {kPaperGroup, "window (6,6,1)", Kind::kPrepass, kPaper, kTile, {6, 6, 1}, 40, 128},
    {kPaperGroup, "window (6,6,1) bf16", Kind::kBf16, kPaper, kTile, {6, 6, 1}, 40, 128},
    {kBackwardGroup, "32K bf16 D128", Kind::kBackward, k32K, kCube, pattern::kFullWindow, 16, 128},
};

// Inputs of a problem: standard normal, and for the pre-pass a norm's weights and a rotation.
ops::CudaInputs inputs_of(const Problem& problem, const at::Device& device) {
  const int64_t tokens = problem.grid.volume(), width = problem.heads * problem.dim;
  const auto bf16 = at::TensorOptions(at::kBFloat16).device(device), f32 = at::TensorOptions(at::kFloat).device(device);
  ops::CudaInputs inputs;
  for (at::Tensor* x : {&inputs.q, &inputs.k, &inputs.v})
    *x = at::randn({1, tokens, problem.heads, problem.dim}, bf16);
  if (problem.kind != Kind::kPrepass) return inputs;
  inputs.q_weight = at::ones({width}, f32);
  inputs.k_weight = at::ones({width}, f32);
  inputs.eps = 1e-6f;
  const auto angle = at::outer(at::arange(tokens, f32), at::pow(1e4, at::arange(problem.dim / 2, f32) /
                                                                          (-0.5 * static_cast<double>(problem.dim))));
  inputs.turns = at::stack({angle.cos(), angle.sin()}, 2).contiguous();
  return inputs;
}

GpuCase start_case(const Problem& problem, const ops::Plan& plan, const char* kernel) {
  GpuCase item;
  item.group = problem.group;
  item.name = problem.name;
  item.kernel = kernel;
  item.tokens = plan.tokens();
  item.heads = problem.heads;
  item.dim = problem.dim;
  item.density = plan.density();
  item.operations = static_cast<double>(
      pattern::attention_flops(plan.mask(), plan.order(), problem.heads, problem.dim));
  return item;
}

// How far the sums of q dq and of k dk are apart, relative to their terms: both are the sum of S dS, and each comes from a
// pass of its own. The table of cases (tests/gpu) checks gradients one by one.
double gradient_imbalance(const ops::CudaInputs& inputs, const ops::AttentionGradients& gradients) {
  const auto sum = [](const at::Tensor& x, const at::Tensor& d) {
    const auto product = x.to(at::kFloat) * d.to(at::kFloat);
    return std::pair(product.sum().item<double>(), product.abs().sum().item<double>());
  };
  const auto [q, q_size] = sum(inputs.q, gradients.q);
  const auto [k, k_size] = sum(inputs.k, gradients.k);
  return std::abs(q - k) / std::max(std::max(q_size, k_size), 1e-300);
}

// The cases of one problem.
void run_problem(const Problem& problem, const at::Device& device, GpuClock& clock, int samples,
                 std::vector<GpuCase>& cases) {
  const auto plan = ops::plan_for(problem.grid, problem.tile, problem.tile, "sta", problem.window);
  const bool coded = problem.kind == Kind::kCoded || problem.kind == Kind::kPrepass;
  GpuCase item = start_case(problem, *plan, problem.kind == Kind::kBackward ? kBackwardKernel
                                            : coded                         ? kFp8Kernel
                                                                            : kBf16Kernel);
  try {
    const auto inputs = inputs_of(problem, device);
    const ops::CudaSteps steps(inputs, *plan, coded);
    if (problem.kind != Kind::kBackward) item.variant = steps.cluster() == 2 ? "paired" : "single";
    const float scale = 1.0f / std::sqrt(static_cast<float>(problem.dim));
    const auto out = at::empty_like(inputs.q);
    const auto lse = at::empty({1, problem.heads, plan->tokens()}, inputs.q.options().dtype(at::kFloat));
    const auto attend = [&] { steps.attend(scale, out, lse, {}); };
    steps.pack();
    attend();
    const double limit = coded ? kCodedRowLimit : kBf16RowLimit;
    item.error = row_error(steps.packed(), *plan, scale, out);
    FPSA_CHECK(*item.error <= limit, "expected the rows of attention on the same operands within a relative distance of ",
               limit, ", got ", *item.error, "; no time is reported for a wrong result");
    if (problem.kind == Kind::kBackward) {
      item.operations *= 2.5;  // five products for two
      const ops::AttentionGradients gradients{at::empty_like(out), at::empty_like(out), at::empty_like(out)};
      const auto upstream = at::randn_like(out);
      const auto backward = [&] { steps.backward(scale, upstream, {out, lse, {}}, gradients); };
      backward();
      item.error = gradient_imbalance(inputs, gradients);
      FPSA_CHECK(*item.error <= kBf16RowLimit, "expected sums of q dq and k dk that agree within ", kBf16RowLimit,
                 " of their terms, got ", *item.error, "; no time is reported for a wrong result");
      time_case(clock, backward, samples, item);
      cases.push_back(item);
      return;
    }
    time_case(clock, attend, samples, item);
    cases.push_back(item);
    if (problem.kind != Kind::kPrepass) return;
    GpuCase prepass = start_case(problem, *plan, kPrepass), both = start_case(problem, *plan, kWithPrepass);
    prepass.operations = 0;
    both.variant = item.variant;
    time_case(clock, [&] { steps.pack(); }, samples, prepass);
    time_case(clock, [&] { steps.pack(), attend(); }, samples, both);
    cases.push_back(prepass);
    cases.push_back(both);
  } catch (const std::exception& error) {
    item.failure = error.what();
    cases.push_back(item);
  }
}

std::string version_text(int version) {
  return version ? join(version / 1000, '.', version % 1000 / 10) : "none";
}

std::string state_text(const cuda::DeviceState& state) {
  return state.driver.empty() ? "unknown: no management library"
                              : join(state.sm_mhz, " of ", state.sm_max_mhz, " MHz, memory ", state.memory_mhz, " MHz, ",
                                     state.power_watts, " of ", state.power_limit_watts, " W, ", state.celsius, " C");
}

}  // namespace

GpuReport run_gpu_bench(const GpuBenchOptions& options, const std::function<void(const std::string&)>& progress) {
  const auto missing = cuda::unavailable_reason(options.device);
  FPSA_CHECK(missing.empty(), "bench: --device cuda: ", missing);
  FPSA_CHECK(at::hasCUDA(), "bench: --device cuda: expected a build of torch with CUDA, got one without; install one, and "
             "build against it");
  const auto& info = cuda::devices()[static_cast<size_t>(options.device)];
  const at::Device device(at::kCUDA, static_cast<c10::DeviceIndex>(options.device));
  const auto versions = cuda::versions();
  GpuReport report;
  report.about = {{"device", info.name},
                  {"compute capability", join(info.major, '.', info.minor)},
                  {"multiprocessors", std::to_string(info.multiprocessors)},
                  {"memory", join(info.memory_bytes >> 30, " GiB, L2 ", info.l2_bytes >> 20, " MiB")},
                  {"driver", cuda::state_of(options.device).driver},
                  {"CUDA of the driver", version_text(versions.driver)},
                  {"CUDA of the kernels", version_text(versions.runtime)},
                  {"torch", TORCH_VERSION},
                  {"clocks before", state_text(cuda::state_of(options.device))}};
  {
    const at::NoGradGuard no_gradients;
    const auto clock = event_clock(options.device, ops::current_cuda_stream(options.device));
    for (const Problem& problem : kProblems) {
      progress(join(problem.group, ": ", problem.name));
      run_problem(problem, device, *clock, options.samples, report.cases);
    }
  }
  report.about.emplace_back("clocks after", state_text(cuda::state_of(options.device)));
  if (options.python.empty()) return report;
  progress("peers, in a process of Python");
  const std::vector<PeerProblem> problems = {{kDenseGroup, k32K.volume(), 16, 128, false},
                                             {kPaperGroup, kPaper.volume(), 40, 128, false},
                                             {kBackwardGroup, k32K.volume(), 16, 128, true}};
  const auto peers = time_peers(options.python, options.device, problems, options.samples);
  report.cases.insert(report.cases.end(), peers.cases.begin(), peers.cases.end());
  for (const auto& [name, version] : peers.versions)
    report.about.emplace_back("peer: " + name, version);
  return report;
}

}  // namespace fpsa::bench
