#include "fpsa/app/study_record.h"

#include <algorithm>
#include <cstdio>
#include <fstream>

#include "fpsa/app/interrupt.h"
#include "fpsa/app/usage_error.h"
#include "fpsa/io/atomic_file.h"
#include "fpsa/io/json.h"

namespace fpsa::app {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

uint64_t fnv(std::string_view bytes, uint64_t hash = 0xcbf29ce484222325u) {
  for (const char c : bytes)
    hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3u;
  return hash;
}

std::string hex(uint64_t value) {
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(value));
  return text;
}

std::string item_name(int64_t item, const char* suffix) {
  char text[48];
  std::snprintf(text, sizeof text, "item-%04lld%s", static_cast<long long>(item), suffix);
  return text;
}

json seconds_json(const ClipSeconds& s) {
  return {{"denoise", s.denoise}, {"attention", s.attention}, {"decode", s.decode}};
}

ClipSeconds seconds_from(const json& j) {
  return {j.at("denoise").get<double>(), j.at("attention").get<double>(), j.at("decode").get<double>()};
}

json optional_json(const std::optional<double>& value) {
  return value ? json(*value) : json();
}

std::optional<double> optional_from(const json& j) {
  return j.is_null() ? std::nullopt : std::optional(j.get<double>());
}

uint64_t file_hash(const fs::path& path, uint64_t hash) {
  constexpr uint64_t kPieces = 64, kBytes = 1 << 16;
  const uint64_t size = fs::file_size(path);
  hash = fnv(std::to_string(size), hash);
  std::ifstream in(path, std::ios::binary);
  std::string piece(kBytes, '\0');
  for (uint64_t i = 0; i < kPieces; ++i) {
    in.clear();
    in.seekg(static_cast<std::streamoff>(size > kBytes ? (size - kBytes) * i / (kPieces - 1) : 0));
    in.read(piece.data(), kBytes);
    hash = fnv({piece.data(), static_cast<size_t>(in.gcount())}, hash);
    if (size <= kBytes) break;
  }
  FPSA_CHECK(!in.bad(), path.string(), ": expected a readable file, got an error while reading");
  return hash;
}

void write_json(const fs::path& path, const json& content) {
  const WritingFiles writing;
  io::write_file(path, content.dump(1) + "\n");
}

}  // namespace

json to_json(const ClipRecord& record) {
  json result = {{"item", record.item},
                 {"prompt_index", record.prompt_index},
                 {"prompt", record.prompt},
                 {"seed", record.seed},
                 {"machine", record.machine},
                 {"digest", record.digest},
                 {"seconds", seconds_json(record.seconds)},
                 {"dense_seconds", seconds_json(record.dense)},
                 {"density", record.density},
                 {"kernels", record.kernels},
                 {"identical", record.identical},
                 {"psnr_db", optional_json(record.psnr_db)},
                 {"temporal_psnr_db", optional_json(record.temporal_psnr_db)},
                 {"ssim", record.ssim},
                 {"lpips", optional_json(record.lpips)},
                 {"change", record.change},
                 {"flicker", record.flicker},
                 {"correct", nullptr}};
  if (record.correct) result["correct"] = *record.correct;
  return result;
}

ClipRecord record_from_json(const json& j, const std::string& origin) {
  try {
    ClipRecord record;
    record.item = j.at("item").get<int64_t>();
    record.prompt_index = j.at("prompt_index").get<int64_t>();
    record.prompt = j.at("prompt").get<std::string>();
    record.seed = j.at("seed").get<uint64_t>();
    record.machine = j.at("machine").get<std::string>();
    record.digest = j.at("digest").get<std::string>();
    record.seconds = seconds_from(j.at("seconds"));
    record.dense = seconds_from(j.at("dense_seconds"));
    record.density = j.at("density").get<double>();
    record.kernels = j.at("kernels").get<std::vector<std::string>>();
    record.identical = j.at("identical").get<bool>();
    record.psnr_db = optional_from(j.at("psnr_db"));
    record.temporal_psnr_db = optional_from(j.at("temporal_psnr_db"));
    record.ssim = j.at("ssim").get<double>();
    record.lpips = optional_from(j.value("lpips", json()));  // studies of earlier versions have none
    record.change = j.at("change").get<double>();
    record.flicker = j.at("flicker").get<double>();
    if (!j.at("correct").is_null()) record.correct = j.at("correct").get<std::array<bool, 4>>();
    return record;
  } catch (const json::exception& error) {
    throw Error(join(origin, ": expected the record of a clip, got: ", error.what(), "; delete the file to redo it"));
  }
}

