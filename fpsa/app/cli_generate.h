// The command line of `fpsa generate`.
#pragma once

#include <CLI/App.hpp>

namespace fpsa::app {

void add_generate_command(CLI::App& app);

}  // namespace fpsa::app
