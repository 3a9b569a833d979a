// fpsa_gpu_bench [--no-peers] [--python PATH]: the operators on the card against the CPU's, then `fpsa bench attention
// --device cuda`, linked without app. JSON on standard output, text on standard error; exit code 1 when something failed,
// 2 where there is no card that runs the kernels.
#include <exception>
#include <iostream>
#include <string>

#include "fpsa/bench/gpu_bench.h"
#include "fpsa/bench/json_text.h"
#include "fpsa/kernel/cuda/cuda.h"
#include "tests/gpu/operators.h"

namespace {

int run(fpsa::bench::GpuBenchOptions options) {
  const auto verdicts = fpsa::gpu::check_operators(options.device);
  bool failed = false;
  fpsa::bench::JsonText operators;
  operators.begin_array();
  for (const auto& verdict : verdicts) {
    failed = failed || !verdict.failure.empty();
    operators.begin_object().key("name").value(verdict.name).key("passed").value(verdict.failure.empty());
    if (!verdict.failure.empty()) operators.key("failure").value(verdict.failure);
    operators.end_object();
    std::cerr << (verdict.failure.empty() ? "passed  " : "FAILED  ") << verdict.name
              << (verdict.failure.empty() ? "" : ": ") << verdict.failure << '\n';
  }
  operators.end_array();
  const auto report =
      fpsa::bench::run_gpu_bench(options, [](const std::string& line) { std::cerr << line << '\n'; });
  std::cerr << '\n' << report.to_text();
  std::cout << "{\"operators\": " << operators.text() << ",\n\"bench\": " << report.to_json() << "}\n";
  return failed || !report.failures().empty();
}

}  // namespace

int main(int count, char** arguments) {
  fpsa::bench::GpuBenchOptions options;
  for (int i = 1; i < count; ++i) {
    const std::string argument = arguments[i];
    if (argument == "--no-peers")
      options.python.clear();
    else if (argument == "--python" && i + 1 < count)
      options.python = arguments[++i];
    else
      return std::cerr << "fpsa_gpu_bench: expected --no-peers or --python PATH, got '" << argument << "'\n", 1;
  }
  if (const auto missing = fpsa::kernel::cuda::unavailable_reason(options.device); !missing.empty())
    return std::cerr << "fpsa_gpu_bench: " << missing << '\n', 2;
  try {
    return run(options);
  } catch (const std::exception& error) {
    return std::cerr << "fpsa_gpu_bench: " << error.what() << '\n', 1;
  }
}
