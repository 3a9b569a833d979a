// `fpsa bench train`: what a training step costs with the recipe's schedule, beside one with dense attention.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace fpsa::app::bench {

struct TrainBenchOptions {
  std::filesystem::path recipe, weights, model = "models/tiny", latents, json;
  std::string attention = "both";                  // "both", "dense" or "fps"
  std::string gradient_checkpointing = "recipe";   // "recipe", "on" or "off"
  int64_t stage = 1;                               // of the recipe, from 1
  int64_t steps = 3;                               // of each attention, after one to warm up
  int64_t threads = 0;
};

/// Times forward and backward of the same batches under both attentions in turns, each in a process of its own, and
/// prints medians, the mean density of the steps, the ratio and each process's peak memory, loading included. Left out
/// are the optimiser and the teacher of the recipe's distill_weight: they take the same time in both. Windows have the
/// schedule's own density (a stage's density_steps are ignored). Clips are encoded first, in another process, unless
/// `latents` has them.
///   Requires  that the calling process has one thread
///   Errors    UsageError: no recipe, one of a VAE, a stage it lacks, `attention` that needs a schedule it lacks,
///             `latents` beside [data]
void run_train_bench(const TrainBenchOptions& options);

}  // namespace fpsa::app::bench
