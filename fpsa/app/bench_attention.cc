// The groups of cases, each a function on the session; a new one is a function and a line of kGroups.
#include "fpsa/app/bench_attention.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <iostream>

#include "fpsa/app/bench_backward.h"
#include "fpsa/app/bench_session.h"
#include "fpsa/app/failure.h"
#include "fpsa/app/interrupt.h"
#include "fpsa/app/machine.h"
#include "fpsa/base/check.h"
#include "fpsa/io/atomic_file.h"

namespace fpsa::app::bench {
namespace {

using kernel::Dtype;

// What the machine can do: every instruction on one and on all threads, memory.
void bench_machine(Session& session) {
  const int threads = session.options().threads;
  for (const PeakLoop& loop : peak_loops()) {
    if (!loop.supported()) continue;
    for (const int n : threads > 1 ? std::vector{1, threads} : std::vector{1}) {
      const auto& peak = session.peak(loop, n);
      Case item;
      item.group = "machine";
      item.name = join("machine/peak/", loop.name, "/threads", n);
      item.threads = n;
      item.operations = peak.rate * peak.timing.seconds;
      item.timing = peak.timing;
      session.report().add(item);
    }
  }
  const auto bandwidth = measure_bandwidth(threads, session.sizes().bandwidth_bytes, session.policy());
  for (const bool copy : {false, true}) {
    Case item;
    item.group = "machine";
    item.name = copy ? "machine/memory/copy" : "machine/memory/read";
    item.threads = threads;
    item.timing = copy ? bandwidth.copy_timing : bandwidth.read_timing;
    item.more["GB/s"] = 1e-9 * (copy ? bandwidth.copy : bandwidth.read);
    session.report().add(item);
  }
}

// Each entry's rate as a multiple of that of the reference and of the next lower level. Cases come lowest level first.
void compare_rungs(std::vector<Case>& cases) {
  for (const Format& format : formats()) {
    const Case *reference = nullptr, *below = nullptr;
    for (Case& item : cases) {
      const auto entry =
          std::ranges::find(kernel::attention_fwd_entries(), item.kernel, &kernel::AttentionFwdEntry::name);
      if (entry->dtype != format.dtype || item.failed()) continue;
      if (reference) {
        item.more["vs_reference"] = item.rate() / reference->rate();
        item.more["vs_lower"] = item.rate() / below->rate();
      } else {
        reference = &item;
      }
      below = &item;
    }
  }
}

// The kernel table, entry by entry, below the operators: one thread, one head, packing included. The reference runs
// one block of rows only.
void bench_kernels(Session& session) {
  for (const int64_t dim : session.sizes().dims) {
    const Shape shape{session.sizes().kernel_grid, 1, dim};
    const auto plan = session.plan(shape.grid, "dense", pattern::kFullWindow);
    std::vector<Entrant> entrants;
    for (const auto& entry : kernel::attention_fwd_entries()) {
      if (entry.isa > kernel::current_isa()) continue;
      const Format& format = format_of(entry.dtype);
      const auto inputs = make_inputs(shape, format.input);
      const auto head = kernel_head(inputs, *plan, format);
      auto blocks = plan->visibility(0).blocks();
      if (entry.isa == kernel::Isa::kReference) blocks = blocks.first(1);
      const auto memory = [](int64_t bytes) { return at::empty({std::max<int64_t>(bytes, 64)}, at::kByte); };
      const auto packed = memory(entry.kernel.packed_bytes(shape.tokens(), dim));
      const auto scratch = memory(entry.kernel.scratch_bytes(shape.tokens(), dim));
      const auto out = at::empty({shape.tokens(), dim}, at::kFloat);
      const auto call = [=, run = entry.kernel] {
        kernel::AttentionOut to;
        to.out = out.mutable_data_ptr();
        to.stride = dim;
        run.pack(head.head, 0, head.head.keys, packed.mutable_data_ptr());
        for (const auto& block : blocks)
          run.run(head.head, packed.const_data_ptr(), block, to, scratch.mutable_data_ptr());
      };
      Entrant entrant;
      entrant.result = session.start_case("kernels", std::string(entry.name), shape);
      entrant.result.kernel = entry.name;
      entrant.result.format = format.name();
      entrant.result.isa = kernel::isa_name(entry.isa);
      entrant.result.threads = 1;
      entrant.result.operations = 4.0 * static_cast<double>(blocks.back().end * shape.tokens() * dim);
      entrant.contender.most = 2;
      entrant.contender.run = attempt([&]() -> std::function<Sample(int)> {
        // The reference is what the others are held against.
        if (entry.isa != kernel::Isa::kReference) {
          call();
          const auto expected = reference_rows(inputs, *plan, format);
          const auto got = out.index_select(0, at::tensor(at::ArrayRef<int64_t>(expected.positions)));
          entrant.result.error = check_rows(got, expected, format.error_limit, entrant.result.name);
        }
        return [call](int repeats) { return time_calls(repeats, call); };
      });
      entrants.push_back(std::move(entrant));
    }
    session.race(std::move(entrants), compare_rungs);
  }
}

// Our case of a format in a race with one problem; null when this build has no such format.
const Case* ours(const std::vector<Case>& cases, std::string_view format) {
  const auto found =
      std::ranges::find_if(cases, [&](const Case& item) { return item.format == format && !is_torch(item); });
  return found == cases.end() ? nullptr : &*found;
}

void peak_figure(Report& report, const std::string& key, const Case* item) {
  if (!item) return report.no_figure(key, "no kernel of this format in this build");
  if (item->failed()) return report.no_figure(key, join(item->name, ": ", item->timing.failure));
  if (!item->peak_fraction) return report.no_figure(key, join("no peak loop for ", item->kernel));
  report.figure(key, *item->peak_fraction, item->timing.disturbed || item->peak_disturbed);
}

// Every length and head dim: our formats and torch.
void bench_dense(Session& session) {
  auto& report = session.report();
  for (const int64_t dim : session.sizes().dims) {
    for (Shape shape : session.sizes().dense) {
      shape.dim = dim;
      std::vector<Entrant> entrants;
      for (const Format& format : formats())
        if (format.dtype != Dtype::kF32)
          entrants.push_back(session.own("dense", shape, "dense", pattern::kFullWindow, format));
      std::ranges::move(session.torch("dense", shape), std::back_inserter(entrants));
      const auto cases = session.race(std::move(entrants));
      if (shape.grid != session.sizes().primary || dim != 128) continue;
      const Case* bf16 = ours(cases, "bf16");
      peak_figure(report, "dense_bf16_peak_fraction", bf16);
      peak_figure(report, "int8_peak_fraction", ours(cases, "int8"));
      report.ratio("dense_bf16_vs_torch_best", best_torch(cases), bf16);
      report.ratio("dense_bf16_vs_torch_shipped", shipped_torch(cases), bf16);
      report.ratio("e4m3_vs_bf16", bf16, ours(cases, "e4m3"));
    }
  }
}

// torch's number of threads while it lives.
class ThreadCount {
 public:
  explicit ThreadCount(int threads) : before_(at::get_num_threads()) { at::set_num_threads(threads); }
  ~ThreadCount() { at::set_num_threads(before_); }
  ThreadCount(const ThreadCount&) = delete;
  ThreadCount& operator=(const ThreadCount&) = delete;

