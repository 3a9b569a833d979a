// Other implementations of dense attention on the same card, timed by a child process of Python: torch's
// scaled_dot_product_attention with its cuDNN and flash back ends and, where they can be imported, flash_attn_interface and
// sageattention.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "fpsa/bench/gpu_report.h"

namespace fpsa::bench {

/// What peers are asked for: [1, tokens, heads, dim], standard normal, forward and, if wanted, backward.
struct PeerProblem {
  std::string group;
  int64_t tokens = 0, heads = 0, dim = 128;
  bool backward = false;
};

/// A case for each peer and problem, and the versions of what was imported. A peer that is not there, or fails, is a
/// failed case; a child that cannot be started or ends early makes every case of it fail.
struct PeerResults {
  std::vector<GpuCase> cases;
  std::vector<std::pair<std::string, std::string>> versions;
};
PeerResults time_peers(const std::string& python, int device, const std::vector<PeerProblem>& problems, int samples);

/// The same from the child's lines: one `case`, `version` or `failure` a line, fields separated by tabs. Pure, for tests.
///   Errors    none: a line that is none of these becomes a failed case
PeerResults parse_peers(std::string_view lines, const std::vector<PeerProblem>& problems);

/// The child's program, in Python.
std::string_view peer_program();

}  // namespace fpsa::bench
