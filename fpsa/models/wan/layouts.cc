#include "fpsa/models/wan/layouts.h"

#include <algorithm>
#include <cctype>
#include <vector>

#include "fpsa/io/json.h"

namespace fpsa::models::wan {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view kOriginalStem = "diffusion_pytorch_model";

std::string lower(std::string text) {
  for (char& c : text)
    c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return text;
}

bool is_safetensors(const fs::path& path) {
  return path.extension() == ".safetensors";
}
bool is_pickle(const fs::path& path) {
  const std::string extension = lower(path.extension().string());
  return extension == ".pth" || extension == ".pt" || extension == ".bin" || extension == ".ckpt";
}

std::vector<fs::path> files_in(const fs::path& folder) {
  std::vector<fs::path> files;
  std::error_code ignored;
  for (const auto& item : fs::directory_iterator(folder, ignored))
    if (item.is_regular_file(ignored)) files.push_back(item.path());
  std::sort(files.begin(), files.end());
  return files;
}

bool holds_file_with(const fs::path& folder, std::string_view stem) {
  for (const fs::path& file : files_in(folder)) {
    const std::string name = file.filename().string();
    if (name.starts_with(stem) && (is_safetensors(file) || name.ends_with(".safetensors.index.json"))) return true;
  }
  return false;
}

// Wan2.2's 14B transformers have the tensors of Wan2.1's, so only the name of the file tells them apart: they are two
// experts for two noise ranges, and one alone gives a wrong video.
void refuse_wan22_name(const fs::path& path) {
  const std::string name = lower(path.filename().string());
  for (const char* mark : {"wan2.2", "wan2_2", "wan22", "high_noise", "low_noise", "highnoise", "lownoise"})
    FPSA_CHECK(name.find(mark) == std::string::npos, path.string(),
               ": the name says that this is a Wan2.2 model, which ",
               "is not supported; use a Wan2.1 text-to-video (T2V) checkpoint");
}

void check_index(const nlohmann::json& index, const fs::path& path) {
  FPSA_CHECK(index.is_object(), path.string(), ": expected a JSON object");
  const auto text = [&](const char* key) {
    return index.contains(key) && index[key].is_string() ? index[key].get<std::string>() : std::string();
  };
  const std::string name = text("_class_name");
  FPSA_CHECK(name.find("ImageToVideo") == std::string::npos, path.string(), ": '", name,
             "' is an image-to-video (I2V) pipeline, which is not supported; use a Wan2.1 text-to-video (T2V) folder");
  FPSA_CHECK(name.find("VACE") == std::string::npos, path.string(), ": '", name,
             "' is a VACE pipeline, which is not supported; use a Wan2.1 text-to-video (T2V) folder");
  FPSA_CHECK(name.find("Animate") == std::string::npos, path.string(), ": '", name,
             "' is a Wan2.2 pipeline, which is not supported; use a Wan2.1 text-to-video (T2V) folder");
  FPSA_CHECK(name == "WanPipeline", path.string(), ": expected \"_class_name\": \"WanPipeline\", received '", name,
             "'; only Wan2.1 text-to-video is supported");
  const auto second = index.find("transformer_2");
  const bool two_experts =
      second != index.end() && second->is_array() && !second->empty() && !second->front().is_null();
  const bool boundary = index.contains("boundary_ratio") && !index["boundary_ratio"].is_null();
  const bool expand = index.contains("expand_timesteps") && index["expand_timesteps"] == true;
  FPSA_CHECK(!two_experts && !boundary && !expand, path.string(), ": 'transformer_2', 'boundary_ratio' or ",
             "'expand_timesteps' is set: this is a Wan2.2 model, which is not supported; use a Wan2.1 folder");
}

// The folder above diffusion_models/ or unet/, so that vae/ and text_encoders/ are found; else the file's own folder.
fs::path repackaged_root(const fs::path& file) {
  for (fs::path folder = file.parent_path(); folder.has_filename(); folder = folder.parent_path()) {
    const std::string name = lower(folder.filename().string());
    if (name == "diffusion_models" || name == "unet" || name == "checkpoints") return folder.parent_path();
  }
  return file.parent_path();
}

// Files of a repackaged or original folder that hold the part, by the names of their tensors. A neighbour that is
// damaged or another model is passed over; `faults` says why, for when nothing is found.
std::vector<fs::path> recognised_files(const std::vector<fs::path>& folders, Part part, std::string& faults) {
  std::vector<fs::path> found;
  for (const fs::path& folder : folders)
    for (const fs::path& file : files_in(folder)) {
      if (!is_safetensors(file)) continue;
      try {
        const io::SafetensorsFile opened = io::SafetensorsFile::open(file);
        std::set<std::string> names;
        for (const io::TensorEntry& entry : opened.entries())
          names.insert(entry.name);
        const auto recognised = recognise(names);
        if (!recognised || recognised->part != part) continue;
        refuse_unsupported(names, file.string());
        found.push_back(file);
      } catch (const Error& error) {
        faults += join("\n  ", error.what());
      }
    }
  return found;
}

// The command line's flag for a part that lies elsewhere.
std::string_view flag_of(Part part) {
  return part == Part::kVae ? "--vae" : part == Part::kTextEncoder ? "--text-encoder" : "--model";
}

std::vector<fs::path> part_folders(const ModelPlace& place, Part part) {
  if (place.layout == Layout::kOriginal) return {place.root};
  switch (part) {
    case Part::kTransformer:
      return {place.root / "diffusion_models", place.root / "unet", place.root};
    case Part::kVae:
      return {place.root / "vae", place.root};
    case Part::kTextEncoder:
      return {place.root / "text_encoders", place.root / "clip", place.root};
  }
  return {};
}

PartFiles search_part(const ModelPlace& place, Part part) {
  const std::vector<fs::path> folders = part_folders(place, part);
  std::string faults;
  const std::vector<fs::path> found = recognised_files(folders, part, faults);
  if (found.size() == 1) return part_at(found.front(), part);
  if (found.size() > 1) {
    std::string names;
    for (const fs::path& file : found)
      names += "\n  " + file.string();
    throw Error(join("the ", name_of(part), ": expected one file under '", place.root.string(),
                     "', found several; name the one to use by ", flag_of(part), " PATH:", names));
  }
  const std::string_view mark = part == Part::kVae ? "vae" : part == Part::kTextEncoder ? "t5" : "diffusion";
  for (const fs::path& folder : folders)
    for (const fs::path& file : files_in(folder))
      if (is_pickle(file) && lower(file.filename().string()).find(mark) != std::string::npos)
        throw MissingPart(join(file.string(), ": the ", name_of(part),
                               " is a Python pickle, which can run code when it is read. ",
                               io::pickle_conversion(file)));
  const std::string message =
      join("the ", name_of(part), " of the Wan model was not found under '", place.root.string(),
           "'; expected a safetensors file in '", folders.front().string(), "', or its path by ", flag_of(part));
  if (faults.empty()) throw MissingPart(message);
  throw Error(join(message, "; files that were passed over:", faults));
}

// diffusers names its files by a fixed stem; other files in the folder are variants of other precision.
fs::path component_weights(const fs::path& folder) {
  for (const char* name : {"diffusion_pytorch_model.safetensors.index.json", "diffusion_pytorch_model.safetensors",
                           "model.safetensors.index.json", "model.safetensors"})
    if (fs::exists(folder / name)) return folder / name;
  return folder;
}

PartFiles diffusers_part(const ModelPlace& place, Part part) {
  const char* names[] = {"transformer", "vae", "text_encoder"};
  const fs::path folder = place.root / names[static_cast<int>(part)];
  if (!fs::is_directory(folder))
    throw MissingPart(join(place.root.string(), ": the folder '", folder.filename().string(),
                           "' is missing; download the whole model folder",
                           part == Part::kTransformer ? "" : join(", or name this part by ", flag_of(part), " PATH")));
  FPSA_CHECK(fs::exists(folder / "config.json"), folder.string(),
             ": config.json is missing; download the folder again");
  return {component_weights(folder), folder / "config.json"};
}

ModelPlace find_in_folder(const fs::path& path) {
  if (fs::exists(path / "model_index.json")) {
    const nlohmann::json index = io::read_json(path / "model_index.json");
    check_index(index, path / "model_index.json");
    return {Layout::kDiffusers, path, {}, index};
  }
  FPSA_CHECK(!fs::exists(path / "high_noise_model") && !fs::exists(path / "low_noise_model"), path.string(),
             ": high_noise_model/ and low_noise_model/: this is a Wan2.2 folder, which is not supported; use Wan2.1");
  if (fs::exists(path / "config.json") && holds_file_with(path, kOriginalStem)) {
    const nlohmann::json config = io::read_json(path / "config.json");
    FPSA_CHECK(config.is_object(), (path / "config.json").string(), ": expected a JSON object, received ",
               config.type_name());
    const bool diffusers = config.contains("_class_name") && config["_class_name"] == "WanTransformer3DModel";
    FPSA_CHECK(!diffusers, path.string(), ": this is the transformer alone; name the folder above it, which holds ",
               "model_index.json");
    return {Layout::kOriginal, path, {}, {}};
  }
  for (const fs::path& root : {path, path / "split_files"})
    if (fs::is_directory(root / "diffusion_models")) return {Layout::kRepackaged, root, {}, {}};
  throw Error(join(path.string(),
                   ": no Wan model here; expected a diffusers folder (model_index.json), an original Wan "
                   "folder (config.json and diffusion_pytorch_model*.safetensors) or repackaged files "
                   "(diffusion_models/, vae/, text_encoders/)"));
}

}  // namespace