std::string digest_of(std::string_view bytes) {
  return hex(fnv(bytes));
}

std::string weights_digest(const std::vector<fs::path>& parts) {
  uint64_t hash = fnv("");
  for (const auto& part : parts) {
    std::vector<fs::path> files;
    if (fs::is_directory(part)) {
      for (const auto& entry : fs::directory_iterator(part))
        if (entry.path().extension() == ".safetensors") files.push_back(entry.path());
      std::sort(files.begin(), files.end());
    } else {
      files.push_back(part);
    }
    for (const auto& file : files)
      hash = file_hash(file, hash);
  }
  return hex(hash);
}

StudyFolder::StudyFolder(fs::path path, const json& settings, bool look_only)
    : path_(std::move(path)), look_only_(look_only) {
  const auto file = path_ / "study.json";
  if (fs::exists(file)) {
    const auto before = io::read_json(file);
    FPSA_CHECK(before.is_object(), file.string(), ": expected the settings of a study, got ", before.type_name());
    for (const auto& [key, value] : settings.items()) {
      // What earlier versions did not write was so.
      const json absent = key == "rope_scale" ? json("1,1,1") : json();
      const auto old = before.contains(key) ? before[key] : absent;
      FPSA_USAGE_CHECK(old == value, "--out: ", path_.string(), " holds a study with ", key, " ", old.dump(),
                       ", expected ", value.dump(), " as asked for now; give the same settings or another folder");
    }
    return;
  }
  FPSA_USAGE_CHECK(!fs::exists(path_) || (fs::is_directory(path_) && fs::is_empty(path_)), "--out: expected a ",
                   "study's folder, an empty one or none, got ", path_.string(),
                   " with other content; name another folder");
  if (look_only_) return;
  std::error_code error;
  fs::create_directories(path_, error);
  FPSA_CHECK(!error, "--out: expected a folder that can be made, got ", path_.string(), ": ", error.message());
  write_json(file, settings);
}

void StudyFolder::add(const Arm& arm, const std::string& weights) {
  auto identity = arm.identity();
  identity["model"] = weights;  // a folder that was moved is the same model
  const auto file = arm_folder(arm) / "arm.json";
  if (!fs::exists(file)) {
    if (look_only_) return;
    fs::create_directories(arm_folder(arm));
    write_json(file, identity);
    return;
  }
  const auto before = io::read_json(file);
  for (const auto& key : {"model", "method", "schedule", "p_coding"})
    FPSA_USAGE_CHECK(before.is_object() && before.value(key, json()) == identity.value(key, json()),
                     "--out: ", path_.string(), " has an arm '", arm.name, "' with another ", key,
                     " than asked for now; ", "name the arm otherwise, or delete ", arm_folder(arm).string(),
                     " to make it again");
}

std::optional<ClipRecord> StudyFolder::read(const Arm& arm, int64_t item, const std::string& prompt,
                                            uint64_t seed) const {
  const auto file = arm_folder(arm) / item_name(item, ".json");
  if (!fs::exists(file)) return std::nullopt;
  auto record = record_from_json(io::read_json(file), file.string());
  FPSA_USAGE_CHECK(record.prompt == prompt && record.seed == seed, file.string(), ": expected the prompt '", prompt,
                   "', got a clip of '", record.prompt, "'; give the same prompts in the same order, or another --out");
  return record;
}

void StudyFolder::write(const Arm& arm, const ClipRecord& record) const {
  write_json(arm_folder(arm) / item_name(record.item, ".json"), to_json(record));
}

fs::path StudyFolder::clip(const Arm& arm, int64_t item) const {
  return arm_folder(arm) / item_name(item, ".mp4");
}

}  // namespace fpsa::app
