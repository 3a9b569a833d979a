// The page is built top to bottom by one function per section.
#include "fpsa/app/study_page.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <map>
#include <sstream>

#include "fpsa/app/heat_map.h"
#include "fpsa/app/study_plot.h"
#include "fpsa/base/check.h"
#include "fpsa/io/json.h"

namespace fpsa::app {
namespace {

constexpr size_t kClipBytes = 8 << 20;  // of base64 text

constexpr char kStyle[] = R"(<style>
:root { color-scheme: light; }
body { margin: 2rem auto; max-width: 88rem; padding: 0 1rem; color: #1c2733; background: #fff;
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .3rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .4rem; }
h3 { font-size: .95rem; margin: 1.2rem 0 .3rem; }
p, li { margin: .3rem 0; max-width: 50rem; } .quiet { color: #5b6875; font-size: .87rem; }
pre { background: #f4f6f8; padding: .6rem .8rem; overflow-x: auto; font-size: .82rem; border-radius: 4px; }
code { background: #f4f6f8; font-size: .9em; }
table { border-collapse: collapse; font-size: .87rem; } .wide { overflow-x: auto; }
th, td { padding: .25rem .6rem .25rem 0; text-align: left; border-bottom: 1px solid #e1e6eb; vertical-align: top; }
th { font-weight: 600; color: #47535f; } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
td small { color: #5b6875; display: block; white-space: nowrap; } td.n { white-space: nowrap; }
th:first-child { min-width: 9rem; }
.clips { display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: .8rem; }
.clips figure { margin: 0; } .clips video { width: 100%; display: block; background: #e1e6eb; }
figcaption { font-size: .82rem; color: #47535f; }
svg.chart { width: 100%; max-width: 54rem; height: auto; font: 11px system-ui, sans-serif; }
</style>
)";

std::string number(const char* format, double value) {
  char text[64];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

// A mean with its interval below it.
std::string cell(const std::optional<Estimate>& e, const char* format, double factor = 1) {
  if (!e) return "<td class=\"n\">–</td>";
  std::string text = "<td class=\"n\">" + number(format, factor * e->mean);
  if (e->has_interval())
    text += "<small>" + number(format, factor * e->low) + " .. " + number(format, factor * e->high) + "</small>";
  return text + "</td>";
}

std::string cell(const train::Share& share) {
  return "<td class=\"n\">" + number("%.1f%%", 100 * share.value()) + "<small>" + number("%.1f", 100 * share.low()) +
         " .. " + number("%.1f", 100 * share.high()) + "</small></td>";
}

std::string cell(const std::string& text) {
  return "<td class=\"n\">" + text + "</td>";
}

// `code` in a note.
std::string marked(const std::string& text) {
  std::string out;
  bool code = false;
  for (const char c : escaped(text)) {
    if (c != '`') {
      out += c;
      continue;
    }
    out += code ? "</code>" : "<code>";
    code = !code;
  }
  return out;
}

class Page {
 public:
  explicit Page(const StudyReport& report) : report_(report) {}

  std::string text() {
    out_ << "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
         << "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>Attention study: "
         << escaped(report_.model) << "</title>\n"
         << kStyle << "</head>\n<body>\n";
    head();
    list("What this run shows", report_.verdicts);
    accuracy_table();
    accuracy_plot();
    for (const auto group : kArmGroups)
      group_table(group);
    ablation_plot();
    frontier_plot();
    clips();
    list("How to read it", report_.notes);
    arms();
    out_ << "</body>\n</html>\n";
    return out_.str();
  }

 private:
  void head() {
    const auto& s = report_.settings;
    out_ << "<h1>Attention study</h1>\n<p>Model " << escaped(report_.model) << ": " << s.at("num_frames")
         << " frames of " << s.at("width") << "x" << s.at("height") << ", " << escaped(report_.grid) << " tokens, "
         << s.at("num_inference_steps") << " steps of " << escaped(s.at("sampler").get<std::string>()) << ", guidance "
         << s.at("guidance_scale") << ", shift " << s.at("flow_shift") << ", "
         << escaped(s.at("dtype").get<std::string>()) << ", seed " << s.at("seed") << ", "
         << (s.at("prompts") == "procedural" ? "procedural" : "given")
         << " prompts. Schedule of the untrained arms: " << escaped(report_.schedule_origin) << ".</p>\n<p>Timed on "
         << escaped(report_.machine.empty() ? "nothing yet" : report_.machine) << ", on the CPU.";
    if (const auto elsewhere = records_elsewhere(report_); elsewhere > 0)
      out_ << " " << elsewhere
           << " clips were made on other machines or threads: they count for quality, not for speed.";
    out_ << "</p>\n";
  }

  void list(const std::string& title, const std::vector<std::string>& lines) {
    out_ << "<h2>" << title << "</h2>\n";
    if (lines.empty()) out_ << "<p>Nothing yet.</p>\n";
    out_ << "<ul>\n";
    for (const auto& line : lines)
      out_ << "<li>" << marked(line) << "</li>\n";
    out_ << "</ul>\n";
  }

  void accuracy_table() {
    if (std::ranges::none_of(report_.summaries, [](const ArmSummary& s) { return s.accuracy.has_value(); })) return;
    out_ << "<h2>Prompt accuracy</h2>\n<div class=\"wide\"><table><tr><th>arm</th><th class=\"n\">clips</th>";
    for (const auto name : train::kAttributeNames)
      out_ << "<th class=\"n\">" << name << "</th>";
    out_ << "<th class=\"n\">all four</th><th class=\"n\">pooled</th><th class=\"n\">pooled, less dense</th></tr>\n";
    for (const auto& s : report_.summaries) {
      if (!s.accuracy) continue;
      out_ << "<tr><td>" << escaped(s.arm.label) << "</td>" << cell(join(s.accuracy->all.total));
      for (const auto& share : s.accuracy->attributes)
        out_ << cell(share);
      out_ << cell(s.accuracy->all) << cell(s.accuracy->pooled, "%.1f", 100)
           << cell(s.accuracy->pooled_change, "%+.1f", 100) << "</tr>\n";
    }
    out_ << "</table></div>\n";
  }

  void accuracy_plot() {
    Plot plot{"speed of the whole clip, dense = 1", "pooled accuracy, %", {}, false};
    for (const auto& s : report_.summaries)
      if (s.accuracy && s.speed && s.arm.group != ArmGroup::kFrontier)
        plot.points.push_back({s.arm.label, s.speed->total, 100 * s.accuracy->pooled.mean, 100 * s.accuracy->pooled.low,
                               100 * s.accuracy->pooled.high,
                               s.arm.trained             ? 1
                               : s.arm.name == kDenseArm ? 2
                                                         : 0});
    out_ << scatter(plot);
  }

  void group_table(ArmGroup group) {
    std::vector<const ArmSummary*> rows;
    for (const auto& s : report_.summaries)
      if (s.arm.group == group) rows.push_back(&s);
    if (rows.empty()) return;
    out_ << "<h2>" << title_of(group) << "</h2>\n<div class=\"wide\"><table><tr><th>arm</th><th class=\"n\">clips</th>"
         << "<th class=\"n\">density</th><th class=\"n\">attention, s</th><th class=\"n\">of denoising</th>"
            "<th class=\"n\">attention, x dense</th><th class=\"n\">denoising, x</th><th class=\"n\">whole clip, x</th>"
            "<th class=\"n\">PSNR, dB</th><th class=\"n\">SSIM</th>"
         << (has_lpips() ? "<th class=\"n\">LPIPS</th>" : "")
         << "<th class=\"n\">temporal PSNR</th>"
            "<th class=\"n\">motion</th><th class=\"n\">flicker</th></tr>\n";
    for (const auto* s : rows) {
      out_ << "<tr><td>" << escaped(s->arm.label) << "</td><td class=\"n\">" << s->done
           << (s->done < s->planned ? join(" of ", s->planned) : "")
           << (s->identical > 0 && s->arm.name != kDenseArm ? join("<small>", s->identical, " equal dense</small>")
                                                            : "")
           << "</td>" << cell(s->done > 0 ? number("%.3f", s->density) : "–");
      if (s->speed) {
        out_ << cell(number("%.3g", s->speed->seconds.attention))
             << cell(number("%.0f%%", 100 * s->speed->attention_share)) << cell(number("%.2f", s->speed->attention))
             << cell(number("%.2f", s->speed->denoise)) << "<td class=\"n\">" << number("%.2f", s->speed->total)
             << "<small>" << number("%.2f", s->speed->total_low) << " .. " << number("%.2f", s->speed->total_high)
             << "</small></td>";
      } else {
        for (int i = 0; i < 5; ++i)
          out_ << cell(std::string("–"));
      }
      out_ << cell(s->psnr_db, "%.2f") << cell(s->ssim, "%.4f") << (has_lpips() ? cell(s->lpips, "%.4f") : "")
           << cell(s->temporal_psnr_db, "%.2f") << cell(s->change_ratio, "%.3f") << cell(s->flicker_ratio, "%.3f")
           << "</tr>\n";
    }
    out_ << "</table></div>\n";
    if (group == ArmGroup::kMain)
      out_ << "<p class=\"quiet\">Below a ratio of whole clips: the quartiles of the pairs. Below other figures: 95% "
              "intervals.</p>\n";
    if (group == ArmGroup::kFrontier)
      out_ << "<p class=\"quiet\">The window nearest to each density at every step; trained weights run at densities "
              "that they were not trained for unless their name says so.</p>\n";
  }

  bool has_lpips() const {
    return std::ranges::any_of(report_.summaries, [](const ArmSummary& s) { return s.lpips.has_value(); });
  }

  // Dense, then the training-free arm and all ablations over the items that every one of them has, so that their means
  // can be compared.
  std::vector<ArmResults> compared() const {
    std::vector<ArmResults> out;
    std::map<int64_t, size_t> arms_of_item;
    for (const auto& result : report_.results) {
      const bool main = result.arm.group == ArmGroup::kMain;
      if (result.records.empty() || result.arm.group == ArmGroup::kFrontier) continue;
      if (main && result.arm.name != "fps" && result.arm.name != kDenseArm) continue;
      out.push_back(result);
      for (const auto& record : result.records)
        ++arms_of_item[record.item];
    }
    for (auto& result : out)
      std::erase_if(result.records, [&](const ClipRecord& r) { return arms_of_item[r.item] < out.size(); });
    return out;
  }

  void ablation_plot() {
    const auto results = compared();
    if (results.size() < 3) return;
    Plot plot{"PSNR against dense, dB", "", {}, false};
    for (const auto& s : summarise(results, report_.settings.at("seed").get<uint64_t>()))
      if (s.psnr_db)
        plot.points.push_back(
            {s.arm.label, s.psnr_db->mean, 0, s.psnr_db->low, s.psnr_db->high, static_cast<int>(s.arm.group)});
    if (plot.points.size() < 2) return;
    const auto items = results.front().records.size();
    out_ << "<h2>Ablations side by side</h2>\n<p class=\"quiet\">Mean PSNR with its interval over the "
         << join(items, items == 1 ? " item" : " items")
         << " that all of them have; the higher, the nearer to dense.</p>\n"
         << dot_rows(plot);
  }

  void frontier_plot() {
    Plot accuracy{"density, %", "pooled accuracy, %", {}, true}, psnr{"density, %", "PSNR against dense, dB", {}, true};
    std::map<std::string, int> series;
    for (const auto& s : report_.summaries) {
      if (s.arm.group != ArmGroup::kFrontier) continue;
      const auto key = s.arm.model.string();
      const int index = series.try_emplace(key, static_cast<int>(series.size())).first->second;
      if (s.accuracy)
        accuracy.points.push_back({s.arm.label, 100 * s.density, 100 * s.accuracy->pooled.mean,
                                   100 * s.accuracy->pooled.low, 100 * s.accuracy->pooled.high, index});
      if (s.psnr_db)
        psnr.points.push_back({s.arm.label, 100 * s.density, s.psnr_db->mean, s.psnr_db->low, s.psnr_db->high, index});
    }
    const auto& plot = accuracy.points.empty() ? psnr : accuracy;
    if (plot.points.size() > 1) out_ << "<h2>The frontier</h2>\n" << scatter(plot);
  }

  void clips() {
    if (report_.clips.empty()) return;
    out_ << "<h2>Clips</h2>\n";
    size_t bytes = 0, left_out = 0;
    int64_t item = -1;
    for (const auto& clip : report_.clips) {
      const auto data = base64(io::read_text_file(clip.file, 1 << 30));
      if (bytes + data.size() > kClipBytes) {
        ++left_out;
        continue;
      }
      bytes += data.size();
      if (clip.item != item) {
        out_ << (item < 0 ? "" : "</div>\n") << "<h3>" << escaped(clip.prompt) << "</h3>\n<div class=\"clips\">\n";
        item = clip.item;
      }
      out_ << "<figure><video autoplay loop muted playsinline src=\"data:video/mp4;base64," << data
           << "\"></video><figcaption>" << escaped(clip.label) << "</figcaption></figure>\n";
    }
    out_ << (item < 0 ? "" : "</div>\n");
    if (left_out > 0)
      out_ << "<p class=\"quiet\">" << left_out << " more clips are in the study's folder only, the page has "
           << kClipBytes / (1 << 20) << " MB of them.</p>\n";
  }

  void arms() {
    out_ << "<h2>The arms</h2>\n";
    for (const auto& s : report_.summaries) {
      out_ << "<details><summary>" << escaped(s.arm.label) << " <span class=\"quiet\">(" << escaped(s.arm.name) << ": "
           << escaped(s.arm.method) << ", " << escaped(s.arm.model.string()) << ")</span></summary>\n";
      std::string kernels;
      for (const auto& kernel : s.kernels)
        kernels += (kernels.empty() ? "" : ", ") + kernel;
      if (!kernels.empty()) out_ << "<p class=\"quiet\">Kernels: " << escaped(kernels) << "</p>\n";
      if (s.arm.schedule) out_ << "<pre>" << escaped(schedule::to_toml(*s.arm.schedule)) << "</pre>\n";
      out_ << "</details>\n";
    }
  }

  const StudyReport& report_;
  std::ostringstream out_;
};

}  // namespace

std::string base64(std::string_view bytes) {
  constexpr char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  out.reserve((bytes.size() + 2) / 3 * 4);
  for (size_t i = 0; i < bytes.size(); i += 3) {
    const size_t count = std::min<size_t>(3, bytes.size() - i);
    uint32_t group = 0;
    for (size_t j = 0; j < 3; ++j)
      group = group << 8 | (j < count ? static_cast<uint8_t>(bytes[i + j]) : 0u);
    for (size_t j = 0; j < 4; ++j)
      out += j <= count ? letters[group >> (18 - 6 * j) & 63] : '=';
  }
  return out;
}

std::string study_page(const StudyReport& report) {
  return Page(report).text();
}

}  // namespace fpsa::app
