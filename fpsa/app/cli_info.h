// `fpsa info [PATH]`: describes a checkpoint, a schedule or, without a path, the machine.
#pragma once

#include <CLI/App.hpp>

namespace fpsa::app {

void add_info_command(CLI::App& app);

}  // namespace fpsa::app