std::string_view name_of(Layout layout) {
  switch (layout) {
    case Layout::kDiffusers:
      return "diffusers folder";
    case Layout::kOriginal:
      return "original Wan folder";
    case Layout::kRepackaged:
      return "repackaged files";
  }
  return "";
}

ModelPlace find_model(const fs::path& path) {
  FPSA_CHECK(fs::exists(path), "cannot open '", path.string(), "': no such file or folder");
  const fs::path absolute = fs::absolute(path).lexically_normal();
  if (fs::is_directory(absolute)) {
    // "folder/" has no file name of its own.
    return find_in_folder(absolute.has_filename() ? absolute : absolute.parent_path());
  }
  if (absolute.filename() == "model_index.json") return find_in_folder(absolute.parent_path());
  FPSA_CHECK(!is_pickle(absolute), absolute.string(), ": this is a Python pickle, which can run code when it is read. ",
             io::pickle_conversion(absolute));
  refuse_wan22_name(absolute);
  return {Layout::kRepackaged, repackaged_root(absolute), absolute, {}};
}

std::optional<Part> configured_part(const fs::path& folder) {
  const fs::path file = folder / "config.json";
  if (!fs::is_regular_file(file)) return std::nullopt;
  const nlohmann::json config = io::read_json(file);
  if (!config.is_object()) return std::nullopt;
  const auto is = [&](const char* key, const char* value) { return config.contains(key) && config[key] == value; };
  if (is("_class_name", "WanTransformer3DModel")) return Part::kTransformer;
  if (is("_class_name", "AutoencoderKLWan")) return Part::kVae;
  if (is("model_type", "umt5")) return Part::kTextEncoder;
  return std::nullopt;
}

