#include "fpsa/ops/attention_grad.h"

#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include "fpsa/kernel/table.h"
#include "fpsa/ops/cuda_attention.h"
#include "fpsa/ops/environment.h"
#include "fpsa/ops/fork.h"
#include "fpsa/ops/quantize.h"
#include "fpsa/ops/views.h"

namespace fpsa::ops {
namespace {

// Shares of one head's blocks of keys: enough to keep threads busy, few enough that zeroing and adding up their sums
// of dQ stays below a few percent. A share has at least two blocks.
constexpr int64_t kMaxShares = 8, kBlocksPerShare = 2;
// Packed queries and sums of dQ of several heads exist at a time, up to about this much.
constexpr int64_t kWaveBytes = int64_t{512} << 20;
constexpr int64_t kRowsPerTask = 512;  // of packing and of finishing; a multiple of 64

// One (batch, head) and the blocks of keys to run for it.
struct Job {
  kernel::AttentionBwdHead head;
  kernel::AttentionGrads grads;
  const kernel::Visibility* transposed;
  std::vector<size_t> borders;  // of the shares of its blocks
};

int64_t share_count(const kernel::Visibility& transposed) {
  return std::clamp<int64_t>(static_cast<int64_t>(transposed.blocks().size()) / kBlocksPerShare, 1, kMaxShares);
}

// First block of every share, and the end: shares of nearly equal numbers of pairs.
std::vector<size_t> share_borders(std::span<const kernel::QueryBlock> blocks, int64_t shares) {
  std::vector<int64_t> pairs = {0};
  for (const auto& block : blocks) {
    int64_t queries = 0;
    for (int32_t r = 0; r < block.range_count; ++r)
      queries += block.ranges[r].end - block.ranges[r].begin;
    pairs.push_back(pairs.back() + (block.end - block.begin) * (queries + 1));  // + 1: packing a key costs as well
  }
  std::vector<size_t> borders = {0};
  for (int64_t s = 1; s < shares; ++s) {
    const auto at = std::ranges::lower_bound(pairs, pairs.back() * s / shares);
    borders.push_back(static_cast<size_t>(at - pairs.begin()));
  }
  borders.push_back(blocks.size());
  return borders;
}

template <class Function>
void parallel(int64_t n, int64_t scratch_bytes, const Function& fn) {
  parallel_for(0, n, 1, [&](int64_t begin, int64_t end) {
    const auto scratch = at::empty({std::max<int64_t>(scratch_bytes, 64)}, at::kByte);
    for (int64_t i = begin; i < end; ++i)
      fn(i, scratch.mutable_data_ptr());
  });
}

// Buffers for the heads of one wave.
struct Wave {
  at::Tensor packed, sums;
  int64_t packed_stride, sum_stride, shares;

