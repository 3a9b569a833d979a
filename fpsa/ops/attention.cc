#include "fpsa/ops/attention.h"

#include <ATen/MemoryOverlap.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "fpsa/kernel/table.h"
#include "fpsa/ops/environment.h"
#include "fpsa/ops/quantize.h"
#include "fpsa/ops/views.h"

namespace fpsa::ops {
namespace {

// Keys and values of several heads are packed at a time, so that threads have enough blocks to share; beyond this
// the packed form would only push itself out of the caches.
constexpr int64_t kPackedBytes = int64_t{64} << 20;
constexpr int64_t kKeysPerPack = 512;  // a multiple of 64, small enough to spread one head over threads

// One (batch, head) and the blocks to run for it.
struct Job {
  kernel::AttentionHead head;
  kernel::AttentionOut out;
  const kernel::Visibility* visibility;
};

// Runs fn(i, scratch) for i in [0, n) on the pool, with one scratch buffer per thread's share.
template <class Function>
void parallel(int64_t n, int64_t scratch_bytes, const Function& fn) {
  at::parallel_for(0, n, 1, [&](int64_t begin, int64_t end) {
    const auto scratch = at::empty({std::max<int64_t>(scratch_bytes, 64)}, at::kByte);
    for (int64_t i = begin; i < end; ++i)
      fn(i, scratch.mutable_data_ptr());
  });
}

void run_wave(const kernel::AttentionFwd& kernel, const Job* jobs, int64_t count, uint8_t* packed, int64_t stride) {
  const int64_t keys = jobs[0].head.keys, dim = jobs[0].head.dim;
  const int64_t chunks = (keys + kKeysPerPack - 1) / kKeysPerPack;
  parallel(count * chunks, 0, [&](int64_t i, void*) {
    const int64_t begin = i % chunks * kKeysPerPack;
    kernel.pack(jobs[i / chunks].head, begin, std::min(begin + kKeysPerPack, keys), packed + i / chunks * stride);
  });
  std::vector<int64_t> first_block = {0};
  for (int64_t j = 0; j < count; ++j)
    first_block.push_back(first_block.back() + static_cast<int64_t>(jobs[j].visibility->blocks().size()));
  parallel(first_block.back(), kernel.scratch_bytes(keys, dim), [&](int64_t i, void* scratch) {
    const int64_t j = std::ranges::upper_bound(first_block, i) - first_block.begin() - 1;
    const auto block = jobs[j].visibility->blocks()[static_cast<size_t>(i - first_block[static_cast<size_t>(j)])];
    kernel.run(jobs[j].head, packed + j * stride, block, jobs[j].out, scratch);
  });
}

void run_jobs(const kernel::AttentionFwd& kernel, const std::vector<Job>& jobs) {
  if (jobs.empty()) return;
  const int64_t bytes = kernel.packed_bytes(jobs[0].head.keys, jobs[0].head.dim);
  const int64_t stride = std::max<int64_t>((bytes + 63) / 64 * 64, 64), count = static_cast<int64_t>(jobs.size());
  const int64_t wave = std::clamp<int64_t>(kPackedBytes / stride, 1, count);
  const auto packed = at::empty({wave * stride}, at::kByte);
  for (int64_t first = 0; first < count; first += wave)
    run_wave(kernel, jobs.data() + first, std::min(wave, count - first), packed.mutable_data_ptr<uint8_t>(), stride);
}

// The tensors of one call in [B,L,H,D] order, checked.
struct Call {
  at::Tensor q, k, v, out;
  AttentionResult result;
  float scale;

