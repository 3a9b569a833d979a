#include "fpsa/app/study_plot.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <sstream>

#include "fpsa/app/heat_map.h"
#include "fpsa/base/check.h"

namespace fpsa::app {
namespace {

constexpr const char* kColours[] = {"#1f4e79", "#c2410c", "#2e7d32", "#7b3fa0", "#a16207", "#0e7490", "#9d174d"};

std::string colour(int series) {
  return kColours[static_cast<size_t>(series) % std::size(kColours)];
}

// A range widened so that points keep off the frame, with ticks at round numbers.
struct Axis {
  double low, high, step;

  Axis(double from, double to) {
    const double span = to > from ? to - from : std::max(std::abs(to) * 0.1, 0.1);
    low = from - 0.08 * span;
    high = to + 0.08 * span;
    const double rough = (high - low) / 5, decade = std::pow(10, std::floor(std::log10(rough)));
    step = decade * (rough < 2 * decade ? 1 : rough < 5 * decade ? 2 : 5);
  }
  double share(double value) const { return (value - low) / (high - low); }
  std::vector<double> ticks() const {
    std::vector<double> out;
    for (double tick = std::ceil(low / step) * step; tick <= high; tick += step)
      out.push_back(std::abs(tick) < step * 1e-9 ? 0 : tick);
    return out;
  }
};

std::string tick_text(double value) {
  return join(std::round(value * 1e6) / 1e6);
}

bool has_interval(const PlotPoint& point) {
  return point.low <= point.high;
}

constexpr double kDot = 4.5;  // radius of a point

struct Box {
  double left, top, right, bottom;
  bool meets(const Box& o) const { return left < o.right && o.left < right && top < o.bottom && o.top < bottom; }
};

// Finds room for the labels of points: beside them if there is any, else the nearest lines above or below.
class Labels {
 public:
  explicit Labels(const Box& frame) : frame_(frame) {}
  void keep_off(const Box& box) { taken_.push_back(box); }

  Box place(double x, double y, size_t characters) {
    constexpr double kCharacter = 6.2, kLine = 13, kGap = 9;  // of 11 px text, widely
    const double width = kCharacter * static_cast<double>(characters);
    const bool left_first = x + kGap + width > frame_.right;
    std::optional<Box> first;
    for (int line = 0; line < 15; ++line)
      for (const double shift : {line * kLine, -line * kLine})
        for (const bool left : {left_first, !left_first}) {
          const double from = left ? x - kGap - width : x + kGap, top = y - kLine / 2 + shift;
          const Box box{from, top, from + width, top + kLine};
          if (!first) first = box;
          if (box.left < frame_.left || box.right > frame_.right || box.top < frame_.top ||
              box.bottom > frame_.bottom ||
              std::ranges::any_of(taken_, [&](const Box& other) { return box.meets(other); }))
            continue;
          taken_.push_back(box);
          return box;
        }
    return *first;
  }

