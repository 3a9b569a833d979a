#include "fpsa/train/data_manifest.h"

#include <algorithm>
#include <cctype>
#include <map>
#include <set>
#include <string_view>

#include "fpsa/base/check.h"
#include "fpsa/io/json.h"

namespace fpsa::train {
namespace {

namespace fs = std::filesystem;

// Lists of millions of captions are fine; a video that is named by mistake is not read into memory.
constexpr uint64_t kMostListBytes = uint64_t{4} << 30;

// Whitespace alone describes nothing.
bool is_blank(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](unsigned char c) { return std::isspace(c); });
}

std::string_view without_mark(std::string_view text) {
  return text.starts_with("\xEF\xBB\xBF") ? text.substr(3) : text;
}

// Keys of the cache are JSON, and the tokenizer wants UTF-8 as well.
bool is_utf8(const std::string& text) {
  try {
    return !nlohmann::json(text).dump().empty();
  } catch (const nlohmann::json::exception&) {
    return false;
  }
}

// Takes rows one by one and refuses what no row may be.
class Collector {
 public:
  explicit Collector(std::string origin) : origin_(std::move(origin)) {}

  void add(std::string file, std::string caption, int64_t line) {
    FPSA_CHECK(!is_blank(file), where(line), "expected the name of a video, received an empty one");
    FPSA_CHECK(!is_blank(caption), where(line), "'", file, "': expected a caption, received an empty one");
    FPSA_CHECK(is_utf8(file) && is_utf8(caption), where(line), "expected UTF-8, received other bytes");
    const auto [known, added] = lines_.emplace(fs::path(file).lexically_normal().string(), line);
    FPSA_CHECK(added, where(line), "'", file, "' is listed twice, first in line ", known->second, "; remove one");
    videos_.push_back({std::move(file), std::move(caption)});
  }
  std::string where(int64_t line) const { return join(origin_, ":", line, ": "); }
  std::vector<CaptionedVideo> finish() {
    FPSA_CHECK(!videos_.empty(), origin_, ": expected at least one video with a caption, found none");
    return std::move(videos_);
  }

 private:
  std::string origin_;
  std::map<std::string, int64_t> lines_;
  std::vector<CaptionedVideo> videos_;
};

std::vector<CaptionedVideo> read_jsonl(const std::string& text, const std::string& origin) {
  Collector rows(origin);
  int64_t number = 0;
  for (std::string_view rest = without_mark(text); !rest.empty();) {
    const size_t end = std::min(rest.find('\n'), rest.size());
    const std::string_view line = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    ++number;
    if (is_blank(line)) continue;
    const nlohmann::json row = io::parse_json(line, join(origin, ":", number));
    FPSA_CHECK(row.is_object(), rows.where(number), "expected {\"file\": ..., \"caption\": ...}, received ",
               row.type_name());
    for (const char* key : {"file", "caption"})
      FPSA_CHECK(row.contains(key) && row[key].is_string(), rows.where(number), "expected a text under \"", key,
                 "\", received ", row.contains(key) ? row[key].type_name() : "no such key");
    rows.add(row["file"], row["caption"], number);
  }
  return rows.finish();
}

std::vector<CaptionedVideo> read_csv(const std::string& text, const std::string& origin) {
  const auto records = parse_csv(without_mark(text), origin);
  FPSA_CHECK(!records.empty(), origin, ": expected a header with the columns file and caption, found an empty file");
  const auto& header = records.front().fields;
  const auto column = [&](const char* name) {
    const auto count = std::count(header.begin(), header.end(), name);
    FPSA_CHECK(count == 1, origin, ":", records.front().line, ": expected one column '", name,
               "' in the header, received ", count, " among ", header.size());
    return static_cast<size_t>(std::find(header.begin(), header.end(), name) - header.begin());
  };
  const size_t file = column("file"), caption = column("caption");
  Collector rows(origin);
  for (size_t i = 1; i < records.size(); ++i) {
    const auto& [fields, line] = records[i];
    FPSA_CHECK(fields.size() == header.size(), rows.where(line), "expected ", header.size(),
               " fields as in the header, received ", fields.size(), "; quote captions that hold commas");
    rows.add(fields[file], fields[caption], line);
  }
  return rows.finish();
}

