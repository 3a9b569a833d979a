#include "fpsa/app/cli_info.h"

#include <filesystem>
#include <iomanip>
#include <iostream>
#include <map>
#include <memory>
#include <set>
#include <sstream>

#include "fpsa/app/flags.h"
#include "fpsa/app/machine.h"
#include "fpsa/app/model_session.h"
#include "fpsa/app/usage_error.h"
#include "fpsa/io/json.h"
#include "fpsa/io/safetensors.h"
#include "fpsa/io/video.h"
#include "fpsa/kernel/table.h"
#include "fpsa/schedule/schedule.h"

namespace fpsa::app {
namespace {

namespace fs = std::filesystem;

struct InfoOptions {
  fs::path path;
  models::wan::PartPaths parts;
  bool tensors = false, json = false;
};

std::string triple(const pattern::Grid& grid) {
  const auto axis = [](int64_t n) { return n == pattern::kAllTiles ? std::string("all") : std::to_string(n); };
  return "(" + axis(grid.t) + "," + axis(grid.y) + "," + axis(grid.x) + ")";
}

void print_machine(bool json) {
  const auto machine = describe_machine();
  if (json) {
    std::cout << machine.dump(2) << '\n';
    return;
  }
  std::cout << "fpsa " << FPSA_VERSION << ", torch " << machine["torch"].get<std::string>() << '\n'
            << "processor  " << machine["processor"].get<std::string>() << ", " << machine["logical_processors"]
            << " logical, " << machine["threads"] << " threads used\n"
            << "memory     " << bytes_text(machine["memory_available_bytes"]) << " available of "
            << bytes_text(machine["memory_total_bytes"]) << '\n'
            << "ISA levels";
  for (const auto isa : kernel::all_isas())
    std::cout << "  " << kernel::isa_name(isa) << (isa <= kernel::detected_isa() ? "" : " (not on this machine)");
  std::cout << "\nISA used   " << machine["isa"].get<std::string>() << "\nkernels    ";
  for (const auto& name : machine["kernels"])
    std::cout << ' ' << name.get<std::string>();
  std::cout << "\nGPU        " << machine["torch_cuda_devices"] << " that torch can drive; CUDA kernels "
            << (machine["cuda_kernels"].get<bool>() ? "in this build" : "not in this build") << '\n';
  for (const auto& gpu : machine["cuda_devices"])
    std::cout << "           " << gpu["name"].get<std::string>() << ", compute capability "
              << gpu["compute_capability"].get<std::string>() << ", " << gpu["multiprocessors"] << " multiprocessors, "
              << bytes_text(gpu["memory_bytes"])
              << (gpu["runs_kernels"].get<bool>() ? ": runs the kernels" : ": does not run the kernels") << '\n';
  if (const auto reason = machine["cuda_reason"].get<std::string>(); !reason.empty())
    std::cout << "           " << reason << '\n';
}

void print_schedule(const schedule::Schedule& schedule, const std::string& origin) {
  std::cout << origin << ": attention schedule version " << schedule.version << ", tile " << triple(schedule.tile)
            << ", shift " << schedule.shift << '\n';
  double from = 0;
  for (size_t i = 0; i < schedule.phases.size(); ++i) {
    const auto& phase = schedule.phases[i];
    std::cout << "  phase " << i + 1 << ": steps " << from * 100 << "% to " << phase.until * 100 << "%, granularity "
              << triple(phase.granularity) << ", window " << triple(phase.window) << ", quant "
              << schedule::name(phase.quant) << '\n';
    from = phase.until;
  }
  std::cout << "  " << schedule.overrides.size() << " overrides\n";
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::ostringstream out;
  for (size_t i = 0; i < shape.size(); ++i)
    out << (i ? "," : "") << shape[i];
  return join('[', out.str(), ']');
}

// A safetensors file that is no part of a model: latents, text states, weights of another program.
void print_other_tensors(const io::SafetensorsFile& file, const fs::path& path, const std::string& kind) {
  std::map<std::string, std::pair<int64_t, uint64_t>> by_dtype;  // count, bytes
  uint64_t total = 0;
  for (const auto& entry : file.entries()) {
    auto& [count, bytes] = by_dtype[std::string(io::name_of(entry.dtype))];
    ++count;
    bytes += entry.size_bytes();
    total += entry.size_bytes();
  }
  std::cout << path.string() << ": safetensors, " << file.entries().size() << " tensors, "
            << bytes_text(static_cast<int64_t>(total)) << "\n  " << kind << '\n';
  for (const auto& [dtype, sums] : by_dtype)
    std::cout << "  " << dtype << ": " << sums.first << " tensors, " << bytes_text(static_cast<int64_t>(sums.second))
              << '\n';
  for (const auto& [key, value] : file.metadata())
    std::cout << "  metadata " << key << ": " << models::wan::metadata_text(value) << '\n';
}

void print_carried_schedule(const std::map<std::string, std::string>& metadata) {
  if (const auto carried = metadata.find(std::string(schedule::kMetadataKey)); carried != metadata.end())
    print_schedule(schedule::parse_toml(carried->second, carried->first), "  " + carried->first);
}

// Prints a model or one part of it, checked as for a run.
void print_description(const models::wan::Description& description) {
  std::cout << models::wan::text_of(description) << '\n';
  for (const auto& part : description.parts)
    print_carried_schedule(part.metadata);
}

void print_safetensors(const fs::path& path, const InfoOptions& options) {
  const auto file = io::SafetensorsFile::open(path);
  std::set<std::string> names;
  for (const auto& entry : file.entries())
    names.insert(entry.name);
  std::string other;  // why it is described as nothing but a file
  try {
    models::wan::refuse_unsupported(names, "this file");
    if (!models::wan::recognise(names)) other = "not a part of a Wan2.1 model";
  } catch (const Error& error) {
    other = join("not supported: ", error.what());
  }
  if (other.empty()) {
    print_description(models::wan::describe(path));
  } else {
    print_other_tensors(file, path, other);
    print_carried_schedule(file.metadata());
  }
  if (!options.tensors) return;
  for (const auto& entry : file.entries())
    std::cout << "  " << entry.name << ' ' << io::name_of(entry.dtype) << ' ' << shape_text(entry.shape) << '\n';
}

void print_model(const fs::path& folder, const InfoOptions& options) {
  const auto description = models::wan::describe(folder, options.parts);
  print_description(description);
  if (models::wan::configured_part(folder)) return;  // one part alone has no sampler
  const auto scheduler = scheduler_of(models::wan::find_model(folder));
  std::cout << "  sampler " << diffusion::sampler_name(scheduler.sampler) << ", flow shift " << scheduler.shift << '\n';
  if (!description.find(models::wan::Part::kTextEncoder))
    std::cout << "  no text encoder: generate with --prompt-embeds\n";
}

void print_video(const fs::path& path) {
  const auto video = io::read_video(path);
  std::cout << path.string() << ": " << video.frames << " frames " << video.width << "x" << video.height << " at "
            << video.fps << " fps\n";
  if (const auto comment = io::read_comment(path); !comment.empty()) std::cout << comment << '\n';
}

void info(const InfoOptions& options) {
  const auto& path = options.path;
  const auto& parts = options.parts;
  FPSA_USAGE_CHECK(
      (parts.vae.empty() && parts.text_encoder.empty() && parts.tokenizer.empty()) || fs::is_directory(path),
      "--vae, --text-encoder, --tokenizer: expected the folder of a model beside them, got '", path.string(), "'");
  if (path.empty()) return print_machine(options.json);
  FPSA_CHECK(fs::exists(path), path.string(), ": expected a checkpoint, a schedule or a video, got no such path");
  if (fs::is_directory(path)) return print_model(path, options);
  const auto suffix = path.extension();
  if (suffix == ".toml")
    return print_schedule(schedule::parse_toml(io::read_text_file(path), path.string()), path.string());
  if (suffix == ".mp4") return print_video(path);
  FPSA_USAGE_CHECK(suffix == ".safetensors", path.string(), ": expected a folder, .safetensors, .toml or .mp4, got '",
                   suffix.string(), "'");
  print_safetensors(path, options);
}

}  // namespace

void add_info_command(CLI::App& app) {
  auto* command = app.add_subcommand("info", "Describe a checkpoint, a schedule, a video, or this machine");
  auto options = std::make_shared<InfoOptions>();
  command->add_option("PATH", options->path, "Folder, .safetensors, .toml or .mp4; nothing: this machine");
  add_path(*command, "--vae,--vae-path", options->parts.vae, "Folder: the VAE from elsewhere");
  add_path(*command, "--text-encoder,--text-encoder-path,--t5,--t5-path,--t5xxl", options->parts.text_encoder,
           "Folder: the text encoder from elsewhere");
  add_path(*command, "--tokenizer,--tokenizer-path", options->parts.tokenizer, "Folder: the tokenizer from elsewhere");
  command->add_flag("--tensors", options->tensors, "List every tensor of a .safetensors file");
  command->add_flag("--json", options->json, "The machine as JSON");
  command->final_callback([options] { info(*options); });
}

}  // namespace fpsa::app
