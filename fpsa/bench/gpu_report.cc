#include "fpsa/bench/gpu_report.h"

#include <algorithm>
#include <iomanip>
#include <sstream>

#include "fpsa/base/check.h"
#include "fpsa/bench/json_text.h"

namespace fpsa::bench {
namespace {

bool is_peer(const GpuCase& item) {
  return item.kernel.starts_with(kPeerPrefix);
}

const GpuCase* find(const std::vector<GpuCase>& cases, const char* group, const char* kernel) {
  const auto at = std::ranges::find_if(
      cases, [&](const GpuCase& item) { return item.group == group && item.kernel == kernel && item.dim == 128; });
  return at == cases.end() ? nullptr : &*at;
}

// Sets the value by `of`, or says which case is missing or failed.
template <class Of, class... Case>
GpuFigure figure(const char* name, double aim, bool at_least, const Of& of, const Case*... cases) {
  GpuFigure made{name, {}, aim, at_least, {}};
  for (const GpuCase* item : {static_cast<const GpuCase*>(cases)...}) {
    if (!item) return made.why = "no such case in this run", made;
    if (item->failed()) return made.why = join(item->name, ": ", item->failure), made;
  }
  made.value = of(*cases...);
  return made;
}

std::string fixed(double value, int digits) {
  std::ostringstream out;
  out << std::fixed << std::setprecision(digits) << value;
  return out.str();
}

std::string line_of(const GpuCase& item) {
  std::ostringstream out;
  out << std::left << std::setw(10) << item.group << std::setw(26) << item.name << std::setw(44) << item.kernel;
  if (item.failed()) {
    out << "FAILED: " << item.failure;
    return out.str();
  }
  out << std::right << std::setw(10) << fixed(1e3 * item.seconds, 3) << " ms  +-" << std::setw(4)
      << fixed(50 * item.spread, 1) << '%';
  if (item.operations > 0) out << std::setw(9) << fixed(1e-12 * item.rate(), 0) << " TFLOP/s";
  if (!item.variant.empty()) out << "  " << item.variant;
  if (item.density < 1) out << "  density " << fixed(item.density, 4);
  if (item.error) out << "  error " << std::setprecision(2) << *item.error;
  return out.str();
}

}  // namespace

std::vector<GpuFigure> GpuReport::figures() const {
  const auto tera = [](const GpuCase& item) { return 1e-12 * item.rate(); };
  std::vector<GpuFigure> made;
  made.push_back(figure("fp8_dense_tflops", 1100, true, tera, find(cases, kDenseGroup, kFp8Kernel)));

  const GpuCase *whole = nullptr, *slowest = nullptr;
  for (const GpuCase& item : cases) {
    if (item.group != kLadderGroup || is_peer(item)) continue;
    if (item.density == 1)
      whole = &item;
    else if (item.density >= 0.1 && (!slowest || item.failed() || item.rate() < slowest->rate()))
      slowest = &item;
  }
  made.push_back(figure(
      "sparse_fraction_of_dense", 0.85, true,
      [](const GpuCase& sparse, const GpuCase& dense) { return sparse.rate() / dense.rate(); }, slowest, whole));

  const GpuCase *ours = find(cases, kPaperGroup, kWithPrepass), *peer = nullptr;
  for (const GpuCase& item : cases)
    if (item.group == kPaperGroup && is_peer(item) && !item.failed() && item.density == 1 &&
        item.name.find("bf16") != std::string::npos && (!peer || item.seconds < peer->seconds))
      peer = &item;
  const auto ratio = [](const GpuCase& above, const GpuCase& below) { return above.seconds / below.seconds; };
  made.push_back(figure("paper_speedup", 11, true, ratio, peer, ours));
  made.push_back(figure("prepass_share", 0.10, false, ratio, find(cases, kPaperGroup, kPrepass), ours));
  made.push_back(figure("bf16_dense_tflops", 650, true, tera, find(cases, kDenseGroup, kBf16Kernel)));
  made.push_back(figure("backward_tflops", 570, true, tera, find(cases, kBackwardGroup, kBackwardKernel)));
  return made;
}

std::vector<std::string> GpuReport::failures() const {
  std::vector<std::string> failed;
  for (const GpuCase& item : cases)
    if (item.failed() && !is_peer(item)) failed.push_back(join(item.group, '/', item.name, ": ", item.failure));
  return failed;
}

std::string GpuReport::to_json() const {
  JsonText json;
  json.begin_object().key("about").begin_object();
  for (const auto& [name, value] : about)
    json.key(name).value(value);
  json.end_object().key("figures").begin_array();
  for (const GpuFigure& item : figures()) {
    json.begin_object().key("name").value(item.name).key("value");
    item.value ? json.value(*item.value) : json.null();
    json.key(item.at_least ? "at_least" : "at_most").value(item.aim).key("met").value(item.met());
    if (!item.why.empty()) json.key("why").value(item.why);
    json.end_object();
  }
  json.end_array().key("cases").begin_array();
  for (const GpuCase& item : cases) {
    json.begin_object().key("group").value(item.group).key("name").value(item.name).key("kernel").value(item.kernel);
    if (!item.variant.empty()) json.key("variant").value(item.variant);
    json.key("tokens").value(item.tokens).key("heads").value(item.heads).key("dim").value(item.dim);
    json.key("density").value(item.density);
    if (item.failed()) {
      json.key("failure").value(item.failure).end_object();
      continue;
    }
    json.key("seconds").value(item.seconds).key("spread").value(item.spread).key("samples").value(item.samples);
    if (item.operations > 0)
      json.key("operations").value(item.operations).key("operations_per_second").value(item.rate());
    if (item.error) json.key("error").value(*item.error);
    json.end_object();
  }
  json.end_array().end_object();
  return json.text() + '\n';
}

std::string GpuReport::to_text() const {
  std::ostringstream out;
  for (const auto& [name, value] : about)
    out << std::left << std::setw(22) << name << value << '\n';
  out << "\nmedians by CUDA events, L2 flushed before each call; +- is half the range\n";
  for (const GpuCase& item : cases)
    out << line_of(item) << '\n';
  out << '\n';
  for (const GpuFigure& item : figures()) {
    out << std::left << std::setw(28) << item.name;
    if (item.value)
      out << fixed(*item.value, 3) << "  (aim: " << (item.at_least ? "at least " : "at most ") << item.aim << ", "
          << (item.met() ? "met" : "NOT MET") << ")\n";
    else
      out << "no figure: " << item.why << '\n';
  }
  return out.str();
}

}  // namespace fpsa::bench
