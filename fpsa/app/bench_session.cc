#include "fpsa/app/bench_session.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <iostream>

#include "fpsa/app/failure.h"
#include "fpsa/app/interrupt.h"
#include "fpsa/app/machine.h"
#include "fpsa/base/check.h"

namespace fpsa::app::bench {
namespace {

constexpr const char* kExtentNames[] = {"quick", "default", "full"};

nlohmann::json about(const AttentionBenchOptions& options) {
  return {{"version", 1},
          {"bench", "attention"},
          {"fpsa_version", FPSA_VERSION},
          {"extent", kExtentNames[static_cast<int>(options.extent)]},
          {"only", options.only},
          {"threads", options.threads},
          {"machine", describe_machine()}};
}

std::string dims_text(const Shape& shape) {
  return join("/L", shape.tokens(), "/D", shape.dim);
}

template <class Predicate>
const Case* best_where(const std::vector<Case>& cases, const Predicate& belongs) {
  std::vector<const Case*> found;
  for (const Case& item : cases) {
    if (!belongs(item)) continue;
    if (item.failed()) return &item;
    found.push_back(&item);
  }
  return fastest(found);
}

}  // namespace

Sizes sizes_of(Extent extent) {
  Sizes sizes;
  if (extent == Extent::kQuick) {
    sizes.dense = {{{2, 6, 8}, 2}, {{3, 10, 13}}};
    sizes.primary = {3, 10, 13};
    sizes.tile = {2, 4, 4};
    sizes.windows = {{1, 2, 2}, {2, 2, 2}};
    sizes.paper = {3, 9, 16};
    sizes.paper_window = {6, 6, 1};
    sizes.kernel_grid = {2, 6, 8};
    sizes.dims = sizes.long_dims = {128, 64};
    sizes.window_seconds = 0.01;
    sizes.samples = 2;
    sizes.bandwidth_bytes = int64_t{1} << 22;
    return sizes;
  }
  // Lengths of Wan2.1: 33 frames of 256x256, a quarter of 81 of 480x832, and those; the paper's is 81 of 720x1280.
  sizes.dense = {{{9, 16, 16}, 4}, {{21, 15, 26}, 1}, {{21, 30, 52}, 1}};
  sizes.primary = {21, 30, 52};
  sizes.tile = {6, 8, 8};
  sizes.windows = {{2, 2, 3}, {4, 2, 2}, {2, 3, 4}};
  sizes.paper = {21, 45, 80};
  sizes.paper_window = {6, 6, 1};
  sizes.kernel_grid = {9, 16, 16};
  sizes.dims = {128, 64};
  sizes.long_dims = {128};
  sizes.window_seconds = 0.3;
  sizes.samples = extent == Extent::kFull ? 5 : 3;
  sizes.bandwidth_bytes = int64_t{1} << 28;
  if (extent == Extent::kFull) {
    sizes.dims = {128, 64, 80, 96, 256};
    sizes.long_dims = {128, 64};
  }
  return sizes;
}

Contender failing(const std::string& why) {
  return {[why](int) -> Sample { throw Error(why); }};
}

std::function<Sample(int repeats)> attempt(const std::function<std::function<Sample(int repeats)>()>& prepare) {
  try {
    return prepare();
  } catch (const Interrupted&) {
    throw;
  } catch (const std::exception& error) {
    return failing(message_of(error)).run;
  }
}

Session::Session(const AttentionBenchOptions& options)
    : options_(options), sizes_(sizes_of(options.extent)), report_(about(options)) {}

double Session::seconds() const {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
}

SamplePolicy Session::policy() const {
  // Disturbed windows are repeated only while the run stays within what its help text promises.
  constexpr std::chrono::seconds kRetry[] = {std::chrono::seconds(5), std::chrono::minutes(5), std::chrono::hours(1)};
  SamplePolicy policy;
  policy.window_seconds = sizes_.window_seconds;
  policy.retry_until = begin_ + kRetry[static_cast<int>(options_.extent)];
  policy.between = throw_if_interrupted;
  return policy;
}

std::shared_ptr<const ops::Plan> Session::plan(const pattern::Grid& grid, const std::string& pattern,
                                               const pattern::Grid& window) const {
  return ops::plan_for(grid, sizes_.tile, sizes_.tile, pattern, window);
}

Case Session::start_case(const std::string& group, const std::string& name, const Shape& shape) const {
  Case item;
  item.group = group;
  item.name = join(group, "/", name, dims_text(shape));
  item.grid = shape.grid;
  item.heads = shape.heads;
  item.dim = shape.dim;
  item.threads = options_.threads;
  return item;
}

Entrant Session::own(const std::string& group, const Shape& shape, const std::string& pattern,
                     const pattern::Grid& window, const Format& format) {
  const auto plan = this->plan(shape.grid, pattern, window);
  Entrant entrant;
  Case& item = entrant.result;
  item = start_case(group, plan->dense() ? format.name() : join(format.name(), "/sparse", pattern::to_string(window)),
                    shape);
  item.format = format.name();
  item.density = plan->density();
  item.operations = static_cast<double>(pattern::attention_flops(plan->mask(), plan->order(), shape.heads, shape.dim));
  ops::AttentionOptions how;
  how.precision = format.precision;
  how.smooth_keys = format.smooth_keys;
  entrant.contender.most = sizes_.samples;
  entrant.contender.run = attempt([&] {
    const auto inputs = make_inputs(shape, format.input);
    const auto call = [inputs, plan, how] { return ops::attention(inputs.q, inputs.k, inputs.v, *plan, how); };
    const auto result = call();
    item.kernel = result.kernel;
    item.isa = kernel::isa_name(result.isa);
    const auto expected = reference_rows(inputs, *plan, format);
    item.error = check_rows(rows_of(result.out, expected), expected, format.error_limit, item.name);
    return [call](int repeats) { return time_calls(repeats, call); };
  });
  return entrant;
}

void Session::start_peers() {
  if (peers_started_) return;
  peers_started_ = true;
  const auto start = [&](const char* name, const std::filesystem::path& library) {
    try {
      peers_.push_back(std::make_unique<Peer>(name, library, options_.threads));
    } catch (const Interrupted&) {
      throw;
    } catch (const std::exception& error) {
      missing_peers_.emplace_back(name, message_of(error));
    }
  };
  start(kTorchShipped, {});
  if (intel_processor()) return;  // MKL takes its fast path anyway
  const auto library = vendor_library();
  if (library.empty())
    missing_peers_.emplace_back(
        kTorchTuned, join(kTorchTuned,
                          ": expected lib/libfpsa_mkl_vendor.so in the folder above this program's, got nothing; "
                          "build it: cmake --build BUILD --target fpsa_mkl_vendor"));
  else
    start(kTorchTuned, library);
}

Entrant Session::torch_entrant(const Case& base, Peer& peer, const PeerCall& call, const Rows* expected) {
  Entrant entrant{base, {}};
  Case& item = entrant.result;
  entrant.contender.most = sizes_.samples;
  entrant.contender.run = attempt([&] {
    at::Tensor out;
    const int id = peer.prepare(call, expected ? expected->raster : std::vector<int64_t>(), expected ? &out : nullptr);
    if (expected) item.error = check_rows(out, *expected, format_of(kernel::Dtype::kBf16).error_limit, item.name);
    return [&peer, id](int repeats) { return peer.sample(id, repeats); };
  });
  return entrant;
}

std::vector<Entrant> Session::torch(const std::string& group, const Shape& shape, bool backward) {
  start_peers();
  std::vector<Entrant> entrants;
  Case base = start_case(group, "bf16", shape);
  base.format = "bf16";
  base.operations = (backward ? 10.0 : 4.0) * static_cast<double>(shape.tokens()) *
                    static_cast<double>(shape.tokens()) * static_cast<double>(shape.dim * shape.heads);
  std::optional<Rows> expected;
  if (!backward && !peers_.empty())
    expected = reference_rows(make_inputs(shape), *plan(shape.grid, "dense", pattern::kFullWindow),
                              format_of(kernel::Dtype::kBf16));
  const std::string name = base.name;
  for (const auto& peer : peers_) {
    // With one head the two layouts are the same memory.
    for (const bool heads_first : {false, true}) {
      if (shape.heads == 1 && heads_first) continue;
      base.kernel = peer->name();
      base.name = name + (peer->name() == kTorchShipped ? "/shipped" : "/tuned") +
                  (shape.heads == 1 ? ""
                   : heads_first    ? "/BHLD"
                                    : "/BLHD");
      entrants.push_back(torch_entrant(base, *peer, {shape, heads_first, backward}, expected ? &*expected : nullptr));
    }
  }
  for (const auto& [peer, why] : missing_peers_) {
    Entrant entrant{base, failing(why)};
    entrant.result.kernel = peer;
    entrant.result.name = name + (peer == kTorchShipped ? "/shipped" : "/tuned");
    entrants.push_back(std::move(entrant));
  }
  return entrants;
}

std::vector<Case> Session::race(std::vector<Entrant> entrants,
                                const std::function<void(std::vector<Case>&)>& annotate) {
  std::vector<Contender> contenders;
  for (const auto& entrant : entrants)
    contenders.push_back(entrant.contender);
  const auto timings = take_turns(contenders, policy());
  std::vector<Case> cases;
  for (size_t i = 0; i < entrants.size(); ++i) {
    Case item = std::move(entrants[i].result);
    item.timing = timings[i];
    judge(item);
    cases.push_back(std::move(item));
  }
  annotate(cases);
  for (const Case& item : cases)
    report_.add(item);
  for (const auto& peer : peers_)
    peer->release();
  return cases;
}

const PeakRate& Session::peak(const PeakLoop& loop, int threads) {
  const auto key = std::pair(loop.name, threads);
  if (const auto known = peaks_.find(key); known != peaks_.end()) return known->second;
  return peaks_.emplace(key, measure_peak(loop, threads, policy())).first->second;
}

void Session::judge(Case& item) {
  const auto judge = [&](const auto& entries) {
    for (const auto& entry : entries) {
      if (entry.name != item.kernel || item.rate() <= 0) continue;
      const PeakLoop* loop = peak_loop_of(entry.isa, entry.dtype);
      if (!loop) continue;
      const PeakRate& limit = peak(*loop, item.threads);
      item.peak_fraction = item.rate() / limit.rate;
      item.peak_disturbed = limit.timing.disturbed;
    }
  };
  judge(kernel::attention_fwd_entries());
  judge(kernel::attention_bwd_entries());
}

bool is_torch(const Case& item) {
  return item.kernel == kTorchShipped || item.kernel == kTorchTuned;
}

const Case* best_torch(const std::vector<Case>& cases) {
  return best_where(cases, is_torch);
}

const Case* shipped_torch(const std::vector<Case>& cases) {
  return best_where(cases, [](const Case& item) { return item.kernel == kTorchShipped; });
}

}  // namespace fpsa::app::bench
