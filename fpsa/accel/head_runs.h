// What a schedule asks of the heads of one layer in one phase, and how that is put into words.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "fpsa/accel/methods.h"
#include "fpsa/nn/attention_method.h"
#include "fpsa/ops/plan.h"
#include "fpsa/schedule/schedule.h"

namespace fpsa::accel {

/// Neighbouring heads with the same work.
struct HeadRun {
  int64_t first = 0, count = 0;
  schedule::Setting setting;  // without the parts that its precision and pattern do not use
};

/// The heads of a layer in order, in as few runs as their settings allow.
///   Requires  a valid schedule, a phase of it
std::vector<HeadRun> head_runs(const schedule::Schedule& schedule, int phase, int64_t layer, int64_t heads);

/// The plan of a run's heads on a grid, from the shared cache.
std::shared_ptr<const ops::Plan> plan_of(const HeadRun& run, const schedule::Schedule& schedule,
                                         const pattern::Grid& grid);

/// Which functions compute a run.
struct Entries {
  std::string_view kernel, coder;  // coder is empty without quantisation
  std::string_view isa;
};

/// Adds a run to an entry: pattern, granularity, kernel, and its heads' share of the density.
void explain_run(const HeadRun& run, int64_t heads, const schedule::Schedule& schedule, const ops::Plan& plan,
                 const Entries& entries, Explain& entry);
/// Sets the reason: the phase, and the overrides that applied.
void explain_reason(const std::vector<HeadRun>& runs, const schedule::Schedule& schedule, int64_t step, int64_t steps,
                    Explain& entry);

/// What one layer will run at one step, without running it: separate quantisation, not fused with norm and rotation.
///   Shapes    heads of `dim` channels, of dtype F32 or BF16, on CUDA F16 too
///   Edges     `device` CUDA: the sm_90a kernels, also where they cannot run, which the reason then says; a call that
///             they refuse has the kernel "none" and the refusal as part of the reason
///   Errors    a schedule that is invalid or does not fit the grid, layers or heads; a device or dtype of another kind
Explain explain_scheduled(const schedule::Schedule& schedule, const nn::AttentionContext& context, int64_t heads,
                          int64_t dim, at::ScalarType dtype, at::Device device = at::kCPU);

}  // namespace fpsa::accel
