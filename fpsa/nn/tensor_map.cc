#include "fpsa/nn/tensor_map.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <set>
#include <utility>

#include "fpsa/base/check.h"
#include "fpsa/io/json.h"

namespace fpsa::nn {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view kIndexSuffix = ".safetensors.index.json";
constexpr std::string_view kFileSuffix = ".safetensors";

constexpr std::array<std::pair<io::Dtype, at::ScalarType>, 15> kTypes = {{
    {io::Dtype::kBool, at::kBool},
    {io::Dtype::kU8, at::kByte},
    {io::Dtype::kI8, at::kChar},
    {io::Dtype::kF8E4m3, at::kFloat8_e4m3fn},
    {io::Dtype::kF8E5m2, at::kFloat8_e5m2},
    {io::Dtype::kU16, at::kUInt16},
    {io::Dtype::kI16, at::kShort},
    {io::Dtype::kF16, at::kHalf},
    {io::Dtype::kBf16, at::kBFloat16},
    {io::Dtype::kU32, at::kUInt32},
    {io::Dtype::kI32, at::kInt},
    {io::Dtype::kF32, at::kFloat},
    {io::Dtype::kU64, at::kUInt64},
    {io::Dtype::kI64, at::kLong},
    {io::Dtype::kF64, at::kDouble},
}};

std::map<std::string, std::string> read_weight_map(const fs::path& index) {
  const nlohmann::json json = io::read_json(index);
  FPSA_CHECK(json.is_object() && json.contains("weight_map") && json["weight_map"].is_object(), index.string(),
             ": expected an object with an object 'weight_map' (tensor name -> shard file)");
  std::map<std::string, std::string> map;
  for (const auto& [name, file] : json["weight_map"].items()) {
    FPSA_CHECK(file.is_string(), index.string(), ": tensor '", name, "': expected the name of a shard file");
    const fs::path shard = file.get<std::string>();
    // A shard elsewhere would let an index reach any file of the machine.
    FPSA_CHECK(!shard.empty() && shard.filename() == shard && shard != "." && shard != "..", index.string(),
               ": tensor '", name, "': expected a file name without folders, received '", shard.string(), "'");
    map[name] = shard.string();
  }
  FPSA_CHECK(!map.empty(), index.string(), ": 'weight_map' names no tensor");
  return map;
}

fs::path only_candidate(const fs::path& folder, std::string_view stem) {
  std::vector<fs::path> indexes, files, pickles;
  for (const auto& item : fs::directory_iterator(folder)) {
    const std::string name = item.path().filename().string();
    if (!name.starts_with(stem) || name.starts_with(".")) continue;
    const std::string extension = item.path().extension().string();
    if (name.ends_with(kIndexSuffix))
      indexes.push_back(item.path());
    else if (name.ends_with(kFileSuffix))
      files.push_back(item.path());
    else if (extension == ".pth" || extension == ".pt" || extension == ".bin" || extension == ".ckpt")
      pickles.push_back(item.path());
  }
  std::vector<fs::path>& candidates = indexes.empty() ? files : indexes;
  const std::string wanted = stem.empty() ? "*.safetensors" : join(stem, "*.safetensors");
  if (candidates.empty() && !pickles.empty())
    throw Error(join(folder.string(), ": expected ", wanted, ", found the Python pickle '",
                     pickles.front().filename().string(), "'. ", io::pickle_conversion(pickles.front())));
  FPSA_CHECK(!candidates.empty(), folder.string(), ": expected ", wanted, " or an index of shards, found none");
  std::sort(candidates.begin(), candidates.end());
  if (candidates.size() > 1) {
    std::string names;
    for (const fs::path& candidate : candidates)
      names += "\n  " + candidate.filename().string();
    throw Error(
        join(folder.string(), ": expected one checkpoint, found several; pass the path of one of them:", names));
  }
  return candidates.front();
}

fs::path resolve(const fs::path& path, std::string_view stem) {
  FPSA_CHECK(fs::exists(path), "cannot open '", path.string(), "': no such file or folder");
  return fs::is_directory(path) ? only_candidate(path, stem) : path;
}

bool is_index(const fs::path& path) {
  return path.filename().string().ends_with(".index.json");
}

at::Tensor as_tensor(const io::SafetensorsFile& file, const io::TensorEntry& entry) {
  const at::TensorOptions options = at::TensorOptions().dtype(scalar_type(entry.dtype));
  const std::span<const std::byte> bytes = file.bytes(entry);
  if (bytes.empty()) return at::empty(entry.shape, options);
  void* data = const_cast<std::byte*>(bytes.data());
  const at::Tensor view = at::from_blob(
      data, entry.shape, [mapping = file.mapping()](void*) mutable { mapping.reset(); }, options);
  const bool aligned = reinterpret_cast<uintptr_t>(data) % io::size_bytes(entry.dtype) == 0;
  if (aligned) return view;
  at::Tensor copy = at::empty(entry.shape, options);
  std::memcpy(copy.data_ptr(), data, bytes.size());
  return copy;
}

void add_file(LoadedTensors& loaded, std::map<std::string, std::string>& home, const fs::path& path) {
  const io::SafetensorsFile file = io::SafetensorsFile::open(path);
  for (const io::TensorEntry& entry : file.entries()) {
    const auto [seen, fresh] = home.emplace(entry.name, path.filename().string());
    FPSA_CHECK(fresh, path.string(), ": tensor '", entry.name, "' is in shard '", seen->second, "' too");
    loaded.tensors.emplace(entry.name, as_tensor(file, entry));
  }
  for (const auto& [key, value] : file.metadata()) {
    const auto [seen, fresh] = loaded.metadata.emplace(key, value);
    FPSA_CHECK(fresh || seen->second == value, path.string(), ": metadata '", key, "' differs between shards");
  }
}

void check_index(const fs::path& index, const std::map<std::string, std::string>& expected,
                 const std::map<std::string, std::string>& found) {
  std::string complaints;
  for (const auto& [name, file] : expected) {
    const auto place = found.find(name);
    if (place == found.end())
      complaints += join("\n  '", name, "' is not in '", file, "' nor in another shard");
    else if (place->second != file)
      complaints += join("\n  '", name, "' is in '", place->second, "', not in '", file, "'");
  }
  for (const auto& [name, file] : found)
    if (!expected.contains(name)) complaints += join("\n  '", name, "' of '", file, "' is not in the index");
  FPSA_CHECK(complaints.empty(), index.string(),
             ": the index and its shards disagree; download the folder again:", complaints);
}

}  // namespace

