// A study as one HTML page that needs nothing else: tables, plots, and clips that play side by side.
#pragma once

#include <string>

#include "fpsa/app/study_report.h"

namespace fpsa::app {

/// The page; the same report and clips give the same bytes.
///   Edges     arms without clips are listed with dashes; clips are left out, said so, once they make up 8 MB
///   Errors    fpsa::Error: a clip's file that cannot be read
std::string study_page(const StudyReport& report);

/// RFC 4648, padded.
std::string base64(std::string_view bytes);

}  // namespace fpsa::app
