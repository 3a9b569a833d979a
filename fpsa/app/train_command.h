// `fpsa train`: trains the embedded model's autoencoder or transformer; `fpsa train eval` judges a model by the clip
// checker; `fpsa train export` writes a trained part into a model folder.
#pragma once

#include <CLI/App.hpp>

namespace fpsa::app {

void add_train_command(CLI::App& app);

}  // namespace fpsa::app
