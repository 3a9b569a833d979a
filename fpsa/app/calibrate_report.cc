#include "fpsa/app/calibrate_report.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <iomanip>
#include <nlohmann/json.hpp>
#include <sstream>

#include "fpsa/app/flags.h"
#include "fpsa/base/check.h"

namespace fpsa::app {
namespace {

using nlohmann::json;

json triple(const pattern::Grid& grid) {
  const auto axis = [](int64_t n) { return n == pattern::kAllTiles ? json("all") : json(n); };
  return {axis(grid.t), axis(grid.y), axis(grid.x)};
}

// Six significant digits: more than a measurement over a few prompts is good for. Null where there is no number.
json rounded(double value) {
  if (!std::isfinite(value)) return nullptr;
  char text[32];
  std::snprintf(text, sizeof text, "%.6g", value);
  return std::strtod(text, nullptr);
}

// [step][layer][head] of one candidate.
template <class Value>
json measurements(const CalibrationReport& report, size_t candidate, Value value) {
  auto steps = json::array();
  for (int64_t step = 0; step < report.table.steps; ++step) {
    auto layers = json::array();
    for (int64_t layer = 0; layer < report.table.layers; ++layer) {
      auto heads = json::array();
      for (int64_t head = 0; head < report.table.heads; ++head)
        heads.push_back(rounded(value(report.measured.sums(candidate, step, layer, head))));
      layers.push_back(std::move(heads));
    }
    steps.push_back(std::move(layers));
  }
  return steps;
}

json settings(const CalibrationReport& report) {
  const auto& options = report.options;
  json result = {{"fpsa_version", FPSA_VERSION},
                 {"command", options.command},
                 {"model", options.run.model.string()},
                 {"prompts", report.prompts},
                 {"negative_prompt", options.run.negative_prompt},
                 {"seed", options.run.seed},
                 {"height", report.shape.height},
                 {"width", report.shape.width},
                 {"num_frames", report.shape.frames},
                 {"grid", triple(report.shape.grid)},
                 {"rope_scale", rope_scale_text(options.run.rope_scale)},
                 {"num_inference_steps", report.loop.steps},
                 {"guidance_scale", report.loop.guidance_scale},
                 {"flow_shift", report.loop.scheduler.shift},
                 {"sampler", diffusion::sampler_name(report.loop.scheduler.sampler)},
                 {"dtype", report.dtype},
                 {"per", options.per},
                 {"step_stride", options.step_stride},
                 {"layer_stride", options.layer_stride}};
  result[report.budget.limit == schedule::Limit::kDensity ? "density" : "max_error"] = report.budget.value;
  return result;
}

std::string number(double value) {
  std::ostringstream out;
  out << std::setprecision(3) << value;
  return out.str();
}

std::string steps_text(const PhaseSummary& phase) {
  const int64_t last = phase.end_step - 1;
  return last == phase.first_step ? join("step ", last) : join("steps ", phase.first_step, " to ", last);
}

std::string phase_text(const PhaseSummary& phase, size_t index) {
  return join("phase ", index + 1, ": ", steps_text(phase), " (until ", number(phase.until), "), ",
              schedule::to_string(phase.setting), "; density ", number(phase.prediction.density), ", error ",
              number(phase.prediction.error));
}

std::string prediction_text(const CalibrationReport& report) {
  const auto mean = schedule::predict(report.table, report.schedule);
  const auto overrides = report.schedule.overrides.size();
  return join("mean density ", number(mean.density), ", mean error ", number(mean.error),
              " (asked: ", budget_text(report.budget), "), ", overrides, overrides == 1 ? " override" : " overrides");
}

}  // namespace

std::vector<PhaseSummary> phases_of(const CalibrationReport& report) {
  std::vector<PhaseSummary> result;
  int64_t first = 0;
  for (size_t i = 0; i < report.schedule.phases.size(); ++i) {
    const auto& phase = report.schedule.phases[i];
    int64_t end = first;
    while (end < report.table.steps &&
           schedule::phase_at(report.schedule, end, report.table.steps) == static_cast<int>(i))
      ++end;
    result.push_back({first,
                      end,
                      phase.until,
                      {phase.granularity, phase.window, phase.quant},
                      schedule::predict_phase(report.table, report.schedule, static_cast<int>(i))});
    first = end;
  }
  return result;
}

std::string budget_text(const schedule::Budget& budget) {
  return join(budget.limit == schedule::Limit::kDensity ? "mean density at most " : "mean error at most ",
              number(budget.value));
}

std::string run_text(const CalibrationReport& report) {
  const auto& shape = report.shape;
  return join(shape.frames, " frames ", shape.width, "x", shape.height, " (", pattern::to_string(shape.grid),
              " tokens), ", report.loop.steps, " steps of ", diffusion::sampler_name(report.loop.scheduler.sampler),
              ", shift ", report.loop.scheduler.shift, ", guidance ", report.loop.guidance_scale, ", seed ",
              report.options.run.seed, ", ", report.dtype,
              report.schedule.feed_forward == schedule::Quant::kE4m3 ? ", feed-forward in e4m3" : "");
}

std::string schedule_text(const CalibrationReport& report) {
  std::ostringstream out;
  const auto count = report.prompts.size();
  out << "# Made by fpsa calibrate " << FPSA_VERSION << " from " << count << (count == 1 ? " prompt" : " prompts")
      << " through the dense model:\n# " << run_text(report) << ".\n# Of " << report.table.candidates()
      << " candidates; the error is the relative L2 of single attention outputs against dense ones,\n"
      << "# its mean and the mean density are over all steps, layers and heads.\n#\n# " << prediction_text(report)
      << "\n";
  const auto phases = phases_of(report);
  for (size_t i = 0; i < phases.size(); ++i)
    out << "# " << phase_text(phases[i], i) << "\n";
  out << schedule::to_toml(report.schedule);
  return out.str();
}

std::string calibration_json(const CalibrationReport& report) {
  const auto& table = report.table;
  auto candidates = json::array();
  for (size_t i = 0; i < table.candidates(); ++i) {
    const auto& candidate = table.list.candidates[i];
    candidates.push_back(
        {{"granularity", triple(candidate.granularity)},
         {"window", triple(candidate.window)},
         {"quant", schedule::name(candidate.quant)},
         {"density", rounded(table.density[i])},
         {"relative_l2", measurements(report, i, [](const accel::ErrorSums& s) { return s.relative_l2(); })},
         {"cosine", measurements(report, i, [](const accel::ErrorSums& s) { return s.cosine(); })},
         {"snr_db", measurements(report, i, [](const accel::ErrorSums& s) { return s.snr_db(); })}});
  }
  const auto mean = schedule::predict(table, report.schedule);
  const json document = {{"format", "fpsa-calibration"},
                         {"version", 1},
                         {"settings", settings(report)},
                         {"tile", triple(table.list.tile)},
                         {"layers", report.measured.layers()},
                         {"heads", table.heads},
                         {"steps", table.steps},
                         {"candidates", std::move(candidates)},
                         {"schedule", schedule::to_toml(report.schedule)},
                         {"density", rounded(mean.density)},
                         {"relative_l2", rounded(mean.error)}};
  // A prompt or a path need not be UTF-8; the measurements are not lost to that.
  return document.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
}

std::string summary_text(const CalibrationReport& report) {
  std::string text;
  const auto phases = phases_of(report);
  for (size_t i = 0; i < phases.size(); ++i)
    text += phase_text(phases[i], i) + "\n";
  return text + prediction_text(report) + "\n";
}

}  // namespace fpsa::app