 private:
  int before_;
};

// One thread and all of them: attention, and the peak loop of its instruction as the yardstick.
void bench_scaling(Session& session) {
  auto& report = session.report();
  const int threads = session.options().threads;
  if (threads == 1) {
    for (const char* key : {"threads_scaling", "peak_threads_scaling"})
      report.no_figure(key, "one thread only; --threads 2 or more measures it");
    return;
  }
  const Shape shape{session.sizes().primary};
  const auto& bf16 = format_of(Dtype::kBf16);
  auto all = session.own("scaling", shape, "dense", pattern::kFullWindow, bf16);
  auto one = all;
  all.result.name += join("/threads", threads);
  one.result.name += "/threads1";
  one.result.threads = 1;
  one.contender.run = [run = all.contender.run](int repeats) {
    const ThreadCount alone(1);
    return run(repeats);
  };
  const auto cases = session.race({one, all});
  report.ratio("threads_scaling", &cases[0], &cases[1]);
  const auto& entry = kernel::attention_fwd(Dtype::kBf16);
  if (const PeakLoop* loop = peak_loop_of(entry.isa, entry.dtype)) {
    const auto &alone = session.peak(*loop, 1), &together = session.peak(*loop, threads);
    report.figure("peak_threads_scaling", together.rate / alone.rate,
                  alone.timing.disturbed || together.timing.disturbed);
  } else {
    report.no_figure("peak_threads_scaling", join("the selected kernel ", entry.name, " has no peak loop"));
  }
}

// Sliding tiles of several densities against our own dense attention. Efficiency 1: all the speed-up that the
// density promises.
void bench_sparse(Session& session) {
  const auto& sizes = session.sizes();
  for (const int64_t dim : sizes.long_dims) {
    const Shape shape{sizes.primary, 1, dim};
    std::vector<Entrant> entrants;
    for (const Format& format : formats()) {
      if (format.dtype == Dtype::kF32) continue;
      entrants.push_back(session.own("sparse", shape, "dense", pattern::kFullWindow, format));
      for (const auto& window : sizes.windows)
        entrants.push_back(session.own("sparse", shape, "sta", window, format));
    }
    const auto cases = session.race(std::move(entrants), [](std::vector<Case>& raced) {
      const Case* dense = nullptr;
      for (Case& item : raced) {
        if (item.density == 1)
          dense = &item;
        else if (!item.failed() && !dense->failed())
          item.more["efficiency"] = dense->timing.seconds / item.timing.seconds * item.density;
      }
    });
    if (dim != 128) continue;
    // The summary has the least of the BF16 ones, which are the first.
    const Case* worst = nullptr;
    for (size_t i = 1; i <= sizes.windows.size(); ++i) {
      if (cases[i].failed()) {
        worst = &cases[i];
        break;
      }
      if (!worst || cases[i].more.value("efficiency", 0.0) < worst->more.value("efficiency", 0.0)) worst = &cases[i];
    }
    session.report().ratio("sparse_efficiency", &cases[0], worst, worst->density);
  }
}

// The paper's own case, 81 frames of 720x1280 at a tenth of the pairs, against torch's dense attention.
void bench_paper(Session& session) {
  const auto& sizes = session.sizes();
  for (const int64_t dim : sizes.long_dims) {
    const Shape shape{sizes.paper, 1, dim};
    std::vector<Entrant> entrants;
    for (const Format& format : formats())
      if (format.dtype != Dtype::kF32)
        entrants.push_back(session.own("paper", shape, "sta", sizes.paper_window, format));
    const size_t sparse = entrants.size();
    for (const Format& format : formats())
      if (format.dtype == Dtype::kBf16 || (format.eight_bit() && session.options().extent == Extent::kFull))
        entrants.push_back(session.own("paper", shape, "dense", pattern::kFullWindow, format));
    std::ranges::move(session.torch("paper", shape), std::back_inserter(entrants));
    const auto cases = session.race(std::move(entrants));
    if (dim != 128) continue;
    std::vector<const Case*> eight_bit;
    for (size_t i = 0; i < sparse; ++i)
      if (!cases[i].name.starts_with("paper/bf16")) eight_bit.push_back(&cases[i]);
    session.report().ratio("paper_case_vs_torch_best", best_torch(cases), fastest(eight_bit));
  }
}

// The fused pre-pass of an 8-bit kernel as a share of the whole call. It has norm and rotation to do as well, which the
// call that it is held against has not.
void bench_prepass(Session& session) {
  const auto& sizes = session.sizes();
  const Shape shape{sizes.paper};
  const auto plan = session.plan(shape.grid, "sta", sizes.paper_window);
  for (const Format& format : formats()) {
    if (!format.eight_bit()) continue;
    const auto& entry = kernel::prepass(format.dtype);
    auto whole = session.own("prepass", shape, "sta", sizes.paper_window, format);
    Entrant alone{whole.result, {}};
    alone.result.name += "/prepass";
    alone.result.kernel = entry.name;
    alone.result.isa = kernel::isa_name(entry.isa);
    alone.result.operations = 0;
    alone.result.error.reset();
    alone.contender.most = sizes.samples;
    alone.contender.run = attempt([&] {
      const PrepassCall call(make_inputs(shape, format.input), plan, format);
      call.run();
      call.check(alone.result.name);
      return [call](int repeats) { return time_calls(repeats, [&] { call.run(); }); };
    });
    const auto cases = session.race({alone, whole}, [](std::vector<Case>& raced) {
      if (!raced[0].failed() && !raced[1].failed())
        raced[0].more["share"] = raced[0].timing.seconds / raced[1].timing.seconds;
    });
    if (format.dtype == Dtype::kE4m3) session.report().ratio("prepass_share", &cases[0], &cases[1]);
  }
}

// Multiply-adds that the selected BF16 kernel executes / visible ones - 1: it rounds the rows of a block and the keys
// at the ends of a range to whole units.
double executed_waste(const kernel::Visibility& visibility, const WorkUnit& unit) {
  double executed = 0, visible = 0;
  for (const auto& block : visibility.blocks()) {
    const int64_t rows = block.end - block.begin;
    int64_t keys = 0, touched = 0, last_unit = -1;
    for (int32_t r = 0; r < block.range_count; ++r) {
      const auto& range = block.ranges[r];
      const int64_t first = range.begin / unit.keys, last = (range.end - 1) / unit.keys;
      keys += range.end - range.begin;
      touched += last - std::max(first, last_unit + 1) + 1;
      last_unit = last;
    }
    executed += static_cast<double>((rows + unit.rows - 1) / unit.rows * unit.rows * touched * unit.keys);
    visible += static_cast<double>(rows * keys);
  }
  return visible > 0 ? executed / visible - 1 : 0;
}

// What is computed for nothing when tiles do not divide the grid: with all tiles visible, and under sparse masks. The
// summary has the bound that holds for every kernel: partial blocks of kMaxQueryRows rows and 64 keys counted as whole.
void bench_waste(Session& session) {
  constexpr pattern::BlockShape kBlock = {kernel::kMaxQueryRows, 64, true};
  const auto& sizes = session.sizes();
  const auto& entry = kernel::attention_fwd(Dtype::kBf16);
  double worst = 0;
  const auto add = [&](const pattern::Grid& grid, const std::string& pattern, const pattern::Grid& window) {
    const auto plan = session.plan(grid, pattern, window);
    Case item;
    item.group = "waste";
    item.name = join("waste/", pattern::to_string(grid), plan->dense() ? "" : "/window",
                     plan->dense() ? "" : pattern::to_string(window));
    item.kernel = entry.name;
    item.grid = grid;
    item.density = plan->density();
    item.more["waste"] = executed_waste(plan->visibility(0), work_unit_of(entry));
    if (plan->dense()) {
      const double bound = pattern::waste(plan->mask(), plan->order(), kBlock);
      item.more["waste_bound"] = bound;
      worst = std::max(worst, bound);
    }
    session.report().add(item);
  };
  for (const auto& grid : {sizes.primary, sizes.paper})
    add(grid, "dense", pattern::kFullWindow);
  session.report().figure("ragged_waste", worst, false);
  for (const auto& window : sizes.windows)
    add(sizes.primary, "sta", window);
  add(sizes.paper, "sta", sizes.paper_window);
}

struct Group {
  const char* name;
  void (*run)(Session&);
};
constexpr Group kGroups[] = {
    {"machine", bench_machine}, {"waste", bench_waste},     {"kernels", bench_kernels},
    {"dense", bench_dense},     {"scaling", bench_scaling}, {"sparse", bench_sparse},
    {"prepass", bench_prepass}, {"paper", bench_paper},     {"backward", bench_backward},
};

void print_head(const AttentionBenchOptions& options) {
  const auto machine = describe_machine();
  std::cout << "fpsa " << FPSA_VERSION << ", torch " << machine["torch"].get<std::string>() << '\n'
            << machine["processor"].get<std::string>() << ", " << options.threads << " of "
            << machine["logical_processors"] << " processors, ISA " << kernel::isa_name(kernel::current_isa())
            << "\nkernels";
  for (const auto& name : kernel::selected())
    std::cout << ' ' << name;
  std::cout
      << "\nmedians of wall time; +- is half the range; a sample counts if other processes used under 5% of it\n\n";
}

}  // namespace

std::vector<std::string> attention_groups() {
  std::vector<std::string> names;
  for (const Group& group : kGroups)
    names.emplace_back(group.name);
  return names;
}

void run_attention_bench(const AttentionBenchOptions& options) {
  Session session(options);
  print_head(options);
  auto& report = session.report();
  report.figure("isa", kernel::isa_name(kernel::current_isa()), false);
  for (const Group& group : kGroups) {
    if (!options.only.empty() && options.only != group.name) continue;
    try {
      group.run(session);
    } catch (const Interrupted&) {
      throw;
    } catch (const std::exception& error) {
      report.failure(join(group.name, ": ", message_of(error)));
    }
  }
  report.print_summary();
  if (!options.json.empty()) {
    const WritingFiles writing;
    io::write_file(options.json, report.to_json(session.seconds()).dump(2) + "\n");
  }
  FPSA_CHECK(
      report.failures().empty(), "bench: ", report.failures().size(),
      " of its cases failed, see above; the first: ", report.failures().empty() ? "" : report.failures().front());
}

}  // namespace fpsa::app::bench
