#include "fpsa/app/heat_map.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <vector>

#include "fpsa/base/check.h"

namespace fpsa::app {
namespace {

// One hue whose lightness falls evenly, so that order can be read without the legend, in print and without colour
// vision too.
constexpr std::array<std::array<double, 3>, 6> kStops = {
    {{244, 247, 251}, {198, 217, 238}, {134, 177, 220}, {69, 132, 196}, {31, 90, 158}, {12, 50, 99}}};

}  // namespace

std::string escaped(const std::string& text) {
  std::string result;
  for (const char c : text) {
    switch (c) {
      case '&':
        result += "&amp;";
        break;
      case '<':
        result += "&lt;";
        break;
      case '>':
        result += "&gt;";
        break;
      case '"':
        result += "&quot;";
        break;
      case '\'':
        result += "&#39;";
        break;
      default:
        result += c;
    }
  }
  return result;
}

std::string short_number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3g", value);
  return text;
}

ColourScale::ColourScale(double low, double high, bool logarithmic)
    : low_(low), high_(high), logarithmic_(logarithmic) {}

int ColourScale::level(double value) const {
  const double x = std::clamp(value, low_, high_);
  const double share = logarithmic_ ? std::log(x / low_) / std::log(high_ / low_) : (x - low_) / (high_ - low_);
  return std::clamp(static_cast<int>(share * kLevels), 0, kLevels - 1);
}

double ColourScale::value(int level) const {
  const double share = (level + 0.5) / kLevels;
  return logarithmic_ ? low_ * std::pow(high_ / low_, share) : low_ + share * (high_ - low_);
}

std::string ColourScale::colour(int level) {
  const double place = static_cast<double>(level) / (kLevels - 1) * (kStops.size() - 1);
  const auto stop = std::min(static_cast<size_t>(place), kStops.size() - 2);
  const double share = place - static_cast<double>(stop);
  char text[8] = "#";
  for (size_t i = 0; i < 3; ++i)
    std::snprintf(
        text + 1 + 2 * i, 3, "%02x",
        static_cast<unsigned>(std::lround(kStops[stop][i] + share * (kStops[stop + 1][i] - kStops[stop][i]))));
  return text;
}

std::string heat_map(int64_t columns, int64_t rows, const std::function<double(int64_t, int64_t)>& value,
                     const ColourScale& scale) {
  std::vector<std::string> paths(ColourScale::kLevels);
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t column = 0; column < columns;) {
      const int level = scale.level(value(column, row));
      int64_t end = column + 1;
      while (end < columns && scale.level(value(end, row)) == level)
        ++end;
      paths[static_cast<size_t>(level)] += join('M', column, ' ', row, 'h', end - column, "v1h-", end - column, 'z');
      column = end;
    }
  std::string svg = join("<svg class=\"map\" viewBox=\"0 0 ", columns, ' ', rows,
                         "\" preserveAspectRatio=\"none\" shape-rendering=\"crispEdges\">");
  for (int level = 0; level < ColourScale::kLevels; ++level)
    if (const auto& path = paths[static_cast<size_t>(level)]; !path.empty())
      svg += join("<path fill=\"", ColourScale::colour(level), "\" d=\"", path, "\"/>");
  return svg + "</svg>";
}

std::string legend(const ColourScale& scale, const std::string& title) {
  const auto strip = heat_map(
      ColourScale::kLevels, 1, [&](int64_t column, int64_t) { return scale.value(static_cast<int>(column)); }, scale);
  return join("<div class=\"legend\"><span>", escaped(title), "</span><span>", short_number(scale.low()), "</span>",
              strip, "<span>", short_number(scale.high()), "</span></div>");
}

}  // namespace fpsa::app
