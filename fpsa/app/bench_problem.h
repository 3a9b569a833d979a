// The attention problems that the bench times: seeded inputs that a peer process can make as well, and the rows of the
// right answer, by the reference kernels.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "fpsa/kernel/table.h"
#include "fpsa/ops/attention.h"
#include "fpsa/ops/plan.h"

namespace fpsa::app::bench {

/// Self-attention of one video: batch 1.
struct Shape {
  pattern::Grid grid;
  int64_t heads = 1, dim = 128;
  int64_t tokens() const { return grid.volume(); }
};

/// q, k, v [1,L,H,D] contiguous, standard normal; the same values for the same shape in every process.
struct Inputs {
  at::Tensor q, k, v;
};
Inputs make_inputs(const Shape& shape, at::ScalarType type = at::kBFloat16);

/// How Q, K, V and P are held.
struct Format {
  kernel::Dtype dtype;
  ops::Precision precision;
  at::ScalarType input;  // of the tensors that the operator takes
  bool smooth_keys;      // as the engine codes them (accel/fps.cc): it costs INT8 a pass over K
  double error_limit;    // relative L2 distance from the reference on the same codes

  std::string name() const { return std::string(kernel::dtype_name(dtype)); }
  bool eight_bit() const { return precision != ops::Precision::kNone; }
};
/// Every format that the operators of this build offer: f32, bf16, then those of 8 bits.
const std::vector<Format>& formats();
const Format& format_of(kernel::Dtype dtype);

/// Head 0 as a kernel takes it, in tile order, with what it points into.
struct KernelHead {
  kernel::AttentionHead head;
  std::vector<at::Tensor> storage;
};
KernelHead kernel_head(const Inputs& inputs, const ops::Plan& plan, const Format& format);

/// The pass of an 8-bit format before its kernel: norm, rotation, tile order, scales, codes.
class PrepassCall {
 public:
  PrepassCall(const Inputs& inputs, std::shared_ptr<const ops::Plan> plan, const Format& format);
  void run() const;
  /// Holds the codes and scales of head 0 against the reference's coder on rows that the reference normed and rotated.
  ///   Numerics  every bit: kernel/prepass.h promises it
  ///   Errors    fpsa::Error naming `what` and the tensor that differs
  void check(const std::string& what) const;

  const at::Tensor& codes() const { return codes_; }

 private:
  Inputs inputs_;
  std::shared_ptr<const ops::Plan> plan_;
  Format format_;
  at::Tensor weight_, turns_, codes_, scales_, scratch_;
};

/// Some rows of head 0, at their raster positions.
struct Rows {
  std::vector<int64_t> raster, positions;  // positions: the same rows in tile order
  at::Tensor values;                       // [rows, D] F64
};

/// The first, middle and last rows in tile order, by the reference kernel on the codes of the format.
///   Numerics  bounded work: 24 rows, whatever the length
Rows reference_rows(const Inputs& inputs, const ops::Plan& plan, const Format& format);

/// Those rows of head 0 of a tensor [1,L,H,D].
at::Tensor rows_of(const at::Tensor& x, const Rows& rows);

/// Relative L2 distance of `got` [rows, D] from the expected rows.
///   Errors    fpsa::Error naming `what` where it exceeds `limit` or is not a number
double check_rows(const at::Tensor& got, const Rows& expected, double limit, const std::string& what);

}  // namespace fpsa::app::bench
