#include "fpsa/app/bench_report.h"

#include <algorithm>
#include <iomanip>
#include <iostream>
#include <sstream>

#include "fpsa/base/check.h"

namespace fpsa::app::bench {
namespace {

using nlohmann::json;

std::string fixed(double value, int digits) {
  std::ostringstream out;
  out << std::fixed << std::setprecision(digits) << value;
  return out.str();
}

std::string time_text(double seconds) {
  return seconds < 1 ? fixed(seconds * 1e3, 2) + " ms" : fixed(seconds, 3) + " s";
}

// "52.11 ms +-0.8%  626.0 GF/s  81.2% of peak  error 0.0031  kernel"
std::string line_of(const Case& item) {
  std::ostringstream out;
  out << std::left << std::setw(46) << item.name;
  if (item.failed()) {
    out << "FAILED: " << item.timing.failure;
    return out.str();
  }
  if (item.timing.seconds > 0)
    out << std::right << std::setw(11) << time_text(item.timing.seconds) << "  +-" << std::setw(5)
        << fixed(item.timing.spread * 50, 1) + "%";
  if (item.operations > 0) out << std::setw(9) << fixed(item.rate() * 1e-9, 1) << " GF/s";
  if (item.peak_fraction) out << "  " << fixed(*item.peak_fraction * 100, 1) << "% of peak";
  if (item.density < 1) out << "  density " << fixed(item.density, 4);
  for (const auto& [key, value] : item.more.items())
    if (value.is_number_float()) out << "  " << key << ' ' << fixed(value, 4);
  if (item.error) out << "  error " << std::defaultfloat << std::setprecision(2) << *item.error;
  if (!item.kernel.empty()) out << "  " << item.kernel;
  if (item.timing.disturbed)
    out << "  DISTURBED by other processes (" << fixed(item.timing.others * 100, 0) << "%), processor time "
        << time_text(item.timing.cpu);
  return out.str();
}

json json_of(const Case& item) {
  json result = {{"group", item.group},
                 {"name", item.name},
                 {"kernel", item.kernel},
                 {"isa", item.isa},
                 {"format", item.format},
                 {"grid", {item.grid.t, item.grid.y, item.grid.x}},
                 {"tokens", item.grid.volume()},
                 {"heads", item.heads},
                 {"dim", item.dim},
                 {"threads", item.threads},
                 {"density", item.density},
                 {"operations", item.operations}};
  result.update(item.timing.to_json());
  if (item.rate() > 0) result["operations_per_second"] = item.rate();
  if (item.peak_fraction) {
    result["peak_fraction"] = *item.peak_fraction;
    result["peak_disturbed"] = item.peak_disturbed;
  }
  if (item.error) result["error"] = *item.error;
  result.update(item.more);
  return result;
}

}  // namespace

const std::vector<std::string>& summary_keys() {
  static const std::vector<std::string> keys = {"isa",
                                                "dense_bf16_peak_fraction",
                                                "dense_bf16_vs_torch_best",
                                                "dense_bf16_vs_torch_shipped",
                                                "e4m3_vs_bf16",
                                                "int8_peak_fraction",
                                                "sparse_efficiency",
                                                "paper_case_vs_torch_best",
                                                "sparse_backward_vs_torch_best",
                                                "prepass_share",
                                                "ragged_waste",
                                                "threads_scaling",
                                                "peak_threads_scaling"};
  return keys;
}

const Case* fastest(const std::vector<const Case*>& cases) {
  const Case* best = nullptr;
  for (const Case* item : cases)
    if (!item->failed() && (!best || item->timing.seconds < best->timing.seconds)) best = item;
  return best;
}

Report::Report(json about) : about_(std::move(about)) {
  for (const auto& key : summary_keys()) {
    summary_[key] = nullptr;
    notes_[key] = "not measured: --only left its cases out";
  }
}

void Report::add(Case item) {
  std::cout << line_of(item) << std::endl;
  if (item.failed()) failures_.push_back(item.name + ": " + item.timing.failure);
  cases_.push_back(json_of(item));
}

void Report::figure(const std::string& key, json value, bool disturbed) {
  FPSA_CHECK(summary_.contains(key), "bench: no summary key ", key);
  summary_[key] = std::move(value);
  notes_.erase(key);
  if (disturbed) notes_[key] = "disturbed: other processes ran during its samples";
}

void Report::ratio(const std::string& key, const Case* top, const Case* bottom, double factor) {
  for (const Case* item : {top, bottom}) {
    if (!item) return no_figure(key, "a case that it is drawn from could not be timed");
    if (item->failed()) return no_figure(key, item->name + ": " + item->timing.failure);
  }
  figure(key, factor * top->timing.seconds / bottom->timing.seconds, top->timing.disturbed || bottom->timing.disturbed);
}

void Report::no_figure(const std::string& key, const std::string& reason) {
  FPSA_CHECK(summary_.contains(key), "bench: no summary key ", key);
  summary_[key] = nullptr;
  notes_[key] = reason;
}

void Report::failure(const std::string& what) {
  std::cout << "FAILED: " << what << std::endl;
  failures_.push_back(what);
}

void Report::print_summary() const {
  std::cout << "\nsummary\n";
  for (const auto& key : summary_keys()) {
    const json& value = summary_[key];
    std::cout << "  " << std::left << std::setw(32) << key
              << (value.is_null()     ? "none"
                  : value.is_string() ? value.get<std::string>()
                                      : fixed(value, 4));
    if (notes_.contains(key)) std::cout << "  (" << notes_[key].get<std::string>() << ')';
    std::cout << '\n';
  }
  std::cout << std::flush;
}

json Report::to_json(double seconds) const {
  json result = about_;
  result["cases"] = cases_;
  result["summary"] = summary_;
  result["summary_notes"] = notes_;
  result["failures"] = failures_;
  result["seconds"] = seconds;
  return result;
}

}  // namespace fpsa::app::bench