at::ScalarType scalar_type(io::Dtype dtype) {
  for (const auto& [ours, torchs] : kTypes)
    if (ours == dtype) return torchs;
  throw Error(join("dtype ", io::name_of(dtype), " has no torch type"));
}

io::Dtype io_dtype(at::ScalarType type) {
  for (const auto& [ours, torchs] : kTypes)
    if (torchs == type) return ours;
  throw Error(join("expected a dtype among ", io::known_dtype_names(), ", received torch type ", at::toString(type)));
}

std::vector<fs::path> checkpoint_files(const fs::path& path, std::string_view stem) {
  const fs::path found = resolve(path, stem);
  if (!is_index(found)) return {found};
  std::set<fs::path> shards;
  for (const auto& [name, file] : read_weight_map(found))
    shards.insert(found.parent_path() / file);
  return {shards.begin(), shards.end()};
}

LoadedTensors load_tensors(const fs::path& path, std::string_view stem) {
  LoadedTensors loaded;
  std::map<std::string, std::string> home;  // tensor -> shard
  const fs::path found = resolve(path, stem);
  for (const fs::path& file : checkpoint_files(found))
    add_file(loaded, home, file);
  if (is_index(found)) check_index(found, read_weight_map(found), home);
  return loaded;
}

void save_tensors(const fs::path& path, const TensorMap& tensors, const std::map<std::string, std::string>& metadata) {
  std::vector<at::Tensor> kept;  // owns the rare copies (other device, other strides) while they are written
  std::vector<io::TensorView> views;
  kept.reserve(tensors.size());
  for (const auto& [name, tensor] : tensors) {
    FPSA_CHECK(tensor.defined(), "cannot write '", path.string(), "': tensor '", name, "' is undefined");
    kept.push_back(tensor.detach().to(at::kCPU).contiguous());
    const at::Tensor& t = kept.back();
    views.push_back({name,
                     io_dtype(t.scalar_type()),
                     t.sizes().vec(),
                     {static_cast<const std::byte*>(t.const_data_ptr()), t.nbytes()}});
  }
  io::write_safetensors(path, std::move(views), metadata);
}

}  // namespace fpsa::nn
