// What a bench on a GPU found: cases, and the figures that are drawn from them and held against their aims.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace fpsa::bench {

/// One thing that was timed, or that failed.
struct GpuCase {
  std::string group, name;  // "ladder", "window (4,4,1)"
  std::string kernel;       // what ran: an entry of ours or a peer
  std::string variant;      // of our forwards: "paired" (clusters of two blocks of threads) or "single"; or empty
  int64_t tokens = 0, heads = 0, dim = 0;
  double density = 1;
  double operations = 0;  // of visible pairs, forward 4 D each; 0: not a matter of rates
  double seconds = 0, spread = 0;  // median of a call, (largest - smallest) / median
  int samples = 0;
  std::optional<double> error;  // relative L2 distance of some rows from the reference on the same codes
  std::string failure;          // why there is no time

  bool failed() const { return !failure.empty(); }
  double rate() const { return seconds > 0 ? operations / seconds : 0; }
};

/// A figure of the summary and its aim.
struct GpuFigure {
  std::string name;
  std::optional<double> value;
  double aim = 0;
  bool at_least = true;  // or at most
  std::string why;       // where there is no value: why not

  bool met() const { return value && (at_least ? *value >= aim : *value <= aim); }
};

struct GpuReport {
  std::vector<std::pair<std::string, std::string>> about;  // device, clocks, driver, versions
  std::vector<GpuCase> cases;

  /// The figures, in a fixed order; one without its cases says why.
  ///   Numerics  fp8_dense_tflops, bf16_dense_tflops, backward_tflops: 1e12 operations a second of the dense cases;
  ///             sparse_fraction_of_dense: the lowest rate of a ladder's case of density 0.1 to 1 over its dense one;
  ///             paper_speedup: the fastest dense BF16 peer over ours with pre-pass, a failed peer of the group not
  ///             counted; prepass_share: the pre-pass over the call that it is part of
  std::vector<GpuFigure> figures() const;
  /// Names of the cases that failed; peers may, ours may not.
  std::vector<std::string> failures() const;

  std::string to_json() const;
  std::string to_text() const;
};

// What figures() looks for.
inline constexpr char kDenseGroup[] = "dense", kLadderGroup[] = "ladder", kPaperGroup[] = "paper",
                      kBackwardGroup[] = "backward";
inline constexpr char kFp8Kernel[] = "attention_fwd_e4m3_sm90a", kBf16Kernel[] = "attention_fwd_bf16_sm90a",
                      kBackwardKernel[] = "attention_bwd_bf16_sm90a", kPrepass[] = "quantize_sm90a",
                      kWithPrepass[] = "quantize_sm90a + attention_fwd_e4m3_sm90a";
/// Peers' kernels begin with this.
inline constexpr char kPeerPrefix[] = "peer: ";

}  // namespace fpsa::bench
