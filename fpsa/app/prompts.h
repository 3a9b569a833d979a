// Prompts: where they come from and what the text encoder makes of them.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "fpsa/app/latents_io.h"
#include "fpsa/app/model_session.h"

namespace fpsa::app {

/// Non-empty lines of a UTF-8 file.
///   Errors    fpsa::Error when there is none
std::vector<std::string> read_prompt_file(const std::filesystem::path& path);

/// States of one prompt as WanPipeline makes them: cleaned, tokenised to at most 512 ids, encoded, zeros after the end.
///   Shapes    out [1, 512, D] in the encoder's dtype
at::Tensor encode_prompt(ModelSession& model, const std::string& prompt);

}  // namespace fpsa::app
