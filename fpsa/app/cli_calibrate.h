// The flags of `fpsa calibrate`.
#pragma once

#include <CLI/App.hpp>

namespace fpsa::app {

void add_calibrate_command(CLI::App& app);

}  // namespace fpsa::app
