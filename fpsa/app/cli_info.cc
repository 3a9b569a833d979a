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
  bool tensors = false, json = false;
};

// A checkpoint may carry megabytes in its metadata; a terminal wants the beginning.
constexpr size_t kMetadataShown = 400;

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

// What the names of the tensors tell; a part of a model that the engine does not run is named as such.
void print_part(const io::SafetensorsFile& file) {
  std::set<std::string> names;
  for (const auto& entry : file.entries())
    names.insert(entry.name);
  try {
    models::wan::refuse_unsupported(names, "this file");
  } catch (const Error& error) {
    std::cout << "  not supported: " << error.what() << '\n';
    return;
  }
  if (const auto found = models::wan::recognise(names))
    std::cout << "  " << models::wan::name_of(found->part) << " of a Wan2.1 model, "
              << (found->naming == models::wan::Naming::kDiffusers ? "diffusers" : "original") << " names"
              << (found->prefix.empty() ? "" : " behind '" + found->prefix + "'") << '\n';
}

void print_safetensors(const fs::path& path, const InfoOptions& options) {
  const auto file = io::SafetensorsFile::open(path);
  std::map<std::string, std::pair<int64_t, uint64_t>> by_dtype;  // count, bytes
  uint64_t total = 0;
  for (const auto& entry : file.entries()) {
    auto& [count, bytes] = by_dtype[std::string(io::name_of(entry.dtype))];
    ++count;
    bytes += entry.size_bytes();
    total += entry.size_bytes();
  }
  std::cout << path.string() << ": safetensors, " << file.entries().size() << " tensors, "
            << bytes_text(static_cast<int64_t>(total)) << '\n';
  for (const auto& [dtype, sums] : by_dtype)
    std::cout << "  " << dtype << ": " << sums.first << " tensors, " << bytes_text(static_cast<int64_t>(sums.second))
              << '\n';
  print_part(file);
  for (const auto& [key, value] : file.metadata())
    std::cout << "  metadata " << key << ": " << value.substr(0, kMetadataShown)
              << (value.size() > kMetadataShown ? " ..." : "") << '\n';
  if (const auto carried = file.metadata().find(std::string(schedule::kMetadataKey)); carried != file.metadata().end())
    print_schedule(schedule::parse_toml(carried->second, "fpsa.schedule"), "fpsa.schedule");
  if (!options.tensors) return;
  for (const auto& entry : file.entries())
    std::cout << "  " << entry.name << ' ' << io::name_of(entry.dtype) << ' ' << shape_text(entry.shape) << '\n';
}

bool has_text_encoder(const fs::path& folder) {
  const auto place = models::wan::find_model(folder);
  try {
    models::wan::find_part(place, models::wan::Part::kTextEncoder);
    return true;
  } catch (const Error&) {
    return false;
  }
}

void print_model(const fs::path& folder) {
  const bool with_text = has_text_encoder(folder);
  const ModelSession model(folder, with_text, "auto", "f32", /*ignore_memory=*/true);
  const auto& dit = model.dit_config();
  const auto& vae = model.vae_config();
  std::cout << model.description() << "\n  transformer: " << dit.num_layers << " layers, " << dit.num_attention_heads
            << " heads of " << dit.attention_head_dim << ", feed-forward " << dit.ffn_dim << ", patch ("
            << dit.patch_size[0] << ',' << dit.patch_size[1] << ',' << dit.patch_size[2] << ")\n  VAE: " << vae.z_dim
            << " latent channels, " << vae.temporal_factor() << "x" << vae.spatial_factor() << "x"
            << vae.spatial_factor() << " compression\n";
  if (!with_text) std::cout << "  no text encoder: generate with --prompt-embeds\n";
  if (!model.schedule().empty())
    print_schedule(schedule::parse_toml(model.schedule(), "fpsa.schedule"), "  fpsa.schedule");
}

void print_video(const fs::path& path) {
  const auto video = io::read_video(path);
  std::cout << path.string() << ": " << video.frames << " frames " << video.width << "x" << video.height << " at "
            << video.fps << " fps\n";
  if (const auto comment = io::read_comment(path); !comment.empty()) std::cout << comment << '\n';
}

void info(const InfoOptions& options) {
  const auto& path = options.path;
  if (path.empty()) return print_machine(options.json);
  FPSA_CHECK(fs::exists(path), path.string(), ": expected a checkpoint, a schedule or a video, got no such path");
  if (fs::is_directory(path)) return print_model(path);
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
  command->add_flag("--tensors", options->tensors, "List every tensor of a .safetensors file");
  command->add_flag("--json", options->json, "The machine as JSON");
  command->final_callback([options] { info(*options); });
}

}  // namespace fpsa::app
