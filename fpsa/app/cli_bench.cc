#include "fpsa/app/cli_bench.h"

#include <ATen/Parallel.h>

#include <cstdlib>
#include <iostream>
#include <memory>

#include "fpsa/app/bench_attention.h"
#include "fpsa/app/bench_peer.h"
#include "fpsa/app/bench_train.h"
#include "fpsa/app/flags.h"
#include "fpsa/app/interrupt.h"
#include "fpsa/app/machine.h"
#include "fpsa/app/outputs.h"
#include "fpsa/app/usage_error.h"
#include "fpsa/base/check.h"
#include "fpsa/bench/gpu_bench.h"
#include "fpsa/io/atomic_file.h"
#include "fpsa/kernel/table.h"
#include "fpsa/ops/environment.h"

namespace fpsa::app {
namespace {

struct BenchFlags {
  bench::AttentionBenchOptions options;
  int64_t threads = 0;
  std::string isa, device = "cpu", python = "python3";
  bool quick = false, full = false;
};

int threads_of(int64_t wanted) {
  return wanted > 0 ? static_cast<int>(wanted) : available_processors();
}

void run_on_gpu(const BenchFlags& flags) {
  const auto& options = flags.options;
  FPSA_USAGE_CHECK(flags.isa.empty() && options.only.empty() && !flags.quick && !flags.full,
                   "--device: with cuda expected none of --isa, --only, --quick and --full, which are of the bench on "
                   "CPUs; leave them off");
  if (!options.json.empty()) check_writable_file("--json", options.json, 1 << 20);
  fpsa::bench::GpuBenchOptions wanted;
  wanted.python = flags.python;
  const auto report =
      fpsa::bench::run_gpu_bench(wanted, [](const std::string& line) { std::cerr << "fpsa: " << line << '\n'; });
  std::cout << report.to_text();
  if (!options.json.empty()) {
    const WritingFiles writing;
    io::write_file(options.json, report.to_json());
  }
  const auto failures = report.failures();
  FPSA_CHECK(failures.empty(), "bench: ", failures.size(), " of its cases failed, see above; the first: ",
             failures.empty() ? "" : failures.front());
}

void run(BenchFlags& flags) {
  if (flags.device == "cuda") return run_on_gpu(flags);
  FPSA_USAGE_CHECK(!(flags.quick && flags.full), "--quick: expected at most one of --quick and --full, got both");
  ops::apply_environment();
  if (!flags.isa.empty()) {
    try {
      kernel::force_isa(flags.isa);
    } catch (const Error& error) {
      throw UsageError(join("--", error.what()));
    }
  }
  auto& options = flags.options;
  options.extent = flags.quick ? bench::Extent::kQuick : flags.full ? bench::Extent::kFull : bench::Extent::kDefault;
  options.threads = threads_of(flags.threads);
  if (!options.json.empty()) check_writable_file("--json", options.json, 1 << 20);
  at::set_num_threads(options.threads);
  install_interrupt_handlers();
  bench::run_attention_bench(options);
}

}  // namespace

void add_bench_command(CLI::App& app) {
  auto* command = app.add_subcommand("bench", "Measure kernels against the machine's limits and against torch");
  command->require_subcommand(0, 1);
  auto* attention = command->add_subcommand("attention", "Attention kernels; about 6 minutes on two cores");
  auto flags = std::make_shared<BenchFlags>();
  add_path(*attention, "--json", flags->options.json, "Write cases and summary to this file");
  add_integer(*attention, "--threads", flags->threads, 0, 1024, "Threads, 0 to 1024 (0: all processors)");
  std::string levels = "auto";
  for (const kernel::Isa isa : kernel::all_isas())
    levels += join("|", kernel::isa_name(isa));
  // force_isa() checks it: a level that this machine lacks has a message of its own.
  add_text(*attention, "--isa", flags->isa, "Use the kernels of this instruction set level, not the best")
      ->type_name(levels);
  add_choice(*attention, "--device", flags->device, {"cpu", "cuda"}, "Kernels of the CPU, or of a GPU [cpu]");
  add_text(*attention, "--python", flags->python, "With --device cuda: the Python that times peers [python3]");
  add_choice(*attention, "--only", flags->options.only, bench::attention_groups(), "Only this group of cases");
  add_switch(*attention, "--quick", flags->quick, "Tiny shapes, seconds: that everything works, not how fast");
  add_switch(*attention, "--full", flags->full, "Every shape, head dims 64 to 256");
  attention->final_callback([flags] { run(*flags); });
  auto* train = command->add_subcommand("train", "A training step with a recipe's schedule, beside one with dense attention");
  auto training = std::make_shared<bench::TrainBenchOptions>();
  add_path(*train, "--recipe", training->recipe, "TOML file of the training run");
  add_path(*train, "--weights", training->weights, "Checkpoint or model folder to start from [random weights]");
  add_path(*train, "--model", training->model, "Model folder whose vae/ and tokenizer/ are used, or that is fine-tuned");
  add_path(*train, "--latents", training->latents,
           "Folder that keeps encoded clips; those of another seed or autoencoder are replaced. Not for recipes with "
           "[data], "
           "which have a cache of their own [encoded anew, which takes a while]");
  add_choice(*train, "--attention", training->attention, {"both", "dense", "fps"}, "Which to time [both]");
  add_choice(*train, "--gradient-checkpointing", training->gradient_checkpointing, {"recipe", "on", "off"},
             "[as the recipe says]");
  add_integer(*train, "--stage", training->stage, 1, 1000, "Which stage of the recipe");
  add_integer(*train, "--steps", training->steps, 1, 1000, "Steps of each");
  add_integer(*train, "--threads", training->threads, 0, 1024, "Threads, 0 to 1024 (0: all processors)");
  add_path(*train, "--json", training->json, "Write all times to this file");
  train->final_callback([training] { bench::run_train_bench(*training); });
  command->final_callback([command] {
    FPSA_USAGE_CHECK(!command->get_subcommands().empty(), "bench: expected what to measure: attention or train; got none");
  });

  // The process in which `bench` times torch; not for people.
  auto* peer = app.add_subcommand("bench-peer")->group("");
  auto threads = std::make_shared<int64_t>(0);
  add_integer(*peer, "--threads", *threads, 0, 1024, "");
  peer->final_callback([threads] { std::exit(bench::serve_peer(threads_of(*threads))); });
}

}  // namespace fpsa::app
