// Flags of the commands that sample clips: the same names, checks and precedence in each.
#pragma once

#include <CLI/App.hpp>

#include "fpsa/app/generate_options.h"

namespace fpsa::app {

/// Model, prompts and the clip's shape.
void add_content_flags(CLI::App& command, GenerateOptions& options);
/// Steps, guidance, shift, sampler, seed.
void add_sampling_flags(CLI::App& command, GenerateOptions& options);
/// Compute type, threads, device, memory.
void add_machine_flags(CLI::App& command, GenerateOptions& options);
/// --config, which merge_settings reads.
void add_config_flag(CLI::App& command);

/// What --help says below the flags.
inline constexpr char kPrecedence[] =
    "Precedence: command line, --config, fpsa.json in the model's folder, the defaults in brackets.\n"
    "A flag given twice counts as given last (--lora adds up). Underscores and dashes are the same.";

/// Fills in --size, --config and the model folder's fpsa.json, in that order of precedence after the command line.
///   Requires  called after the command line was parsed
///   Errors    UsageError: no model, an unknown key, a value of a wrong kind
void merge_settings(CLI::App& command, GenerateOptions& options);

/// Checks that there is exactly one source of prompts, and nothing beside it that it replaces.
///   Errors    UsageError
void check_prompts(const CLI::App& command, const GenerateOptions& options);

}  // namespace fpsa::app
