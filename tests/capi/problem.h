// An attention problem through the C interface.
#pragma once

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "fpsa/capi/fpsa.h"
#include "fpsa/plan/workspace.h"

namespace fpsa::capi::testing_support {

inline constexpr fpsa_geometry kGeometry = {{4, 8, 8}, {2, 4, 4}, {1, 4, 4}};
inline constexpr fpsa_grid kWindow = {1, 2, 1};
inline constexpr int64_t kTokens = 256, kHeads = 3, kDim = 24;

inline fpsa_spec spec_of(fpsa_dtype dtype = FPSA_F32, fpsa_precision precision = FPSA_PRECISION_NONE) {
  fpsa_spec spec = FPSA_SPEC_INIT;
  spec.heads = kHeads;
  spec.head_dim = kDim;
  spec.dtype = dtype;
  spec.precision = precision;
  return spec;
}

/// Q, K, V and the result, F32 or (the bits of) BF16, with the arguments of a run: K and the result as [B,H,L,D], the
/// others as [B,L,H,D]. Batches are apart by a gap of another length in each.
struct Problem {
  explicit Problem(const fpsa_plan* plan, fpsa_dtype dtype = FPSA_F32, int32_t threads = 1, int64_t batch = 1) {
    args.batch = batch;
    set_strides(args.q, 16, false);
    set_strides(args.k, 48, true);
    set_strides(args.v, 0, false);
    set_strides(args.out, 32, true);
    const int64_t words = dtype == FPSA_F32 ? 2 : 1;
    auto size = [&](const auto& x) { return static_cast<size_t>(batch * x.batch_stride * words); };
    q.resize(size(args.q));
    k.resize(size(args.k));
    v.resize(size(args.v));
    std::mt19937 random(5);
    for (auto* x : {&q, &k, &v}) {
      // As BF16 and as the upper half of an F32: below 2 in magnitude.
      for (size_t i = 0; i < x->size(); ++i)
        (*x)[i] = static_cast<uint16_t>((random() & 0x80ffu) | 0x3f00u);
    }
    out.assign(size(args.out), 0xa5a5);
    lse.assign(static_cast<size_t>(batch * kHeads * kTokens), 7.0f);
    row_max = lse;
    args.q.data = q.data();
    args.k.data = k.data();
    args.v.data = v.data();
    args.out.data = out.data();
    args.lse = lse.data();
    args.row_max = row_max.data();
    size_t bytes = 0;
    fpsa_plan_workspace_bytes(plan, batch, threads, &bytes);
    workspace.reserve(static_cast<int64_t>(bytes));
    args.workspace = workspace.bytes().data();
    args.workspace_bytes = bytes;
  }
  Problem(const Problem&) = delete;
  Problem& operator=(const Problem&) = delete;

  std::vector<uint16_t> q, k, v, out;
  std::vector<float> lse, row_max;
  plan::Workspace workspace;
  fpsa_run_args args = FPSA_RUN_INIT;

 private:
  template <class Tensor>
  static void set_strides(Tensor& x, int64_t gap, bool heads_first) {
    x.batch_stride = kTokens * kHeads * kDim + gap;
    x.head_stride = heads_first ? kTokens * kDim : kDim;
    x.token_stride = heads_first ? kDim : kHeads * kDim;
  }
};

/// Destroys what it holds.
struct PlanHolder {
  PlanHolder() = default;
  PlanHolder(const PlanHolder&) = delete;
  PlanHolder& operator=(const PlanHolder&) = delete;
  ~PlanHolder() { fpsa_plan_destroy(plan); }
  fpsa_plan* plan = nullptr;
};

struct ThreadsHolder {
  explicit ThreadsHolder(int32_t count) { fpsa_threads_create(count, &threads); }
  ThreadsHolder(const ThreadsHolder&) = delete;
  ThreadsHolder& operator=(const ThreadsHolder&) = delete;
  ~ThreadsHolder() { fpsa_threads_destroy(threads); }
  fpsa_threads* threads = nullptr;
};

}  // namespace fpsa::capi::testing_support
