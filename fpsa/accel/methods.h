// The attention methods: dense, sliding tile (STA), FP8 or INT8 only, and FPSAttention's schedule over both.
//
// Every method records what it ran, per layer and step, and how long attention took. STA, FP8 and INT8 are the
// schedule with one of its two halves switched off, so that a comparison changes one thing at a time. Where a setting
// is dense without quantisation, the bits are those of make_dense().
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "fpsa/nn/attention_method.h"
#include "fpsa/ops/p_coding.h"
#include "fpsa/pattern/grid.h"
#include "fpsa/schedule/schedule.h"

namespace fpsa::accel {

/// What ran for one (layer, step), in words for a person. Heads that differ are joined by "; ".
struct Explain {
  int64_t layer = 0;
  int64_t step = 0;
  std::string method;       // dense, sta, fp8, int8, fps
  std::string kernel;       // e.g. attention_fwd_e4m3_avx512bf16
  std::string isa;          // e.g. avx512bf16
  std::string coder;        // what made the codes: prepass_e4m3_avx512, quantize_e4m3_avx2; empty without quantisation
  std::string pattern;      // e.g. "sta window (3,2,2) of tile (3,4,4)"
  double density = 1.0;     // visible (query, key) pairs / L^2, averaged over the heads
  std::string granularity;  // tokens that share a Q or K scale, "-" without quantisation
  std::string reason;       // why this setting was chosen
};

/// An AttentionMethod that reports. Not for concurrent use; one object per sampling run.
class Method : public nn::AttentionMethod {
 public:
  /// The last run's entries, ordered by (step, layer); a repeated (layer, step) keeps the latest.
  virtual std::vector<Explain> report() const = 0;
  /// Wall seconds spent on attention since construction or reset(), norm and rotation included where they are fused.
  virtual double seconds() const = 0;
  /// Forgets the report and the seconds.
  virtual void reset() = 0;
};

/// Dense attention in the dtype of q: the baseline. Gradients by the backward kernels;
/// in F64, which they do not have, by ops::composed_attention. On CUDA what our kernels do not serve is torch's, said in
/// the report.
std::unique_ptr<Method> make_dense();

/// FPSAttention: windows and quantisation from the schedule. Gradients by the backward kernels over the same tiles and
/// codes, so that training computes what inference does.
///   Errors    an invalid schedule at once; one that does not fit grid or model at the first call; gradients through
///             INT8, which has no backward
std::unique_ptr<Method> make_fps(schedule::Schedule schedule);

/// The same with another coding of P wherever it is E4M3, emulated: slow, for questions of precision. No gradients.
std::unique_ptr<Method> make_fps(schedule::Schedule schedule, const ops::PCoding& coding);

/// make_fps() for a user who leaves the choice to us: where a CUDA device, head dim or dtype has no kernels of ours, all
/// heads take torch's dense attention, and the report says so and why. On a CPU it is make_fps().
std::unique_ptr<Method> make_fps_or_torch_dense(schedule::Schedule schedule);

/// The schedule's windows and patterns without quantisation.
std::unique_ptr<Method> make_sta(schedule::Schedule schedule);
/// The same window at every step.
std::unique_ptr<Method> make_sta(const pattern::Grid& tile, const pattern::Grid& window);

/// The schedule's granularities in E4M3 over all keys, at every step.
std::unique_ptr<Method> make_fp8(schedule::Schedule schedule);
/// The same granularity at every step.
std::unique_ptr<Method> make_fp8(const pattern::Grid& tile, const pattern::Grid& granularity);

/// The schedule's granularities in INT8 over all keys, at every step.
std::unique_ptr<Method> make_int8(schedule::Schedule schedule);
/// The same granularity at every step.
std::unique_ptr<Method> make_int8(const pattern::Grid& tile, const pattern::Grid& granularity);

}  // namespace fpsa::accel
