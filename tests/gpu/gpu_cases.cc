// fpsa_gpu_cases [TEXT]: the table of attention cases on the card, or those whose names hold TEXT. JSON on standard output,
// exit code 1 when a case fails, 2 where there is no card that runs the kernels.
#include <iostream>

#include "fpsa/kernel/cuda/cuda.h"
#include "tests/gpu/cases.h"
#include "tests/gpu/device_attention.h"

namespace {

// What is known of Hopper's FP8 tensor cores: terms are cut to 14 significant bits of the largest.
constexpr int kAccumulatorBits = 13;

}  // namespace

int main(int count, char** arguments) {
  namespace support = fpsa::kernel::cuda::testing_support;
  const auto missing = fpsa::kernel::cuda::unavailable_reason(0);
  if (!missing.empty()) {
    std::cerr << "fpsa_gpu_cases: " << missing << '\n';
    return 2;
  }
  const auto verdicts =
      support::walk(support::run_on_device, kAccumulatorBits, count > 1 ? arguments[1] : "");
  std::cout << support::verdicts_json(verdicts);
  int failed = verdicts.empty();
  for (const auto& verdict : verdicts) {
    failed += !verdict.failure.empty();
    std::cerr << (verdict.failure.empty() ? "passed  " : "FAILED  ") << verdict.name
              << (verdict.failure.empty() ? "" : ": ") << verdict.failure << '\n';
  }
  return failed > 0;
}
