#include "fpsa/app/train_page.h"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <ctime>
#include <map>
#include <set>
#include <sstream>
#include <vector>

#include "fpsa/app/heat_map.h"
#include "fpsa/app/study_page.h"
#include "fpsa/app/study_plot.h"
#include "fpsa/base/check.h"
#include "fpsa/io/atomic_file.h"
#include "fpsa/io/json.h"

namespace fpsa::app {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int kRefreshSeconds = 20;
constexpr auto kWriteEvery = std::chrono::seconds(10);
constexpr size_t kNewestSheets = 3, kSheetBytes = 16 << 20;

constexpr char kStyle[] = R"(<style>
:root { color-scheme: light; }
body { margin: 2rem auto; max-width: 76rem; padding: 0 1rem; color: #1c2733; background: #fff;
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .3rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .4rem; }
p { margin: .3rem 0; } .quiet { color: #5b6875; font-size: .87rem; } .failed { color: #9a3412; font-weight: 600; }
pre { background: #f4f6f8; padding: .6rem .8rem; overflow-x: auto; font-size: .82rem; border-radius: 4px; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(10rem, 1fr)); gap: .6rem 1.2rem; margin: 1rem 0; }
dt { color: #5b6875; font-size: .82rem; } dd { margin: 0; font-size: 1.1rem; font-variant-numeric: tabular-nums; }
.bar { height: .5rem; background: #e1e6eb; border-radius: 3px; overflow: hidden; }
.bar b { display: block; height: 100%; background: #1f4e79; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(22rem, 1fr)); gap: 1rem 1.4rem; }
.card h3 { font-size: .9rem; margin: 0; } svg.chart { width: 100%; height: auto; font: 11px system-ui, sans-serif; }
figure { margin: .6rem 0; } figure img { max-width: 100%; image-rendering: auto; }
figcaption { font-size: .82rem; color: #47535f; }
</style>
)";

// Figures of a report that are no parts of a loss, in the order in which they are drawn, with their titles.
const std::vector<std::pair<std::string, std::string>> kOtherCurves = {{"gradient_norm", "gradient norm"},
                                                                       {"learning_rate", "learning rate"},
                                                                       {"density", "attention density"},
                                                                       {"samples_per_second", "samples per second"}};
const std::set<std::string> kPosition = {"step", "stage", "samples", "skipped", "seconds", "progress", "eta_seconds"};

std::string duration(double seconds) {
  const auto s = static_cast<long long>(seconds);
  char text[32];
  std::snprintf(text, sizeof text, "%lld:%02lld:%02lld", s / 3600, s / 60 % 60, s % 60);
  return text;
}

std::string time_of_day() {
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S", &local);
  return text;
}

// The step in "step0000120.png" or "step0000120-64x64.png"; -1 for other names.
int64_t step_of(const fs::path& sheet) {
  const std::string name = sheet.filename().string();
  constexpr size_t kDigits = 4;  // after "step"
  if (!name.starts_with("step") || sheet.extension() != ".png") return -1;
  int64_t step = -1;
  const auto [end, error] = std::from_chars(name.data() + kDigits, name.data() + name.size(), step);
  return error == std::errc() ? step : -1;
}

class Page {
 public:
  explicit Page(const TrainPage& page) : page_(page), metrics_(read_train_metrics(page.out / "metrics.jsonl")) {}

  std::string text() {
    out_ << "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n";
    if (page_.state == PageState::kRunning)
      out_ << "<meta http-equiv=\"refresh\" content=\"" << kRefreshSeconds << "\">\n";
    out_ << "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>Training: "
         << escaped(page_.recipe_name) << "</title>\n"
         << kStyle << "</head>\n<body>\n<h1>Training: " << escaped(page_.recipe_name) << "</h1>\n";
    head();
    curves("Curves", report_plots());
    curves("Evaluations, by the averaged weights", evaluation_plots());
    sheets();
    data();
    out_ << "<h2>Recipe</h2>\n<pre>" << escaped(page_.recipe->text) << "</pre>\n";
    if (page_.recipe->schedule)
      out_ << "<details><summary>The attention schedule</summary><pre>"
           << escaped(schedule::to_toml(*page_.recipe->schedule)) << "</pre></details>\n";
    out_ << "</body>\n</html>\n";
    return out_.str();
  }

 private:
  // 0 where there is none, or what JSON has no number for.
  static double number(const json& line, const char* key) {
    return line.is_object() && line.contains(key) && line[key].is_number() ? line[key].get<double>() : 0.0;
  }
  double value(const char* key) const { return number(metrics_.last, key); }

  void head() {
    switch (page_.state) {
      case PageState::kRunning:
        out_ << "<p>Running.";
        break;
      case PageState::kStopped:
        out_ << "<p>Stopped, with a checkpoint; <code>--resume</code> goes on.";
        break;
      case PageState::kFinished:
        out_ << "<p>Finished.";
        break;
      case PageState::kFailed:
        out_ << "<p class=\"failed\">Failed: " << escaped(page_.failure) << "</p>\n<p>";
    }
    out_ << " <span class=\"quiet\">Written " << time_of_day() << " on " << escaped(page_.machine) << "; "
         << page_.parameters << " parameters.</span></p>\n";
    const auto stages = page_.recipe->stages.size();
    const auto stage = std::min<size_t>(static_cast<size_t>(value("stage")) + 1, stages);
    const json* report = metrics_.reports.empty() ? nullptr : &metrics_.reports.back();
    const double progress = page_.state == PageState::kFinished ? 1 : report ? number(*report, "progress") : 0;
    out_ << "<div class=\"bar\"><b style=\"width:" << short_number(100 * std::clamp(progress, 0.0, 1.0))
         << "%\"></b></div>\n<dl>\n";
    const auto entry = [this](const char* name, const std::string& text) {
      out_ << "<div><dt>" << name << "</dt><dd>" << text << "</dd></div>\n";
    };
    entry("step", join(static_cast<int64_t>(value("step"))));
    entry("stage", join(stage, " of ", stages));
    if (page_.state == PageState::kRunning && report)
      entry(stage < stages ? "left in this stage" : "left", duration(number(*report, "eta_seconds")));
    entry("time in steps", duration(value("seconds")));
    entry("samples", join(static_cast<int64_t>(value("samples"))));
    if (report) entry("samples per second", short_number(number(*report, "samples_per_second")));
    entry("skipped steps (not finite)", join(static_cast<int64_t>(value("skipped"))));
    if (metrics_.data.is_object()) entry("skipped videos", join(metrics_.data.value("skipped_count", 0)));
    if (metrics_.damaged > 0) entry("damaged lines of metrics", join(metrics_.damaged));
    out_ << "</dl>\n";
  }

  // Every figure of the reports as a plot of its own: the parts of the loss first.
  std::vector<std::pair<std::string, Plot>> report_plots() const {
    std::map<std::string, Plot> plots;
    for (const json& line : metrics_.reports)
      for (const auto& [key, number] : line.items())
        if (number.is_number() && !kPosition.contains(key))
          plots[key].points.push_back({"", line.at("step").get<double>(), number.get<double>(), 1, 0, 0});
    std::vector<std::pair<std::string, Plot>> out;
    std::vector<std::pair<std::string, Plot>> others;
    for (const auto& [key, title] : kOtherCurves)
      if (auto plot = plots.extract(key)) others.emplace_back(title, std::move(plot.mapped()));
    for (auto& [key, plot] : plots)
      out.emplace_back("loss: " + key, std::move(plot));
    std::ranges::move(others, std::back_inserter(out));
    return out;
  }

  // The accuracies in one plot, every other figure in its own.
  std::vector<std::pair<std::string, Plot>> evaluation_plots() const {
    constexpr std::string_view kAccuracy = "accuracy_";
    std::map<std::string, Plot> plots;
    std::map<std::string, int> series;
    for (const json& line : metrics_.evaluations)
      for (const auto& [key, number] : line.items()) {
        if (!number.is_number() || kPosition.contains(key) || key == "prompts") continue;
        const bool accuracy = key.starts_with(kAccuracy);
        const std::string label = accuracy ? key.substr(kAccuracy.size()) : key;
        const int colour = accuracy ? series.try_emplace(label, static_cast<int>(series.size())).first->second : 0;
        plots[accuracy ? "accuracy" : key].points.push_back(
            {label, line.at("step").get<double>(), number.get<double>(), 1, 0, colour});
      }
    return {std::make_move_iterator(plots.begin()), std::make_move_iterator(plots.end())};
  }

  void curves(const std::string& title, std::vector<std::pair<std::string, Plot>> plots) {
    if (plots.empty()) return;
    out_ << "<h2>" << title << "</h2>\n<div class=\"cards\">\n";
    for (auto& [name, plot] : plots) {
      plot.x_title = "step";
      plot.y_title = name;
      out_ << "<div class=\"card\"><h3>" << escaped(name) << ": " << short_number(plot.points.back().y) << "</h3>"
           << line_chart(plot) << "</div>\n";
    }
    out_ << "</div>\n";
  }

  // The newest sheets and, to compare them with, the first. Those of steps that are to come again are of a killed run.
  void sheets() {
    std::vector<std::pair<int64_t, fs::path>> found;
    std::error_code absent;
    for (const auto& item : fs::directory_iterator(page_.out / "previews", absent))
      if (const int64_t step = step_of(item.path()); step >= 0 && static_cast<double>(step) <= value("step"))
        found.emplace_back(step, item.path());
    if (found.empty()) return;
    std::ranges::sort(found, std::greater<>());
    if (found.size() > kNewestSheets + 1) found.erase(found.begin() + kNewestSheets, found.end() - 1);
    out_ << "<h2>Sample frames</h2>\n";
    size_t bytes = 0;
    for (const auto& [step, file] : found) {
      std::error_code unknown;
      const bool fits = bytes + fs::file_size(file, unknown) <= kSheetBytes && !unknown;
      const std::string data = fits ? base64(io::read_text_file(file, kSheetBytes)) : "";
      if (!fits) {
        out_ << "<p class=\"quiet\">" << escaped(file.filename().string()) << " is in previews/ only.</p>\n";
        continue;
      }
      bytes += data.size();
      out_ << "<figure><img alt=\"frames of generated clips at step " << step << "\" src=\"data:image/png;base64,"
           << data << "\"><figcaption>step " << step << "</figcaption></figure>\n";
    }
  }

  void data() {
    if (!metrics_.data.is_object()) return;
    const auto count = [this](const char* key) { return metrics_.data.value(key, int64_t{0}); };
    out_ << "<h2>Videos</h2>\n<p>" << count("videos") << " videos, " << count("clips") << " clips; encoded "
         << count("encoded") << ", from the cache " << count("reused") << ", skipped " << count("skipped_count")
         << ".</p>\n<ul>\n";
    for (const auto& skipped : metrics_.data.value("skipped", json::array()))
      out_ << "<li>skipped " << escaped(skipped.value("file", "")) << ": " << escaped(skipped.value("reason", ""))
           << "</li>\n";
    for (const auto& file : metrics_.data.value("uncaptioned", json::array()))
      out_ << "<li>not used, it has no caption: " << escaped(file.get<std::string>()) << "</li>\n";
    out_ << "</ul>\n";
  }

  const TrainPage& page_;
  TrainMetrics metrics_;
  std::ostringstream out_;
};

}  // namespace

std::string train_page(const TrainPage& page) {
  return Page(page).text();
}

void TrainPageWriter::write(PageState state, const std::string& failure) {
  const auto now = std::chrono::steady_clock::now();
  if (state == PageState::kRunning && written_ && now - last_ < kWriteEvery) return;
  page_.state = state;
  page_.failure = failure;
  io::write_file(page_.out / "train.html", train_page(page_));
  written_ = true;
  last_ = std::chrono::steady_clock::now();
}

}  // namespace fpsa::app
