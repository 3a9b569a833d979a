// `fpsa generate`: prompt to video.
#pragma once

#include "fpsa/app/generate_options.h"

namespace fpsa::app {

/// Runs the request: checks everything that can be checked before the work, then text, denoising, decoding, writing.
///   Threads   uses options.threads; the same seed and threads give the same bytes
///   Errors    UsageError for a request that the model cannot meet; fpsa::Error; Interrupted. No output is left behind
void generate(const GenerateOptions& options);

}  // namespace fpsa::app
