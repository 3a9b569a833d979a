// The page is built top to bottom by one function per section. Heat maps stretch to their boxes (heat_map.h); what
// belongs to their steps, such as borders between phases, is drawn over them in percent.
#include "fpsa/app/calibrate_page.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <sstream>

#include "fpsa/app/heat_map.h"
#include "fpsa/base/check.h"

namespace fpsa::app {
namespace {

constexpr char kStyle[] = R"(<style>
:root { color-scheme: light; }
body { margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #1c2733; background: #fff;
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .3rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .4rem; }
p { margin: .3rem 0; max-width: 50rem; } .quiet { color: #5b6875; font-size: .87rem; }
pre { background: #f4f6f8; padding: .6rem .8rem; overflow-x: auto; font-size: .82rem; border-radius: 4px; }
table { border-collapse: collapse; font-size: .9rem; } .wide { overflow-x: auto; }
th, td { padding: .25rem .8rem .25rem 0; text-align: left; border-bottom: 1px solid #e1e6eb; }
th { font-weight: 600; color: #47535f; } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
tr.chosen td:first-child { box-shadow: inset 3px 0 #c2410c; } table.marked td:first-child { padding-left: .6rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(20rem, 1fr)); gap: 1.4rem 1.6rem; }
.card h3 { font-size: .9rem; margin: 0; } .card p { font-size: .82rem; color: #47535f; margin: 0 0 .2rem; }
.box { position: relative; height: 11rem; border: 1px solid #cfd6dd; } .box.tall { height: 16rem; }
.box svg.map { position: absolute; width: 100%; height: 100%; }
.box i { position: absolute; top: 0; bottom: 0; border-left: 1.5px dashed #c2410c; }
.used { position: relative; height: .35rem; margin-top: 2px; } .used b { position: absolute; height: 100%;
  background: #c2410c; }
.axis { display: flex; justify-content: space-between; font-size: .75rem; color: #5b6875; }
.legend { display: flex; align-items: center; gap: .5rem; font-size: .82rem; margin: .4rem 0 .8rem; }
.legend svg { width: 14rem; height: .8rem; border: 1px solid #cfd6dd; }
svg.chart { width: 100%; height: auto; font: 11px system-ui, sans-serif; }
</style>
)";

class Page {
 public:
  explicit Page(const CalibrationReport& report)
      : report_(report), table_(report.table), phases_(phases_of(report)), errors_(error_scale()) {
    for (size_t phase = 0; phase < phases_.size(); ++phase) {
      std::vector<size_t> cells;
      for (int64_t layer = 0; layer < table_.layers; ++layer)
        for (int64_t head = 0; head < table_.heads; ++head)
          cells.push_back(schedule::candidate_at(table_, report.schedule, static_cast<int>(phase), layer, head));
      chosen_.push_back(std::move(cells));
    }
  }

  std::string text() {
    out_ << "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
         << "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>Attention calibration: "
         << escaped(report_.options.run.model.string()) << "</title>\n"
         << kStyle << "</head>\n<body>\n";
    head();
    phase_table();
    chart();
    schedule_map();
    candidate_table();
    candidate_maps();
    out_ << "<h2>The schedule</h2>\n<pre>" << escaped(schedule_text(report_)) << "</pre>\n</body>\n</html>\n";
    return out_.str();
  }

 private:
  // Of the errors above zero; a factor of ten where they leave no room for a scale.
  ColourScale error_scale() const {
    double low = HUGE_VAL, high = 0;
    for (const double error : table_.error) {
      if (error > 0) low = std::min(low, error);
      high = std::max(high, error);
    }
    if (high == 0) return {0.01, 0.1, true};
    return {std::min(low, high / 10), high, true};
  }

  double mean(size_t candidate, int64_t step) const {
    double sum = 0;
    for (int64_t layer = 0; layer < table_.layers; ++layer)
      for (int64_t head = 0; head < table_.heads; ++head)
        sum += table_.at(candidate, step, layer, head);
    return sum / static_cast<double>(table_.layers * table_.heads);
  }

  size_t phase_of(int64_t step) const {
    return static_cast<size_t>(schedule::phase_at(report_.schedule, step, table_.steps));
  }

  size_t chosen(int64_t step, int64_t row) const { return chosen_[phase_of(step)][static_cast<size_t>(row)]; }

  double chosen_mean(int64_t step) const {
    double sum = 0;
    for (int64_t row = 0; row < table_.layers * table_.heads; ++row)
      sum += table_.at(chosen(step, row), step, row / table_.heads, row % table_.heads);
    return sum / static_cast<double>(table_.layers * table_.heads);
  }

  double percent(int64_t step) const { return 100 * static_cast<double>(step) / static_cast<double>(table_.steps); }

  void head() {
    const auto& options = report_.options;
    out_ << "<h1>Attention calibration</h1>\n<p>Model " << escaped(options.run.model.string()) << ": " << table_.layers
         << (options.layer_stride > 1 ? " measured layers, " : " layers, ") << table_.heads << " heads. "
         << escaped(run_text(report_)) << ".</p>\n<pre>" << escaped(options.command) << "</pre>\n";
    if (options.run.prompt_embeds.empty()) {
      out_ << "<details><summary class=\"quiet\">" << report_.prompts.size()
           << (report_.prompts.size() == 1 ? " prompt" : " prompts") << "</summary><ol>\n";
      for (const auto& prompt : report_.prompts)
        out_ << "<li>" << escaped(prompt) << "</li>\n";
      out_ << "</ol></details>\n";
    }
    if (options.step_stride > 1)
      out_ << "<p>One step of " << options.step_stride << " was measured; those after it show its values.</p>\n";
    out_ << "<p>The error is the relative L2 distance of one attention output from the dense one, on the queries, keys "
            "and values of the dense run. How it spreads through later layers and steps is not in it, nor what "
            "training with the schedule would make of it.</p>\n";
  }

  void phase_table() {
    const auto whole = schedule::predict(table_, report_.schedule);
    out_ << "<h2>Chosen phases</h2>\n<p>Asked: " << escaped(budget_text(report_.budget)) << ", per "
         << escaped(report_.options.per) << ". Found: mean density <b>" << short_number(whole.density)
         << "</b>, mean error <b>" << short_number(whole.error) << "</b>, " << report_.schedule.overrides.size()
         << " overrides.</p>\n<div class=\"wide\"><table><tr><th>phase</th><th>steps</th><th class=\"n\">until</th>"
            "<th>setting</th><th class=\"n\">density</th><th class=\"n\">error</th></tr>\n";
    for (size_t i = 0; i < phases_.size(); ++i) {
      const auto& phase = phases_[i];
      out_ << "<tr><td>" << i + 1 << "</td><td>"
           << (phase.end_step - phase.first_step > 1 ? join(phase.first_step, " to ") : "") << phase.end_step - 1
           << "</td><td class=\"n\">" << short_number(phase.until) << "</td><td>"
           << escaped(schedule::to_string(phase.setting)) << (alike(i) ? "" : ", and others by overrides")
           << "</td><td class=\"n\">" << short_number(phase.prediction.density) << "</td><td class=\"n\">"
           << short_number(phase.prediction.error) << "</td></tr>\n";
    }
    out_ << "</table></div>\n";
    if (phases_.size() == static_cast<size_t>(schedule::kPhases))
      out_ << "<p class=\"quiet\">The first two ends are what the paper calls alpha1 and alpha2.</p>\n";
    else
      out_ << "<p class=\"quiet\">Of " << schedule::kPhases
           << " phases neighbours came out equal; they are one here.</p>\n";
  }

  bool alike(size_t phase) const {
    return std::ranges::adjacent_find(chosen_[phase], std::not_equal_to<>()) == chosen_[phase].end();
  }

  // Error over the steps: a thin line for each candidate, a thick one for what was chosen.
  void chart() {
    constexpr double kWidth = 1000, kHeight = 300, kLeft = 52, kRight = 10, kTop = 46, kBottom = 34;
    const auto x = [&](double step) {
      return kLeft + (kWidth - kLeft - kRight) * step / static_cast<double>(table_.steps);
    };
    const auto y = [&](double error) {
      const double share = std::log(std::clamp(error, errors_.low(), errors_.high()) / errors_.low()) /
                           std::log(errors_.high() / errors_.low());
      return kHeight - kBottom - (kHeight - kTop - kBottom) * share;
    };
    const auto line = [&](const auto& error_at) {
      std::string points;
      for (int64_t step = 0; step < table_.steps; ++step)
        points += join(points.empty() ? "" : " ", short_number(x(static_cast<double>(step) + 0.5)), ',',
                       short_number(y(error_at(step))));
      return points;
    };
    out_ << "<h2>Error of every step</h2>\n<p class=\"quiet\">Means over layers and heads, logarithmic. Thin lines: "
            "candidates, the darker the denser (hover for the setting). Thick line: the schedule. Dashed: borders of "
            "its phases.</p>\n<svg class=\"chart\" viewBox=\"0 0 "
         << kWidth << ' ' << kHeight << "\" role=\"img\" aria-label=\"Error of every step\">\n";
    for (double decade = std::pow(10, std::floor(std::log10(errors_.low()))); decade <= errors_.high(); decade *= 10)
      for (const int factor : {1, 2, 5})
        if (const double tick = factor * decade; tick >= errors_.low() && tick <= errors_.high())
          out_ << "<line x1=\"" << kLeft << "\" x2=\"" << kWidth - kRight << "\" y1=\"" << y(tick) << "\" y2=\""
               << y(tick) << "\" stroke=\"#e1e6eb\"/><text x=\"" << kLeft - 6 << "\" y=\"" << y(tick) + 4
               << "\" text-anchor=\"end\" fill=\"#5b6875\">" << short_number(tick) << "</text>\n";
    const int64_t every = std::max<int64_t>(1, (table_.steps + 19) / 20);
    for (int64_t step = 0; step < table_.steps; step += every)
      out_ << "<text x=\"" << x(static_cast<double>(step) + 0.5) << "\" y=\"" << kHeight - kBottom + 16
           << "\" text-anchor=\"middle\" fill=\"#5b6875\">" << step << "</text>\n";
    out_ << "<text x=\"" << x(0) << "\" y=\"" << kHeight - 4 << "\" fill=\"#5b6875\">step</text>\n";
    for (size_t c = 0; c < table_.candidates(); ++c)
      out_ << "<polyline fill=\"none\" stroke=\"" << line_colour(c) << "\" stroke-width=\"1.2\" points=\""
           << line([&](int64_t step) { return mean(c, step); }) << "\"><title>"
           << escaped(schedule::to_string(table_.list.candidates[c])) << ", density " << short_number(table_.density[c])
           << "</title></polyline>\n";
    out_ << "<polyline fill=\"none\" stroke=\"#c2410c\" stroke-width=\"3\" points=\""
         << line([&](int64_t step) { return chosen_mean(step); }) << "\"><title>the schedule</title></polyline>\n";
    for (size_t i = 0; i < phases_.size(); ++i) {
      const double begin = x(static_cast<double>(phases_[i].first_step));
      if (i > 0)
        out_ << "<line x1=\"" << begin << "\" x2=\"" << begin << "\" y1=\"" << kTop << "\" y2=\"" << kHeight - kBottom
             << "\" stroke=\"#c2410c\" stroke-dasharray=\"4 3\"/>\n";
      out_ << "<text x=\"" << begin + 4 << "\" y=\"" << 12 + 14 * i << "\" fill=\"#9a3412\">phase " << i + 1
           << ", density " << short_number(phases_[i].prediction.density) << "</text>\n";
    }
    out_ << "</svg>\n";
  }

  // The lightest third of the colours would vanish on white.
  std::string line_colour(size_t candidate) const {
    return ColourScale::colour(10 +
                               static_cast<int>(std::lround(21 * std::clamp(table_.density[candidate], 0.0, 1.0))));
  }

  // A map of steps and of (layer, head) rows with the borders of the phases over it.
  void map(const std::function<double(int64_t, int64_t)>& value, const ColourScale& scale, bool tall) {
    out_ << "<div class=\"axis\"><span>layer " << report_.measured.layers().front() << ", head 0</span></div>"
         << "<div class=\"box" << (tall ? " tall" : "") << "\">"
         << heat_map(table_.steps, table_.layers * table_.heads, value, scale);
    for (size_t i = 1; i < phases_.size(); ++i)
      out_ << "<i style=\"left:" << short_number(percent(phases_[i].first_step)) << "%\"></i>";
    out_ << "</div>";
  }

  void axis() {
    out_ << "<div class=\"axis\"><span>layer " << report_.measured.layers().back() << ", head " << table_.heads - 1
         << "; step 0</span><span>step " << table_.steps - 1 << "</span></div>\n";
  }

  void schedule_map() {
    const ColourScale densities(0, 1, false);
    out_
        << "<h2>Density of the schedule</h2>\n<p class=\"quiet\">Steps from left to right, layers and their heads from "
           "top to bottom.</p>\n"
        << legend(densities, "density");
    map([&](int64_t step, int64_t row) { return table_.density[chosen(step, row)]; }, densities, true);
    axis();
  }

  // The share of layers and heads that a candidate has in a phase.
  double share(size_t candidate, size_t phase) const {
    return static_cast<double>(std::ranges::count(chosen_[phase], candidate)) /
           static_cast<double>(chosen_[phase].size());
  }

  bool used(size_t candidate) const {
    for (size_t phase = 0; phase < phases_.size(); ++phase)
      if (share(candidate, phase) > 0) return true;
    return false;
  }

  // All sums of a candidate together.
  accel::ErrorSums total(size_t candidate) const {
    accel::ErrorSums sum;
    for (int64_t step = 0; step < table_.steps; ++step)
      for (int64_t layer = 0; layer < table_.layers; ++layer)
        for (int64_t head = 0; head < table_.heads; ++head) {
          const auto& part = report_.measured.sums(candidate, step, layer, head);
          sum.error += part.error;
          sum.dense += part.dense;
          sum.candidate += part.candidate;
          sum.product += part.product;
        }
    return sum;
  }

  double whole_mean(size_t candidate) const {
    double sum = 0;
    for (int64_t step = 0; step < table_.steps; ++step)
      sum += mean(candidate, step);
    return sum / static_cast<double>(table_.steps);
  }

  void candidate_table() {
    out_
        << "<h2>Candidates</h2>\n<p class=\"quiet\">Tile " << pattern::to_string(table_.list.tile)
        << " tokens; windows in tiles, granularities in tokens. Error: mean relative L2 of steps, layers and heads. "
           "Cosine and SNR: of all outputs together. Density counts visible pairs alone; precision and granularity are "
           "free in it. Marked: in the schedule.</p>\n"
           "<div class=\"wide\"><table class=\"marked\"><tr><th>candidate</th><th class=\"n\">density</th>"
           "<th class=\"n\">error</th><th class=\"n\">cosine</th><th class=\"n\">SNR, dB</th></tr>\n";
    for (size_t c = 0; c < table_.candidates(); ++c) {
      const auto sums = total(c);
      char cosine[16];
      std::snprintf(cosine, sizeof cosine, "%.5f", sums.cosine());
      out_ << "<tr" << (used(c) ? " class=\"chosen\"" : "") << "><td>"
           << escaped(schedule::to_string(table_.list.candidates[c])) << "</td><td class=\"n\">"
           << short_number(table_.density[c]) << "</td><td class=\"n\">" << short_number(whole_mean(c))
           << "</td><td class=\"n\">" << cosine << "</td><td class=\"n\">"
           << (sums.error == 0 ? "no error" : short_number(sums.snr_db())) << "</td></tr>\n";
    }
    out_ << "</table></div>\n";
  }

  void candidate_maps() {
    out_ << "<h2>Error by step, layer and head</h2>\n<p class=\"quiet\">One map for each candidate, on one scale. The "
            "bar below a map shows where the schedule uses the candidate, the fuller the more layers and heads.</p>\n"
         << legend(errors_, "relative L2, logarithmic") << "<div class=\"cards\">\n";
    for (size_t c = 0; c < table_.candidates(); ++c) {
      out_ << "<div class=\"card\"><h3>" << escaped(schedule::to_string(table_.list.candidates[c]))
           << "</h3><p>density " << short_number(table_.density[c]) << ", mean error " << short_number(whole_mean(c))
           << "</p>";
      map([&](int64_t step, int64_t row) { return table_.at(c, step, row / table_.heads, row % table_.heads); },
          errors_, false);
      out_ << "<div class=\"used\">";
      for (size_t phase = 0; phase < phases_.size(); ++phase)
        if (const double part = share(c, phase); part > 0)
          out_ << "<b style=\"left:" << short_number(percent(phases_[phase].first_step))
               << "%;width:" << short_number(percent(phases_[phase].end_step - phases_[phase].first_step))
               << "%;opacity:" << short_number(0.25 + 0.75 * part) << "\"></b>";
      out_ << "</div>";
      axis();
      out_ << "</div>\n";
    }
    out_ << "</div>\n";
  }

  const CalibrationReport& report_;
  const schedule::ErrorTable& table_;
  std::vector<PhaseSummary> phases_;
  ColourScale errors_;
  std::vector<std::vector<size_t>> chosen_;  // candidates, [phase][layer * heads + head]
  std::ostringstream out_;
};

}  // namespace

std::string calibration_page(const CalibrationReport& report) {
  return Page(report).text();
}

}  // namespace fpsa::app