fs::path find_list(const fs::path& folder) {
  const fs::path jsonl = folder / "captions.jsonl", csv = folder / "captions.csv";
  const bool has_jsonl = fs::exists(jsonl), has_csv = fs::exists(csv);
  FPSA_CHECK(has_jsonl || has_csv, "no captions in '", folder.string(),
             "': expected captions.jsonl or captions.csv, or 'captions' in the recipe");
  FPSA_CHECK(!has_jsonl || !has_csv, "'", folder.string(),
             "': expected captions.jsonl or captions.csv, found both; name one by 'captions' in the recipe");
  return has_jsonl ? jsonl : csv;
}

bool looks_like_video(const fs::path& path) {
  static const std::set<std::string> kSuffixes = {".mp4", ".mov",  ".m4v", ".mkv", ".webm", ".avi", ".gif", ".mpg",
                                                  ".ts",  ".mpeg", ".wmv", ".flv", ".ogv",  ".y4m", ".mts", ".m2ts"};
  std::string suffix = path.extension().string();
  for (char& c : suffix)
    c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return kSuffixes.contains(suffix);
}

std::vector<std::string> files_without_caption(const fs::path& folder, const std::vector<CaptionedVideo>& videos) {
  std::set<std::string> listed;
  for (const auto& video : videos)
    listed.insert((folder / video.file).lexically_normal().string());
  std::vector<std::string> out;
  std::error_code error;
  for (auto it = fs::recursive_directory_iterator(folder, error); !error && it != fs::recursive_directory_iterator();
       it.increment(error))
    if (looks_like_video(it->path()) && !listed.contains(it->path().lexically_normal().string()))
      out.push_back(it->path().lexically_relative(folder).string());
  FPSA_CHECK(!error, "cannot read the folder '", folder.string(), "': ", error.message());
  std::sort(out.begin(), out.end());
  return out;
}

}  // namespace

std::vector<CsvRecord> parse_csv(std::string_view text, const std::string& origin) {
  std::vector<CsvRecord> records;
  int64_t line = 1;
  for (size_t at = 0; at < text.size();) {
    CsvRecord record{{}, line};
    for (bool more = true; more;) {
      std::string field;
      if (at < text.size() && text[at] == '"') {
        const int64_t opened = line;
        for (++at;; ++at) {
          FPSA_CHECK(at < text.size(), origin, ":", opened, ": a quote is opened and never closed");
          if (text[at] == '\n') ++line;
          if (text[at] != '"') {
            field += text[at];
          } else if (at + 1 < text.size() && text[at + 1] == '"') {
            field += text[++at];
          } else {
            break;
          }
        }
        ++at;
      } else {
        for (; at < text.size() && text[at] != ',' && text[at] != '\n'; ++at) {
          FPSA_CHECK(text[at] != '"', origin, ":", line,
                     ": a quote inside an unquoted field; quote the whole field and double the quotes in it");
          field += text[at];
        }
        const bool ends_line = at == text.size() || text[at] == '\n';
        if (ends_line && field.ends_with('\r')) field.pop_back();
      }
      if (text.substr(at).starts_with("\r\n")) ++at;
      FPSA_CHECK(at == text.size() || text[at] == ',' || text[at] == '\n', origin, ":", line,
                 ": expected a comma or the end of the line behind a closing quote, received '", text[at], "'");
      record.fields.push_back(std::move(field));
      more = at < text.size() && text[at] == ',';
      ++at;
    }
    ++line;
    if (record.fields.size() > 1 || !record.fields.front().empty()) records.push_back(std::move(record));
  }
  return records;
}

Manifest read_manifest(const fs::path& folder, const fs::path& captions) {
  FPSA_CHECK(fs::is_directory(folder), "cannot read the folder of videos '", folder.string(),
             "': expected a folder, found ", fs::exists(folder) ? "a file" : "nothing");
  const fs::path list = captions.empty() ? find_list(folder) : captions;
  const std::string suffix = list.extension().string();
  FPSA_CHECK(suffix == ".jsonl" || suffix == ".csv", "captions '", list.string(),
             "': expected a name that ends in .jsonl or .csv");
  const std::string text = io::read_text_file(list, kMostListBytes);
  Manifest manifest;
  manifest.videos = suffix == ".csv" ? read_csv(text, list.string()) : read_jsonl(text, list.string());
  manifest.uncaptioned = files_without_caption(folder, manifest.videos);
  return manifest;
}

}  // namespace fpsa::train
