// `fpsa bench attention`: our kernels against the machine's own limits and against torch, in one run.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace fpsa::app::bench {

enum class Extent {
  kQuick,    // seconds, tiny shapes: that everything works, not how fast
  kDefault,  // minutes: every figure of the summary
  kFull,     // every shape, head dims 64 to 256
};

struct AttentionBenchOptions {
  Extent extent = Extent::kDefault;
  int threads = 1;
  std::string only;            // a group, or empty for all
  std::filesystem::path json;  // written atomically, or empty
};

/// Names of the groups of cases, in the order they run.
std::vector<std::string> attention_groups();

/// Prints cases and summary as they come.
///   Errors    fpsa::Error after everything else was reported and written, when a case failed
void run_attention_bench(const AttentionBenchOptions& options);

}  // namespace fpsa::app::bench