PartFiles part_at(const fs::path& path, Part part) {
  if (fs::is_directory(path)) {
    const fs::path config = path / "config.json";
    return {component_weights(path), fs::exists(config) ? config : fs::path()};
  }
  // Beside a file may lie another part's: the original folder's config.json is the transformer's alone.
  const fs::path folder = path.has_parent_path() ? path.parent_path() : fs::path(".");
  return {path, configured_part(folder) == part ? folder / "config.json" : fs::path()};
}

PartFiles find_part(const ModelPlace& place, Part part, const PartPaths& named) {
  const fs::path& given = part == Part::kVae ? named.vae : named.text_encoder;
  if (part != Part::kTransformer && !given.empty()) {
    FPSA_CHECK(fs::exists(given), flag_of(part), ": expected the path of the ", name_of(part), ", received '",
               given.string(), "', which does not exist");
    return part_at(given, part);
  }
  if (place.layout == Layout::kDiffusers) return diffusers_part(place, part);
  if (part != Part::kTransformer) return search_part(place, part);
  if (place.layout == Layout::kRepackaged) {
    if (!place.transformer_file.empty()) return part_at(place.transformer_file, part);
    PartFiles files = search_part(place, part);
    refuse_wan22_name(files.weights);
    return files;
  }
  PartFiles files{place.root, place.root / "config.json"};
  for (const char* end : {".safetensors.index.json", ".safetensors"}) {
    const fs::path file = place.root / (std::string(kOriginalStem) + end);
    if (!fs::exists(file)) continue;
    files.weights = file;
    break;
  }
  return files;
}

fs::path find_tokenizer(const ModelPlace& place, const PartPaths& named) {
  if (!named.tokenizer.empty()) return named.tokenizer;
  std::vector<fs::path> candidates = {place.root / "tokenizer", place.root / "google" / "umt5-xxl", place.root};
  if (place.layout == Layout::kRepackaged) candidates.push_back(place.root / "text_encoders");
  for (const fs::path& folder : candidates)
    if (fs::exists(folder / "spiece.model")) return folder;
  return {};
}

fs::path find_scheduler(const ModelPlace& place) {
  const fs::path file = place.root / "scheduler" / "scheduler_config.json";
  return place.layout == Layout::kDiffusers && fs::exists(file) ? file : fs::path();
}

}  // namespace fpsa::models::wan