  int64_t batch() const { return q.size(0); }
  int64_t heads() const { return q.size(2); }
};

void check_same(const at::Tensor& x, const char* name, const at::Tensor& q, const char* op) {
  TORCH_CHECK(x.size(0) == q.size(0) && x.size(2) == q.size(2) && x.size(3) == q.size(3), op, ": ", name,
              " must have the batch, heads and head dim of q (", q.size(0), ", ", q.size(2), ", ", q.size(3),
              "), got (", x.size(0), ", ", x.size(2), ", ", x.size(3), ")");
  TORCH_CHECK(x.scalar_type() == q.scalar_type(), op, ": ", name, " must have q's dtype ", q.scalar_type(), ", got ",
              x.scalar_type());
}

Call checked(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const AttentionOptions& options,
             const char* op) {
  apply_environment();
  for (const auto& [name, x] : {std::pair("q", &q), std::pair("k", &k), std::pair("v", &v)})
    check_tokens(*x, op, name, options.heads_first);
  check_no_gradient(op, {q, k, v});
  Call call{tokens_first(q, options.heads_first),
            tokens_first(k, options.heads_first),
            tokens_first(v, options.heads_first),
            {},
            {},
            0.0f};
  check_same(call.k, "k", call.q, op);
  check_same(call.v, "v", call.q, op);
  TORCH_CHECK(call.k.size(1) == call.v.size(1), op, ": k and v must have the same number of tokens, got ",
              call.k.size(1), " and ", call.v.size(1));
  for (const auto& x : {call.q, call.k})
    TORCH_CHECK(x.size(1) <= std::numeric_limits<int32_t>::max(), op, ": at most 2^31 - 1 tokens, got ", x.size(1));
  call.scale = static_cast<float>(options.scale.value_or(1.0 / std::sqrt(static_cast<double>(call.q.size(3)))));
  TORCH_CHECK(std::isfinite(call.scale), op, ": scale must be finite, got ", call.scale);
  return call;
}

// Rows are written while others are still read, so an output may share memory with no input.
void check_apart(const at::Tensor& out, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const char* op) {
  TORCH_CHECK(at::has_internal_overlap(out) != at::MemOverlap::Yes, op, ": elements of out share memory, got strides ",
              out.strides(), "; pass a tensor that is not expanded");
  for (const auto& [name, x] : {std::pair("q", &q), std::pair("k", &k), std::pair("v", &v)}) {
    const auto overlap = at::get_overlap_status(out, *x);
    // Views with gaps are too hard to compare, except that the same view is never apart from itself.
    const bool same = out.numel() > 0 && x->numel() > 0 && out.const_data_ptr() == x->const_data_ptr();
    TORCH_CHECK(!same && overlap != at::MemOverlapStatus::Full && overlap != at::MemOverlapStatus::Partial, op,
                ": out must not share memory with ", name, "; pass another tensor");
  }
}

void allocate(Call& call, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
              const AttentionOptions& options, const char* op) {
  auto& result = call.result;
  if (options.out) {
    TORCH_CHECK(options.out->sizes() == q.sizes() && options.out->scalar_type() == q.scalar_type() &&
                    options.out->stride(3) == 1 && options.out->device().is_cpu(),
                op, ": out must have q's shape ", q.sizes(), " and dtype ", q.scalar_type(),
                " and contiguous channels, got ", options.out->sizes(), " ", options.out->scalar_type());
    check_apart(*options.out, q, k, v, op);
    result.out = *options.out;
  } else {
    result.out = at::empty(q.sizes(), q.options());
  }
  call.out = options.heads_first ? result.out.transpose(1, 2) : result.out;
  const auto f32 = q.options().dtype(at::kFloat);
  const std::vector<int64_t> rows = {call.batch(), call.heads(), call.q.size(1)};
  if (options.want_lse) result.lse = at::empty(rows, f32);
  if (options.want_row_max) result.row_max = at::empty(rows, f32);
}

kernel::AttentionOut out_of(const Call& call, int64_t b, int64_t h, const int32_t* index) {
  const auto view = rows_of(call.out, b, h, index);
  const int64_t row = (b * call.heads() + h) * call.q.size(1);
  const auto& [lse, row_max] = std::pair(call.result.lse, call.result.row_max);
  return {const_cast<void*>(view.data),
          view.stride,
          kernel_dtype(call.out.scalar_type()),
          index,
          lse.defined() ? lse.mutable_data_ptr<float>() + row : nullptr,
          row_max.defined() ? row_max.mutable_data_ptr<float>() + row : nullptr};
}

void run_entry(Call& call, const kernel::AttentionFwdEntry& entry, const std::vector<Job>& jobs) {
  run_jobs(entry.kernel, jobs);
  call.result.kernel = entry.name;
  call.result.isa = entry.isa;
}

// index: position -> raster, or null where the order does not matter.
template <class VisibilityOf>
void run_plain(Call& call, const int32_t* index, const VisibilityOf& visibility_of) {
  std::vector<Job> jobs;
  for (int64_t b = 0; b < call.batch(); ++b) {
    for (int64_t h = 0; h < call.heads(); ++h) {
      kernel::AttentionHead head;
      head.queries = call.q.size(1);
      head.keys = call.k.size(1);
      head.dim = call.q.size(3);
      head.q = rows_of(call.q, b, h, index);
      head.k = rows_of(call.k, b, h, index);
      head.v = rows_of(call.v, b, h, index);
      head.softmax_scale = call.scale;
      jobs.push_back({head, out_of(call, b, h, index), visibility_of(h)});
    }
  }
  run_entry(call, kernel::attention_fwd(kernel_dtype(call.q.scalar_type())), jobs);
}

void run_e4m3(Call& call, const Plan& plan) {
  const Quantized q = quantize_tokens(call.q, plan), k = quantize_tokens(call.k, plan);
  const Quantized v = quantize_channels(call.v, plan);
  const int64_t tokens = plan.tokens(), dim = call.q.size(3);
  std::vector<Job> jobs;
  for (int64_t i = 0; i < call.batch() * call.heads(); ++i) {
    auto codes = [&](const Quantized& x) {
      return kernel::RowsView{x.codes.const_data_ptr<uint8_t>() + i * tokens * dim, dim, nullptr};
    };
    kernel::AttentionHead head;
    head.queries = head.keys = tokens;
    head.dim = dim;
    head.q = codes(q);
    head.k = codes(k);
    head.v = codes(v);
    head.q_scale = q.token_scale.const_data_ptr<float>() + i * tokens;
    head.k_scale = k.token_scale.const_data_ptr<float>() + i * tokens;
    head.v_scale = v.scales.const_data_ptr<float>() + i * dim;
    head.softmax_scale = call.scale;
    const int64_t b = i / call.heads(), h = i % call.heads();
    jobs.push_back({head, out_of(call, b, h, plan.order().to_raster().data()), &plan.visibility(h)});
  }
  run_entry(call, kernel::attention_fwd(kernel::Dtype::kE4m3), jobs);
}

}  // namespace

AttentionResult attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Plan& plan,
                          const AttentionOptions& options) {
  constexpr const char* kOp = "attention";
  Call call = checked(q, k, v, options, kOp);
  for (const auto& [name, x] : {std::pair("q", &call.q), std::pair("k", &call.k)})
    TORCH_CHECK(x->size(1) == plan.tokens(), kOp, ": ", name, " must have the ", plan.tokens(), " tokens of grid ",
                pattern::to_string(plan.order().grid()), ", got ", x->size(1));
  TORCH_CHECK(plan.mask().heads() == 1 || plan.mask().heads() == call.heads(), kOp,
              ": the mask must be shared or have one entry per head (", call.heads(), "), got ", plan.mask().heads());
  allocate(call, q, k, v, options, kOp);
  if (options.precision == Precision::kE4m3) {
    run_e4m3(call, plan);
  } else if (plan.dense()) {
    const auto all = kernel::Visibility::dense(plan.tokens(), plan.tokens());
    run_plain(call, nullptr, [&](int64_t) { return &all; });
  } else {
    run_plain(call, plan.order().to_raster().data(), [&](int64_t head) { return &plan.visibility(head); });
  }
  return call.result;
}

AttentionResult dense_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                const AttentionOptions& options) {
  constexpr const char* kOp = "dense_attention";
  TORCH_CHECK(options.precision == Precision::kNone, kOp,
              ": quantisation needs a grid and a granularity; call attention with a plan");
  Call call = checked(q, k, v, options, kOp);
  allocate(call, q, k, v, options, kOp);
  const auto all = kernel::Visibility::dense(call.q.size(1), call.k.size(1));
  run_plain(call, nullptr, [&](int64_t) { return &all; });
  return call.result;
}

}  // namespace fpsa::ops