  uint8_t* packed_of(int64_t job) const { return packed.mutable_data_ptr<uint8_t>() + job * packed_stride; }
  uint8_t* sum_of(int64_t job, int64_t share) const {
    return sums.mutable_data_ptr<uint8_t>() + (job * shares + share) * sum_stride;
  }
};

void run_wave(const kernel::AttentionBwd& kernel, const Job* jobs, int64_t count, const Wave& wave) {
  const int64_t queries = jobs[0].head.forward.queries, dim = jobs[0].head.forward.dim;
  const int64_t tasks = (queries + kRowsPerTask - 1) / kRowsPerTask;
  auto rows = [&](int64_t task) {
    const int64_t begin = task * kRowsPerTask;
    return std::pair(begin, std::min(begin + kRowsPerTask, queries));
  };
  parallel(count * tasks, 0, [&](int64_t i, void*) {
    const auto [begin, end] = rows(i % tasks);
    kernel.pack(jobs[i / tasks].head, begin, end, wave.packed_of(i / tasks));
  });
  parallel(count * wave.shares, kernel.scratch_bytes(dim), [&](int64_t i, void* scratch) {
    const int64_t j = i / wave.shares, share = i % wave.shares;
    const auto blocks = jobs[j].transposed->blocks();
    const auto& borders = jobs[j].borders;
    std::memset(wave.sum_of(j, share), 0, static_cast<size_t>(kernel.sum_bytes(queries, dim)));
    for (size_t b = borders[static_cast<size_t>(share)]; b < borders[static_cast<size_t>(share) + 1]; ++b)
      kernel.run(jobs[j].head, wave.packed_of(j), blocks[b], jobs[j].grads, wave.sum_of(j, share), scratch);
  });
  parallel(count * tasks, 0, [&](int64_t i, void*) {
    const auto [begin, end] = rows(i % tasks);
    const int64_t j = i / tasks;
    kernel.finish(jobs[j].head, {wave.sum_of(j, 0), wave.sum_stride, static_cast<int32_t>(wave.shares)}, begin, end,
                  jobs[j].grads);
  });
}

void run_jobs(const kernel::AttentionBwd& kernel, std::vector<Job> jobs) {
  if (jobs.empty()) return;
  const int64_t queries = jobs[0].head.forward.queries, dim = jobs[0].head.forward.dim;
  auto line = [](int64_t bytes) { return std::max<int64_t>((bytes + 63) / 64 * 64, 64); };
  const int64_t count = static_cast<int64_t>(jobs.size());
  Wave wave;
  wave.packed_stride = line(kernel.packed_bytes(queries, dim));
  wave.sum_stride = line(kernel.sum_bytes(queries, dim));
  wave.shares = 1;
  for (const Job& job : jobs)
    wave.shares = std::max(wave.shares, share_count(*job.transposed));
  for (size_t i = 0; i < jobs.size(); ++i) {
    // Heads with a shared mask are cut alike.
    const bool same = i > 0 && jobs[i].transposed == jobs[i - 1].transposed;
    jobs[i].borders = same ? jobs[i - 1].borders : share_borders(jobs[i].transposed->blocks(), wave.shares);
  }
  const int64_t bytes = wave.packed_stride + wave.shares * wave.sum_stride;
  const int64_t busy = (at::get_num_threads() + wave.shares - 1) / wave.shares;  // heads that occupy every thread
  const int64_t heads = std::clamp(std::max(kWaveBytes / bytes, busy), int64_t{1}, count);
  wave.packed = at::empty({heads * wave.packed_stride}, at::kByte);
  wave.sums = at::empty({heads * wave.shares * wave.sum_stride}, at::kByte);
  for (int64_t first = 0; first < count; first += heads)
    run_wave(kernel, jobs.data() + first, std::min(heads, count - first), wave);
}

// The tensors of one call in [B,L,H,D] order, checked.
struct Call {
  at::Tensor q, k, v, out, d_out, lse, row_max;
  AttentionGradients result;
  at::Tensor d_q, d_k, d_v;  // views of the result
  float scale;
  kernel::Isa isa;  // of the forward: another one might code P otherwise

