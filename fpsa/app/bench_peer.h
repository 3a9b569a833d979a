// torch's attention in processes of its own: as shipped, and with MKL's vendor check overridden by a preloaded library,
// which can only be done before a process starts.
//
// The parent asks in lines of JSON, the child answers in lines of JSON:
//   (first line, unasked)                              {"torch": "2.13.0", "override": true}
//   {"prepare": {grid, heads, dim, heads_first, backward}}   {"id": 0, "out": [rows], "rows": [raster positions]}
//   {"sample": id, "repeats": n}                       {"seconds": s, "others": share, "cpu": s}
//   {"release": true}                                  {}
// An error is {"error": text}; the child ends when its input does.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "fpsa/app/bench_problem.h"
#include "fpsa/app/bench_sampler.h"

namespace fpsa::app::bench {

/// What a peer computes: dense BF16 attention, or the three gradients of it for given upstream ones.
struct PeerCall {
  Shape shape;
  bool heads_first = false;  // [B,H,L,D] contiguous instead of a view of [B,L,H,D]
  bool backward = false;
};

/// A child process that times torch.
///   Threads   one object belongs to one thread
///   Errors    fpsa::Error names the peer and what happened to the process: a signal, an exit code, its own message
class Peer {
 public:
  /// Starts the child. `preload` is a library for LD_PRELOAD, or empty.
  ///   Errors    also a preload that did not take effect
  Peer(std::string name, const std::filesystem::path& preload, int threads);
  ~Peer();
  Peer(const Peer&) = delete;
  Peer& operator=(const Peer&) = delete;

  const std::string& name() const { return name_; }

  /// Makes the inputs in the child, runs the call once, and returns its id. Forward only: `rows` of head 0 of the
  /// output come back in `out` [rows, D], to be checked.
  int prepare(const PeerCall& call, const std::vector<int64_t>& rows, at::Tensor* out);
  Sample sample(int id, int repeats);
  /// Forgets every prepared call and its tensors; that the process has ended is then the next call's error.
  void release();

 private:
  nlohmann::json ask(const nlohmann::json& request);
  nlohmann::json read_line();
  [[noreturn]] void fail_with_status();

  std::string name_, pending_;
  std::string ended_;  // how, once it has
  int socket_ = -1, process_ = -1;
};

/// The library that the build puts beside the program; empty when it is not there.
std::filesystem::path vendor_library();

/// Whether the processor is Intel's, so that there is nothing to override.
bool intel_processor();

/// The child's side: answers standard input on standard output. Returns the exit code.
int serve_peer(int threads);

}  // namespace fpsa::app::bench
