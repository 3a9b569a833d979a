// The plots of a study as inline SVG.
#pragma once

#include <string>
#include <vector>

namespace fpsa::app {

struct PlotPoint {
  std::string label;
  double x = 0, y = 0;
  double low = 0, high = 0;  // of y; NaN without an interval
  int series = 0;            // colour, and with `connected` the line that the point belongs to
};

struct Plot {
  std::string x_title, y_title;
  std::vector<PlotPoint> points;
  bool connected = false;  // a line through the points of a series, by x
};

/// A scatter plot with intervals. Labels keep off the points and each other; a line leads to one that had to move away.
///   Edges     no points give an empty text
std::string scatter(const Plot& plot);

/// One row for each point: its label, x with the interval of x in low and high, and the figure.
std::string dot_rows(const Plot& plot);

}  // namespace fpsa::app
