// `fpsa bench attention`: measures kernels against the machine and against torch.
#pragma once

#include <CLI/App.hpp>

namespace fpsa::app {

void add_bench_command(CLI::App& app);

}  // namespace fpsa::app
