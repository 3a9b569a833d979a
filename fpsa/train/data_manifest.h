// Which videos a user trains on, and what their captions say.
//
//   captions.jsonl   one object per line: {"file": "a/b.mp4", "caption": "..."}; other keys are ignored
//   captions.csv     RFC 4180 with a header that names the columns file and caption; others are ignored
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace fpsa::train {

struct CaptionedVideo {
  std::string file;  // as the list has it: relative to the folder, or absolute
  std::string caption;
};

struct Manifest {
  std::vector<CaptionedVideo> videos;    // in the order of the list
  std::vector<std::string> uncaptioned;  // videos in the folder that the list does not name, sorted
};

/// Reads the list of a folder of videos. `captions` empty: captions.jsonl or captions.csv in the folder.
///   Edges     whether the files exist and can be decoded shows when they are read
///   Errors    fpsa::Error naming file and line: an unreadable folder or list, both lists or none, a bad line, an empty
///             or missing caption, a file that is listed twice, bad quoting, no videos at all
Manifest read_manifest(const std::filesystem::path& folder, const std::filesystem::path& captions = {});

/// One record of a CSV text, with the line it begins in.
struct CsvRecord {
  std::vector<std::string> fields;
  int64_t line = 0;
};

/// Parses RFC 4180: fields in quotes may hold commas, line breaks and doubled quotes; lines end in LF or CRLF.
///   Edges     a line break at the end of the text makes no record; empty lines are skipped
///   Errors    fpsa::Error naming origin and line: an open quote, a quote inside an unquoted field, text behind a
///             closing quote
std::vector<CsvRecord> parse_csv(std::string_view text, const std::string& origin);

}  // namespace fpsa::train
