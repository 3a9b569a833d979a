// The table of attention cases, walked by any device, and what came of it.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "fpsa/kernel/cuda/launch.h"
#include "tests/kernel/cuda/attention_problem.h"

namespace fpsa::kernel::cuda::testing_support {

/// How a device answers: rows of an output type, the exact output or not.
using Device = std::function<AttentionRows(const AttentionOnCodes&, bool exact, DeviceOutType)>;

struct Verdict {
  std::string name;
  std::string failure;  // empty where the case passed
};

/// Every case of the table whose name holds `only`: F32 rows against the reference, a second run bit for bit, BF16 and F16
/// rows within their rounding. What a device throws is a failure.
///   Numerics  accumulator_bits: of the device's products, as AttentionOnCodes::Arithmetic
std::vector<Verdict> walk(const Device& device, int accumulator_bits, std::string_view only = {});

/// {"cases": [{"name", "passed", "failure"?}]}
std::string verdicts_json(const std::vector<Verdict>& verdicts);

}  // namespace fpsa::kernel::cuda::testing_support
