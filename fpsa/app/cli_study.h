// fpsa study: the tables of the paper on a model folder.
#pragma once

#include <CLI/App.hpp>

namespace fpsa::app {

void add_study_command(CLI::App& app);

}  // namespace fpsa::app