 private:
  Box frame_;
  std::vector<Box> taken_;
};

}  // namespace

std::string scatter(const Plot& plot) {
  if (plot.points.empty()) return {};
  constexpr double kWidth = 860, kHeight = 400, kLeft = 62, kRight = 20, kTop = 14, kBottom = 46;
  double x_low = HUGE_VAL, x_high = -HUGE_VAL, y_low = HUGE_VAL, y_high = -HUGE_VAL;
  for (const auto& p : plot.points) {
    x_low = std::min(x_low, p.x), x_high = std::max(x_high, p.x);
    y_low = std::min(y_low, has_interval(p) ? p.low : p.y), y_high = std::max(y_high, has_interval(p) ? p.high : p.y);
  }
  const Axis x_axis(x_low, x_high), y_axis(y_low, y_high);
  const auto x = [&](double v) { return kLeft + (kWidth - kLeft - kRight) * x_axis.share(v); };
  const auto y = [&](double v) { return kHeight - kBottom - (kHeight - kTop - kBottom) * y_axis.share(v); };
  std::ostringstream out;
  out << "<svg class=\"chart\" viewBox=\"0 0 " << kWidth << ' ' << kHeight << "\" role=\"img\" aria-label=\""
      << escaped(plot.y_title + " over " + plot.x_title) << "\">\n";
  for (const double tick : y_axis.ticks())
    out << "<line x1=\"" << kLeft << "\" x2=\"" << kWidth - kRight << "\" y1=\"" << y(tick) << "\" y2=\"" << y(tick)
        << "\" stroke=\"#e1e6eb\"/><text x=\"" << kLeft - 6 << "\" y=\"" << y(tick) + 4
        << "\" text-anchor=\"end\" fill=\"#5b6875\">" << tick_text(tick) << "</text>\n";
  for (const double tick : x_axis.ticks())
    out << "<line x1=\"" << x(tick) << "\" x2=\"" << x(tick) << "\" y1=\"" << kTop << "\" y2=\"" << kHeight - kBottom
        << "\" stroke=\"#eef1f4\"/><text x=\"" << x(tick) << "\" y=\"" << kHeight - kBottom + 16
        << "\" text-anchor=\"middle\" fill=\"#5b6875\">" << tick_text(tick) << "</text>\n";
  out << "<text x=\"" << (kLeft + kWidth - kRight) / 2 << "\" y=\"" << kHeight - 8
      << "\" text-anchor=\"middle\" fill=\"#1c2733\">" << escaped(plot.x_title)
      << "</text>\n<text transform=\"translate(14 " << (kHeight - kBottom) / 2
      << ") rotate(-90)\" text-anchor=\"middle\" fill=\"#1c2733\">" << escaped(plot.y_title) << "</text>\n";
  if (plot.connected) {
    std::map<int, std::vector<const PlotPoint*>> lines;
    for (const auto& p : plot.points)
      lines[p.series].push_back(&p);
    for (auto& [series, points] : lines) {
      std::ranges::sort(points, {}, [](const PlotPoint* p) { return p->x; });
      out << "<polyline fill=\"none\" stroke=\"" << colour(series) << "\" stroke-width=\"1.5\" points=\"";
      for (const auto* p : points)
        out << x(p->x) << ',' << y(p->y) << ' ';
      out << "\"/>\n";
    }
  }
  Labels labels({kLeft, 0, kWidth, kHeight - kBottom});
  for (const auto& p : plot.points)
    labels.keep_off({x(p.x) - kDot, y(p.y) - kDot, x(p.x) + kDot, y(p.y) + kDot});
  for (const auto& p : plot.points) {
    if (has_interval(p))
      out << "<line x1=\"" << x(p.x) << "\" x2=\"" << x(p.x) << "\" y1=\"" << y(p.low) << "\" y2=\"" << y(p.high)
          << "\" stroke=\"" << colour(p.series) << "\" stroke-width=\"1.5\"/>";
    const Box label = labels.place(x(p.x), y(p.y), p.label.size());
    if (label.top > y(p.y) || label.bottom < y(p.y))  // not beside its point: a line leads to it
      out << "<line x1=\"" << x(p.x) << "\" y1=\"" << y(p.y) << "\" x2=\""
          << (label.left > x(p.x) ? label.left : label.right) << "\" y2=\"" << (label.top + label.bottom) / 2
          << "\" stroke=\"" << colour(p.series) << "\" stroke-width=\".6\"/>";
    const bool to_the_left = label.right < x(p.x);
    out << "<circle cx=\"" << x(p.x) << "\" cy=\"" << y(p.y) << "\" r=\"" << kDot << "\" fill=\"" << colour(p.series)
        << "\"/><text x=\"" << (to_the_left ? label.right : label.left) << "\" y=\"" << label.bottom - 3
        << "\" text-anchor=\"" << (to_the_left ? "end" : "start") << "\" fill=\"" << colour(p.series) << "\">"
        << escaped(p.label) << "</text>\n";
  }
  out << "</svg>\n";
  return out.str();
}

std::string dot_rows(const Plot& plot) {
  if (plot.points.empty()) return {};
  constexpr double kWidth = 860, kLeft = 320, kRight = 60, kRow = 22, kBottom = 40;
  const double height = kRow * static_cast<double>(plot.points.size()) + kBottom;
  double low = HUGE_VAL, high = -HUGE_VAL;
  for (const auto& p : plot.points) {
    low = std::min(low, has_interval(p) ? p.low : p.x);
    high = std::max(high, has_interval(p) ? p.high : p.x);
  }
  const Axis axis(low, high);
  const auto x = [&](double v) { return kLeft + (kWidth - kLeft - kRight) * axis.share(v); };
  std::ostringstream out;
  out << "<svg class=\"chart\" viewBox=\"0 0 " << kWidth << ' ' << height << "\" role=\"img\" aria-label=\""
      << escaped(plot.x_title) << "\">\n";
  for (const double tick : axis.ticks())
    out << "<line x1=\"" << x(tick) << "\" x2=\"" << x(tick) << "\" y1=\"0\" y2=\"" << height - kBottom + 4
        << "\" stroke=\"#e1e6eb\"/><text x=\"" << x(tick) << "\" y=\"" << height - kBottom + 18
        << "\" text-anchor=\"middle\" fill=\"#5b6875\">" << tick_text(tick) << "</text>\n";
  out << "<text x=\"" << (kLeft + kWidth - kRight) / 2 << "\" y=\"" << height - 6
      << "\" text-anchor=\"middle\" fill=\"#1c2733\">" << escaped(plot.x_title) << "</text>\n";
  double y = kRow / 2;
  for (const auto& p : plot.points) {
    out << "<text x=\"" << kLeft - 12 << "\" y=\"" << y + 4 << "\" text-anchor=\"end\" fill=\"#1c2733\">"
        << escaped(p.label) << "</text>";
    if (has_interval(p))
      out << "<line x1=\"" << x(p.low) << "\" x2=\"" << x(p.high) << "\" y1=\"" << y << "\" y2=\"" << y
          << "\" stroke=\"" << colour(p.series) << "\" stroke-width=\"1.5\"/>";
    out << "<circle cx=\"" << x(p.x) << "\" cy=\"" << y << "\" r=\"" << kDot << "\" fill=\"" << colour(p.series)
        << "\"/><text x=\"" << kWidth - kRight + 10 << "\" y=\"" << y + 4 << "\" fill=\"#5b6875\">" << short_number(p.x)
        << "</text>\n";
    y += kRow;
  }
  out << "</svg>\n";
  return out.str();
}

}  // namespace fpsa::app
