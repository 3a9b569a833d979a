#include "fpsa/app/attention_choice.h"

#include <algorithm>
#include <iomanip>
#include <sstream>

#include "fpsa/app/interrupt.h"
#include "fpsa/base/check.h"
#include "fpsa/io/json.h"

namespace fpsa::app {
namespace {

// The schedule that applies and where it came from: the flag, else the checkpoint, else the project's default.
struct FoundSchedule {
  schedule::Schedule schedule;
  std::string origin;
  bool of_lora = false;
};

FoundSchedule find_schedule(const GenerateOptions& options, const std::vector<CarriedSchedule>& carried) {
  if (!options.schedule.empty()) {
    const auto path = options.schedule.string();
    return {schedule::parse_toml(io::read_text_file(options.schedule), path), "the schedule " + path};
  }
  if (const auto own = agreed_schedule(carried))
    return {schedule::parse_toml(own->toml, own->origin), own->origin, own->of_lora};
  return {schedule::default_schedule(), "the built-in default schedule"};
}

bool same_work(const accel::Explain& a, const accel::Explain& b) {
  return a.step == b.step && a.method == b.method && a.kernel == b.kernel && a.coder == b.coder &&
         a.pattern == b.pattern && a.granularity == b.granularity && a.density == b.density && a.reason == b.reason;
}

}  // namespace

std::optional<CarriedSchedule> agreed_schedule(const std::vector<CarriedSchedule>& carried) {
  if (carried.empty()) return std::nullopt;
  const CarriedSchedule& first = carried.front();
  const auto schedule = schedule::parse_toml(first.toml, first.origin);
  for (const CarriedSchedule& other : carried)
    FPSA_CHECK(schedule::parse_toml(other.toml, other.origin) == schedule, first.origin, " and ", other.origin,
               " are different schedules, and the weights were trained for both; choose one with --schedule FILE, or "
               "--attention dense");
  return first;
}

AttentionChoice choose_attention(const GenerateOptions& options, const std::vector<CarriedSchedule>& carried,
                                 const pattern::Grid& grid, int64_t layers, int64_t heads) {
  AttentionChoice choice;
  choice.name = options.attention;
  if (choice.name == "auto") {
    const bool scheduled = !carried.empty() || !options.schedule.empty();
    choice.name = scheduled ? "fps" : "dense";
    choice.reason = scheduled ? "auto: " : "auto: the checkpoint carries no schedule";
  }
  if (choice.name == "dense") {
    choice.method = accel::make_dense();
    if (choice.reason.empty()) choice.reason = "asked for";
    return choice;
  }
  auto found = find_schedule(options, carried);
  schedule::check_for_grid(found.schedule, grid);
  schedule::check_for_model(found.schedule, layers, heads);
  choice.reason += "with " + found.origin;
  choice.schedule = found.schedule;
  if (found.of_lora) choice.shift = found.schedule.shift;
  choice.e4m3_feed_forward =
      found.schedule.feed_forward == schedule::Quant::kE4m3 && (choice.name == "fps" || choice.name == "fp8");
  if (choice.e4m3_feed_forward) choice.reason += ", feed-forward in e4m3";
  if (choice.name == "fps")
    choice.method = options.attention == "auto" ? accel::make_fps_or_torch_dense(std::move(found.schedule))
                                                : accel::make_fps(std::move(found.schedule));
  if (choice.name == "sta") choice.method = accel::make_sta(std::move(found.schedule));
  if (choice.name == "fp8") choice.method = accel::make_fp8(std::move(found.schedule));
  if (choice.name == "int8") choice.method = accel::make_int8(std::move(found.schedule));
  return choice;
}

at::Tensor InterruptibleAttention::self_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                                  const nn::AttentionContext& context) {
  throw_if_interrupted();
  return method_.self_attention(q, k, v, context);
}

at::Tensor InterruptibleAttention::attend(const nn::Projections& x, const nn::AttentionContext& context) {
  throw_if_interrupted();
  return method_.attend(x, context);
}

std::string explain_text(const std::vector<accel::Explain>& report) {
  std::ostringstream out;
  for (size_t i = 0; i < report.size();) {
    size_t end = i + 1;
    while (end < report.size() && same_work(report[i], report[end]))
      ++end;
    const auto& entry = report[i];
    out << "step " << std::setw(3) << entry.step << "  layer";
    if (end - i > 1) {
      out << "s " << entry.layer << '-' << report[end - 1].layer;
    } else {
      out << ' ' << entry.layer;
    }
    out << "  " << entry.method << ": " << entry.kernel << (entry.coder.empty() ? "" : " after " + entry.coder) << ", "
        << entry.pattern << " (density " << std::fixed << std::setprecision(3) << entry.density << "), granularity "
        << entry.granularity << "; " << entry.reason << '\n';
    i = end;
  }
  return out.str();
}

}  // namespace fpsa::app
