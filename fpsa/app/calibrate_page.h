// What a calibration found, as one HTML page that needs nothing else.
#pragma once

#include <string>

#include "fpsa/app/calibrate_report.h"

namespace fpsa::app {

/// The request, the chosen phases over the error of every step, and a heat map (step x layer and head) of the
/// schedule and of each candidate. The same report gives the same bytes.
std::string calibration_page(const CalibrationReport& report);

}  // namespace fpsa::app
