#include "fpsa/train/data_shards.h"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstring>

#include "fpsa/base/check.h"
#include "fpsa/io/json.h"
#include "fpsa/nn/tensor_map.h"

namespace fpsa::train {
namespace {

namespace fs = std::filesystem;

constexpr const char* kFormat = "fpsa-shard-1";
constexpr const char* kSuffix = ".safetensors";

// The number of "<stem>-000012.safetensors", or -1 for other names.
int64_t shard_number(const fs::path& file, const std::string& stem) {
  std::string name = file.filename().string();
  if (!name.starts_with(stem + "-") || !name.ends_with(kSuffix)) return -1;
  name = name.substr(stem.size() + 1, name.size() - stem.size() - 1 - std::strlen(kSuffix));
  int64_t number = -1;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), number);
  return error == std::errc() && end == name.data() + name.size() ? number : -1;
}

}  // namespace

std::string checksum(const at::Tensor& tensor) {
  FPSA_CHECK(tensor.is_contiguous() && tensor.device().is_cpu(), "checksum: expected a contiguous tensor in memory");
  const auto* bytes = static_cast<const unsigned char*>(tensor.const_data_ptr());
  const size_t size = tensor.nbytes();
  // FNV-1a over 8-byte words with the high half folded in, so that every bit of a word reaches the low bits.
  uint64_t state = 0xcbf29ce484222325ULL ^ size;
  for (size_t at = 0; at < size; at += 8) {
    uint64_t word = 0;
    std::memcpy(&word, bytes + at, std::min<size_t>(8, size - at));
    state = (state ^ word) * 0x100000001b3ULL;
    state ^= state >> 32;
  }
  char text[20];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(state));
  return text;
}

ShardStore::ShardStore(fs::path folder, std::string stem, const std::function<void(const std::string&)>& warn)
    : folder_(std::move(folder)), stem_(std::move(stem)) {
  std::error_code error;
  fs::create_directories(folder_, error);
  FPSA_CHECK(!error && fs::is_directory(folder_), "cannot make the cache folder '", folder_.string(),
             "': ", error ? error.message() : "a file of that name exists");
  std::map<int64_t, fs::path> shards;
  for (const auto& item : fs::directory_iterator(folder_))
    if (const int64_t number = shard_number(item.path(), stem_); number >= 0) shards.emplace(number, item.path());
  for (const auto& [number, file] : shards) {
    next_shard_ = number + 1;
    try {
      open_shard(file);
    } catch (const std::exception& fault) {
      // Kept: it may be another version's, or the fault one of this machine (open files, memory), and hours of work.
      const fs::path aside = file.string() + ".damaged";
      fs::rename(file, aside);
      warn(join("the cache file ", file.string(), " cannot be used and is now ", aside.filename().string(),
                "; what it held is encoded again (", fault.what(), ")"));
    }
  }
}

void ShardStore::open_shard(const fs::path& file) {
  const nn::LoadedTensors loaded = nn::load_tensors(file);
  const auto format = loaded.metadata.find("fpsa_format"), list = loaded.metadata.find("records");
  FPSA_CHECK(format != loaded.metadata.end() && format->second == kFormat && list != loaded.metadata.end(), file,
             ": expected the format ", kFormat);
  const nlohmann::json records = io::parse_json(list->second, file.string());
  FPSA_CHECK(records.is_array() && records.size() == loaded.tensors.size(), file,
             ": the list of records does not fit the tensors");
  std::map<std::string, at::Tensor> found;
  for (size_t i = 0; i < records.size(); ++i) {
    const auto tensor = loaded.tensors.find(std::to_string(i));
    FPSA_CHECK(tensor != loaded.tensors.end() && records[i].is_object() && records[i].contains("key") &&
                   records[i].contains("sum"),
               file, ": record ", i, " is incomplete");
    FPSA_CHECK(records[i]["sum"] == checksum(tensor->second), file, ": the checksum of record ", i, " is wrong");
    found.emplace(records[i]["key"].dump(), tensor->second);
  }
  stored_.merge(found);
}

std::vector<nlohmann::json> ShardStore::keys() const {
  std::vector<nlohmann::json> out;
  for (const auto& [text, tensor] : stored_)
    out.push_back(nlohmann::json::parse(text));
  return out;
}

const at::Tensor& ShardStore::get(const nlohmann::json& key) const {
  const auto it = stored_.find(key.dump());
  FPSA_CHECK(it != stored_.end(), "the cache ", folder_.string(), " holds nothing for ", key.dump());
  return it->second;
}

void ShardStore::put(const nlohmann::json& key, const at::Tensor& tensor) {
  const std::string text = key.dump();
  const at::Tensor kept = tensor.detach().contiguous();
  FPSA_CHECK(stored_.emplace(text, kept).second, "the cache ", folder_.string(), " already holds ", text);
  pending_.push_back(text);
  pending_bytes_ += static_cast<int64_t>(kept.nbytes());
  if (pending_.size() >= kShardTensors || pending_bytes_ >= kShardBytes) flush();
}

void ShardStore::flush() {
  if (pending_.empty()) return;
  nlohmann::json records = nlohmann::json::array();
  nn::TensorMap tensors;
  for (size_t i = 0; i < pending_.size(); ++i) {
    const at::Tensor& tensor = stored_.at(pending_[i]);
    tensors.emplace(std::to_string(i), tensor);
    records.push_back({{"key", nlohmann::json::parse(pending_[i])}, {"sum", checksum(tensor)}});
  }
  fs::path file;
  do {  // another run may have written to the same cache meanwhile
    char number[24];
    std::snprintf(number, sizeof number, "-%06lld", static_cast<long long>(next_shard_++));
    file = folder_ / (stem_ + number + kSuffix);
  } while (fs::exists(file));
  nn::save_tensors(file, tensors, {{"fpsa_format", kFormat}, {"records", records.dump()}});
  // From here on the mapped file answers, so that a long encoding run does not keep everything in memory.
  const nn::LoadedTensors written = nn::load_tensors(file);
  for (size_t i = 0; i < pending_.size(); ++i) {
    const auto back = written.tensors.find(std::to_string(i));
    FPSA_CHECK(back != written.tensors.end() && records[i]["sum"] == checksum(back->second), file,
               " does not hold what was written to it; does another run write to the same cache? Run them in turn");
    stored_.at(pending_[i]) = back->second;
  }
  pending_.clear();
  pending_bytes_ = 0;
}

}  // namespace fpsa::train
