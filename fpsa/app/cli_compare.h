// `fpsa compare A B` and `fpsa sheet OUT A B ...`: clips side by side, in figures and as a picture.
#pragma once

#include <CLI/App.hpp>

namespace fpsa::app {

void add_compare_commands(CLI::App& app);

}  // namespace fpsa::app
