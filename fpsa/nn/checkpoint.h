// A checkpoint as the source of a module's parameters.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "fpsa/nn/parameters.h"
#include "fpsa/nn/tensor_map.h"

namespace fpsa::nn {

/// How a checkpoint's tensors met a module's requests.
struct CheckpointReport {
  struct Mismatch {
    std::string name, expected, received;  // shapes, or kinds of dtype
  };
  std::vector<std::string> missing, unexpected;
  std::vector<Mismatch> mis_shaped;
  int64_t used = 0;             // parameters handed out
  int64_t converted = 0;        // of those, copied to another dtype or device; the rest share the file's mapping
  int64_t converted_bytes = 0;  // memory of the copies

  bool ok() const { return missing.empty() && unexpected.empty() && mis_shaped.empty(); }
  /// All names, with shapes expected and received; empty when ok().
  std::string text() const;
};

/// Answers from named tensors, converting to the compute dtype (F32 where the module keeps F32) only where the
/// stored one differs.
///   Numerics  a tensor with an entry in `scales` is code * scale, computed in F32
///   Edges     a request that cannot be met gets zeros without memory, so that construction goes on and finish()
///             names every fault at once
///   Errors    finish() throws fpsa::Error unless the report is ok()
class CheckpointSource : public ParameterSource {
 public:
  /// `origin` (a path) begins the error message. On another device than the CPU every tensor is copied there.
  CheckpointSource(TensorMap tensors, at::ScalarType compute_dtype, std::string origin = "checkpoint",
                   TensorMap scales = {}, at::Device device = at::kCPU);

  at::Tensor get(const ParameterSpec& spec) override;

  /// Requests seen so far against the tensors, without throwing.
  CheckpointReport report() const;
  /// The report; throws when a tensor is missing, unexpected or mis-shaped.
  CheckpointReport finish() const;

 private:
  at::Tensor convert(const at::Tensor& stored, const ParameterSpec& spec);

  TensorMap tensors_, scales_;
  at::ScalarType compute_dtype_;
  at::Device device_;
  std::string origin_;
  std::set<std::string> requested_;
  CheckpointReport report_;
};

}  // namespace fpsa::nn