  int64_t batch() const { return q.size(0); }
  int64_t heads() const { return q.size(2); }
};

// Shapes of q, k and v were checked by the forward; what came since is checked here.
Call checked(const at::Tensor& d_out, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
             const AttentionResult& forward, const AttentionOptions& options, const char* op) {
  apply_environment();
  check_has_backward(options, op);
  const bool coded = options.precision == Precision::kE4m3;
  const at::Tensor& out = coded ? forward.exact : forward.out;
  for (const auto& [name, x] :
       {std::pair("q", &q), {"k", &k}, {"v", &v}, {"d_out", &d_out}, {coded ? "exact" : "out", &out}})
    check_tokens(*x, op, name, options.heads_first);
  check_no_gradient(op, {q, k, v, d_out});
  for (const auto& [name, x] : {std::pair("d_out", &d_out), {coded ? "exact" : "out", &out}})
    TORCH_CHECK_VALUE(x->sizes() == q.sizes(), op, ": ", name, " must have q's shape ", q.sizes(), ", got ",
                      x->sizes());
  Call call;
  call.isa = forward.isa;
  auto view = [&](const at::Tensor& x) { return tokens_first(x, options.heads_first); };
  call.q = view(q);
  call.k = view(k);
  call.v = view(v);
  call.out = view(out);
  call.d_out = view(d_out);
  for (const auto& [name, x] : {std::pair("k", &call.k), {"v", &call.v}})
    TORCH_CHECK_VALUE(x->size(0) == call.q.size(0) && x->size(1) == call.k.size(1) && x->size(2) == call.q.size(2) &&
                          x->size(3) == call.q.size(3) && x->scalar_type() == call.q.scalar_type(),
                      op, ": ", name, " must have the batch, heads, head dim and dtype of q and the tokens of k, got ",
                      x->sizes(), " ", x->scalar_type());
  const std::vector<int64_t> rows = {call.batch(), call.heads(), call.q.size(1)};
  auto statistics = [&](const at::Tensor& x, const char* name) {
    TORCH_CHECK_VALUE(x.defined() && x.sizes() == rows && x.scalar_type() == at::kFloat && x.is_contiguous(), op, ": ",
                      name, " must be the contiguous float32 ", rows,
                      " of the forward; ask for it with saving(options)");
    return x;
  };
  call.lse = statistics(forward.lse, "lse");
  if (coded) call.row_max = statistics(forward.row_max, "row_max");
  call.scale = static_cast<float>(options.scale.value_or(1.0 / std::sqrt(static_cast<double>(call.q.size(3)))));
  call.result = {at::empty(q.sizes(), q.options()), at::empty(k.sizes(), k.options()),
                 at::empty(v.sizes(), v.options())};
  auto target = [&](const at::Tensor& x) { return options.heads_first ? x.transpose(1, 2) : x; };
  call.d_q = target(call.result.q);
  call.d_k = target(call.result.k);
  call.d_v = target(call.result.v);
  return call;
}

// What every job has; index: position -> raster, or null where the order does not matter.
Job job_of(const Call& call, int64_t i, const int32_t* index, const kernel::Visibility* transposed) {
  const int64_t b = i / call.heads(), h = i % call.heads(), row = i * call.q.size(1);
  Job job{};
  job.transposed = transposed;
  auto& head = job.head;
  head.forward.queries = call.q.size(1);
  head.forward.keys = call.k.size(1);
  head.forward.dim = call.q.size(3);
  head.forward.softmax_scale = call.scale;
  head.out = rows_of(call.out, b, h, index);
  head.out_dtype = kernel_dtype(call.out.scalar_type());
  head.d_out = rows_of(call.d_out, b, h, index);
  head.d_out_dtype = kernel_dtype(call.d_out.scalar_type());
  head.lse = call.lse.const_data_ptr<float>() + row;
  if (call.row_max.defined()) head.row_max = call.row_max.const_data_ptr<float>() + row;
  auto target = [&](const at::Tensor& x, void*& data, int64_t& stride) {
    const auto view = rows_of(x, b, h, nullptr);
    data = const_cast<void*>(view.data);
    stride = view.stride;
  };
  target(call.d_q, job.grads.d_q, job.grads.q_stride);
  target(call.d_k, job.grads.d_k, job.grads.k_stride);
  target(call.d_v, job.grads.d_v, job.grads.v_stride);
  job.grads.dtype = kernel_dtype(call.d_q.scalar_type());
  job.grads.q_index = job.grads.k_index = index;
  return job;
}

template <class TransposedOf>
void run_plain(const Call& call, const int32_t* index, const TransposedOf& transposed_of) {
  std::vector<Job> jobs;
  for (int64_t i = 0; i < call.batch() * call.heads(); ++i) {
    const int64_t b = i / call.heads(), h = i % call.heads();
    jobs.push_back(job_of(call, i, index, transposed_of(h)));
    auto& forward = jobs.back().head.forward;
    forward.q = rows_of(call.q, b, h, index);
    forward.k = rows_of(call.k, b, h, index);
    forward.v = rows_of(call.v, b, h, index);
  }
  run_jobs(kernel::attention_bwd_at(kernel_dtype(call.q.scalar_type()), call.isa).kernel, std::move(jobs));
}

template <class TransposedOf>
void run_e4m3(const Call& call, const Plan& plan, const TransposedOf& transposed_of) {
  const Quantized q = quantize_tokens(call.q, plan), k = quantize_tokens(call.k, plan);
  const Quantized v = quantize_channels(call.v, plan);
  const int64_t tokens = plan.tokens(), dim = call.q.size(3);
  std::vector<Job> jobs;
  for (int64_t i = 0; i < call.batch() * call.heads(); ++i) {
    jobs.push_back(job_of(call, i, plan.order().to_raster().data(), transposed_of(i % call.heads())));
    auto codes = [&](const Quantized& x) {
      return kernel::RowsView{x.codes.const_data_ptr<uint8_t>() + i * tokens * dim, dim, nullptr};
    };
    auto& forward = jobs.back().head.forward;
    forward.q = codes(q);
    forward.k = codes(k);
    forward.v = codes(v);
    forward.q_scale = q.token_scale.const_data_ptr<float>() + i * tokens;
    forward.k_scale = k.token_scale.const_data_ptr<float>() + i * tokens;
    forward.v_scale = v.scales.const_data_ptr<float>() + i * dim;
  }
  run_jobs(kernel::attention_bwd_at(kernel::Dtype::kE4m3, call.isa).kernel, std::move(jobs));
}

// A C++ object among the saved data of a step of autograd.
template <class T>
struct Held : torch::CustomClassHolder {
  explicit Held(T v) : value(std::move(v)) {}
  T value;
};

class Differentiable : public torch::autograd::Function<Differentiable> {
 public:
  struct Arguments {
    std::shared_ptr<const Plan> plan;  // null: dense, without a grid
    AttentionOptions options;
    kernel::Isa isa = kernel::Isa::kReference;  // set by the forward
  };

