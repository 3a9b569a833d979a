#include "tests/gpu/cases.h"

#include <cstring>
#include <exception>
#include <tuple>

#include "fpsa/base/check.h"
#include "fpsa/bench/json_text.h"
#include "fpsa/numeric/bounds.h"

namespace fpsa::kernel::cuda::testing_support {
namespace {

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

std::string failure_of(const AttentionCase& test, const Device& device, int accumulator_bits) {
  const AttentionOnCodes attention(test.problem);
  const AttentionRows want = attention.reference();
  const AttentionRows first = device(attention, test.exact, DeviceOutType::kF32);
  if (auto wrong = attention.violation(first, want, test.exact, {0, accumulator_bits}); !wrong.empty()) return "F32: " + wrong;
  const AttentionRows again = device(attention, test.exact, DeviceOutType::kF32);
  if (!same_bits(first.out, again.out) || !same_bits(first.exact, again.exact) || !same_bits(first.lse, again.lse) ||
      !same_bits(first.row_max, again.row_max))
    return "expected the bits of the first run from the second, got others";
  for (const auto& [type, name, unit] : {std::tuple(DeviceOutType::kBf16, "BF16: ", numeric::kBf16Epsilon),
                                         std::tuple(DeviceOutType::kF16, "F16: ", 0x1p-11)})
    if (auto wrong = attention.violation(device(attention, test.exact, type), want, test.exact, {unit, accumulator_bits});
        !wrong.empty())
      return name + wrong;
  return {};
}

}  // namespace

std::vector<Verdict> walk(const Device& device, int accumulator_bits, std::string_view only) {
  std::vector<Verdict> verdicts;
  for (const AttentionCase& test : attention_cases()) {
    if (test.name.find(only) == std::string::npos) continue;
    Verdict verdict{test.name, {}};
    try {
      verdict.failure = failure_of(test, device, accumulator_bits);
    } catch (const std::exception& error) {
      verdict.failure = error.what();
    }
    verdicts.push_back(verdict);
  }
  return verdicts;
}

std::string verdicts_json(const std::vector<Verdict>& verdicts) {
  bench::JsonText json;
  json.begin_object().key("cases").begin_array();
  for (const Verdict& verdict : verdicts) {
    json.begin_object().key("name").value(verdict.name).key("passed").value(verdict.failure.empty());
    if (!verdict.failure.empty()) json.key("failure").value(verdict.failure);
    json.end_object();
  }
  json.end_array().end_object();
  return json.text() + '\n';
}

}  // namespace fpsa::kernel::cuda::testing_support
