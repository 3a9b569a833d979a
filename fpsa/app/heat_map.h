// Heat maps as inline SVG, small enough for pages with many of them: cells of one colour are one path.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace fpsa::app {

/// Text made safe between tags and in quoted attributes of HTML.
std::string escaped(const std::string& text);

/// Values to colours from light to dark, in even ratios between the ends (logarithmic) or even differences.
class ColourScale {
 public:
  static constexpr int kLevels = 32;
  /// Requires  low < high; 0 < low when logarithmic
  ColourScale(double low, double high, bool logarithmic);
  /// From 0 to kLevels - 1; values beyond the ends have the ends' levels.
  int level(double value) const;
  /// The value in the middle of a level.
  double value(int level) const;
  /// "#rrggbb".
  static std::string colour(int level);
  std::string colour_of(double value) const { return colour(level(value)); }
  double low() const { return low_; }
  double high() const { return high_; }

 private:
  double low_, high_;
  bool logarithmic_;
};

/// An <svg> of columns x rows cells that stretches to its box. `value` takes column and row.
std::string heat_map(int64_t columns, int64_t rows, const std::function<double(int64_t, int64_t)>& value,
                     const ColourScale& scale);

/// A strip of all colours with values below it.
std::string legend(const ColourScale& scale, const std::string& title);

/// Three significant digits.
std::string short_number(double value);

}  // namespace fpsa::app