  // What is not differentiable goes out through `result`.
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& q, const at::Tensor& k,
                            const at::Tensor& v, const Arguments& arguments, AttentionResult* result) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    const auto options = saving(arguments.options);
    *result = arguments.plan ? attention(q, k, v, *arguments.plan, options) : dense_attention(q, k, v, options);
    const bool coded = options.precision == Precision::kE4m3;
    context->save_for_backward({q, k, v, coded ? result->exact : result->out, result->lse, result->row_max});
    Arguments kept = arguments;
    kept.isa = result->isa;
    context->saved_data["arguments"] = c10::IValue::make_capsule(c10::make_intrusive<Held<Arguments>>(std::move(kept)));
    return result->out;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list d_outs) {
    TORCH_CHECK(!c10::GradMode::is_enabled(),
                "differentiable_attention: has no second derivative; call backward without create_graph, or use "
                "composed_attention in float64 for a check of gradients");
    const auto saved = context->get_saved_variables();
    const auto held = context->saved_data["arguments"].toCapsule();
    const auto& [plan, options, isa] = static_cast<Held<Arguments>&>(*held).value;
    AttentionResult forward;
    forward.isa = isa;
    forward.out = forward.exact = saved[3];
    forward.lse = saved[4];
    forward.row_max = saved[5];
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    const auto grads = plan ? attention_backward(d_outs[0], saved[0], saved[1], saved[2], forward, *plan, options)
                            : dense_attention_backward(d_outs[0], saved[0], saved[1], saved[2], forward, options);
    return {grads.q, grads.k, grads.v, {}, {}};
  }
};

AttentionResult differentiable(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                               std::shared_ptr<const Plan> plan, const AttentionOptions& options) {
  check_has_backward(options, "differentiable_attention");
  TORCH_CHECK_VALUE(!options.out,
                    "differentiable_attention: writes no tensor of the caller's; leave options.out empty");
  AttentionResult result;
  auto out = Differentiable::apply(q, k, v, Differentiable::Arguments{std::move(plan), options, {}}, &result);
  result.out = std::move(out);
  return result;
}

}  // namespace

void check_has_backward(const AttentionOptions& options, const char* op) {
  TORCH_CHECK_VALUE(options.precision != Precision::kInt8, op,
                    ": INT8 attention has no gradients; choose precision none or e4m3, or compute under NoGradGuard");
  TORCH_CHECK_VALUE(!options.smooth_keys, op,
                    ": smooth_keys is for inference; leave it off where gradients are wanted");
}

AttentionOptions saving(AttentionOptions options) {
  options.want_lse = true;
  options.want_row_max = options.want_exact = options.precision == Precision::kE4m3;
  return options;
}

AttentionGradients attention_backward(const at::Tensor& d_out, const at::Tensor& q, const at::Tensor& k,
                                      const at::Tensor& v, const AttentionResult& forward, const Plan& plan,
                                      const AttentionOptions& options) {
  constexpr const char* kOp = "attention_backward";
  if (q.device().is_cuda()) return cuda_attention_backward(d_out, q, k, v, forward, plan, options);
  const Call call = checked(d_out, q, k, v, forward, options, kOp);
  check_grid(plan, call.q.size(1), kOp, "q");
  check_grid(plan, call.k.size(1), kOp, "k");
  check_mask_heads(plan, call.heads(), kOp);
  if (options.precision == Precision::kNone && plan.dense()) {
    const auto all = kernel::Visibility::dense(plan.tokens(), plan.tokens());
    run_plain(call, nullptr, [&](int64_t) { return &all; });
    return call.result;
  }
  auto transposed_of = [&](int64_t head) { return &plan.transposed(head); };
  if (options.precision == Precision::kE4m3)
    run_e4m3(call, plan, transposed_of);
  else
    run_plain(call, plan.order().to_raster().data(), transposed_of);
  return call.result;
}

AttentionGradients dense_attention_backward(const at::Tensor& d_out, const at::Tensor& q, const at::Tensor& k,
                                            const at::Tensor& v, const AttentionResult& forward,
                                            const AttentionOptions& options) {
  constexpr const char* kOp = "dense_attention_backward";
  TORCH_CHECK_VALUE(options.precision == Precision::kNone, kOp,
                    ": quantisation needs a grid and a granularity; call attention_backward with a plan");
  if (q.device().is_cuda()) return cuda_dense_attention_backward(d_out, q, k, v, forward, options);
  const Call call = checked(d_out, q, k, v, forward, options, kOp);
  const auto all = kernel::Visibility::dense(call.k.size(1), call.q.size(1));
  run_plain(call, nullptr, [&](int64_t) { return &all; });
  return call.result;
}

AttentionResult differentiable_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                         std::shared_ptr<const Plan> plan, const AttentionOptions& options) {
  TORCH_CHECK(plan, "differentiable_attention: plan must not be null");
  return differentiable(q, k, v, std::move(plan), options);
}

AttentionResult differentiable_dense_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                               const AttentionOptions& options) {
  return differentiable(q, k, v, nullptr, options);
}

}  // namespace fpsa::ops
