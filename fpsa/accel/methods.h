// The attention methods: dense, sliding tile (STA), FP8 only, and FPSAttention's schedule over both.
//
// Every method records what it ran, per layer and step, and how long attention took.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "fpsa/nn/attention_method.h"
#include "fpsa/pattern/grid.h"

namespace fpsa::accel {

/// What ran for one (layer, step), in words for a person.
struct Explain {
  int64_t layer = 0;
  int64_t step = 0;
  std::string method;       // dense, sta, fp8, fps
  std::string kernel;       // e.g. attention_fwd_e4m3_avx512bf16
  std::string isa;          // e.g. avx512bf16
  std::string pattern;      // e.g. "window (3,2,2) of tile (3,4,4)"
  double density = 1.0;     // visible (query, key) pairs / L^2
  std::string granularity;  // tokens that share a Q or K scale, "-" without quantisation
  std::string reason;       // why this setting was chosen
};

/// An AttentionMethod that reports.
class Method : public nn::AttentionMethod {
 public:
  /// The last run's entries, ordered by (step, layer); a repeated (layer, step) keeps the latest.
  virtual std::vector<Explain> report() const = 0;
  /// Wall seconds spent inside self_attention since construction or reset().
  virtual double seconds() const = 0;
  /// Forgets the report and the seconds.
  virtual void reset() = 0;
};

/// Dense attention in the dtype of q: the baseline. Under gradients it runs ops::composed_attention.
std::unique_ptr<Method> make_dense();

}  // namespace fpsa::accel
