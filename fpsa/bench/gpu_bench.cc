#include "fpsa/bench/gpu_bench.h"

#include <ATen/ATen.h>
#include <torch/headeronly/version.h>

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

// One self-attention. The grids: 32K tokens in tiles of 512, and the paper's own, 81 frames of 720x1280.
struct Problem {
  const char *group, *name;
  Grid grid, tile, window;
  int64_t heads, dim;
  bool prepass;  // norm, rotation and codes are timed as well
};
constexpr Grid k32K = {32, 32, 32}, kCube = {8, 8, 8}, kPaper = {21, 45, 80}, kTile = {6, 8, 8};
const Problem kProblems[] = {
    {kDenseGroup, "32K e4m3 D128", k32K, kCube, pattern::kFullWindow, 16, 128, false},
    {kDenseGroup, "32K e4m3 D64", k32K, kCube, pattern::kFullWindow, 16, 64, false},
    {kLadderGroup, "all tiles", k32K, kCube, pattern::kFullWindow, 16, 128, false},
    {kLadderGroup, "window (4,4,2)", k32K, kCube, {4, 4, 2}, 16, 128, false},
    {kLadderGroup, "window (4,4,1)", k32K, kCube, {4, 4, 1}, 16, 128, false},
    {kLadderGroup, "window (2,2,2)", k32K, kCube, {2, 2, 2}, 16, 128, false},
    {kLadderGroup, "window (2,2,1)", k32K, kCube, {2, 2, 1}, 16, 128, false},
    {kPaperGroup, "window (6,6,1)", kPaper, kTile, {6, 6, 1}, 40, 128, true},
};

// Inputs of a problem: standard normal, and for the pre-pass a norm's weights and a rotation.
ops::CudaInputs inputs_of(const Problem& problem, const at::Device& device) {
  const int64_t tokens = problem.grid.volume(), width = problem.heads * problem.dim;
  const auto bf16 = at::TensorOptions(at::kBFloat16).device(device), f32 = at::TensorOptions(at::kFloat).device(device);
  ops::CudaInputs inputs;
  for (at::Tensor* x : {&inputs.q, &inputs.k, &inputs.v})
    *x = at::randn({1, tokens, problem.heads, problem.dim}, bf16);
  if (!problem.prepass) return inputs;
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

// The cases of one problem: the kernel on codes; with a pre-pass that alone, and both.
void run_problem(const Problem& problem, const at::Device& device, GpuClock& clock, int samples,
                 std::vector<GpuCase>& cases) {
  const auto plan = ops::plan_for(problem.grid, problem.tile, problem.tile, "sta", problem.window);
  GpuCase kernel = start_case(problem, *plan, kFp8Kernel);
  try {
    const ops::CudaSteps steps(inputs_of(problem, device), *plan);
    const float scale = 1.0f / std::sqrt(static_cast<float>(problem.dim));
    const auto out = at::empty({1, plan->tokens(), problem.heads, problem.dim},
                               at::TensorOptions(at::kBFloat16).device(device));
    const auto attend = [&] { steps.attend(scale, out, {}, {}); };
    steps.quantize();
    attend();
    kernel.error = row_error(steps.codes(), *plan, scale, out);
    FPSA_CHECK(*kernel.error <= kRowLimit, "expected the rows of attention on the same codes within a relative distance of ",
               kRowLimit, ", got ", *kernel.error, "; no time is reported for a wrong result");
    time_case(clock, attend, samples, kernel);
    cases.push_back(kernel);
    if (!problem.prepass) return;
    GpuCase prepass = start_case(problem, *plan, kPrepass), both = start_case(problem, *plan, kWithPrepass);
    prepass.operations = 0;
    time_case(clock, [&] { steps.quantize(); }, samples, prepass);
    time_case(clock, [&] { steps.quantize(), attend(); }, samples, both);
    cases.push_back(prepass);
    cases.push_back(both);
  } catch (const std::exception& error) {
    kernel.failure = error.what();
    cases.push_back(kernel);
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
