#include "fpsa/train/position.h"

#include <charconv>
#include <cmath>
#include <cstdio>

#include "fpsa/base/check.h"

namespace fpsa::train {
namespace {

int64_t integer_from(const std::string& text, const std::string& where, int64_t largest) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  FPSA_CHECK(error == std::errc() && end == text.data() + text.size() && value >= 0 && value <= largest, where,
             ": expected an integer from 0 to ", largest, ", received '", text, "'; the checkpoint is damaged");
  return value;
}

double seconds_from(const std::string& text, const std::string& where) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  FPSA_CHECK(error == std::errc() && end == text.data() + text.size() && std::isfinite(value) && value >= 0, where,
             ": expected a number of seconds, received '", text, "'; the checkpoint is damaged");
  return value;
}

std::string exact(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.17g", value);
  return text;
}

}  // namespace

std::map<std::string, std::string> to_metadata(const Position& position) {
  return {{"step", std::to_string(position.step)},
          {"stage", std::to_string(position.stage)},
          {"stage_step", std::to_string(position.stage_step)},
          {"samples", std::to_string(position.samples)},
          {"skipped", std::to_string(position.skipped)},
          {"skipped_in_row", std::to_string(position.skipped_in_row)},
          {"stage_seconds", exact(position.stage_seconds)},
          {"total_seconds", exact(position.total_seconds)}};
}

Position position_from(const std::map<std::string, std::string>& metadata, int64_t stages, const std::string& origin) {
  const auto meta = [&](const std::string& key) {
    const auto it = metadata.find(key);
    FPSA_CHECK(it != metadata.end(), origin, " is not a training checkpoint: it has no '", key, "' in its metadata");
    return it->second;
  };
  const auto count = [&](const std::string& key, int64_t largest) {
    return integer_from(meta(key), join(origin, ": '", key, "'"), largest);
  };
  Position position;
  position.step = count("step", int64_t{1} << 48);
  position.stage = count("stage", stages);  // that many: the run is finished
  position.stage_step = count("stage_step", position.step);
  position.samples = count("samples", int64_t{1} << 56);
  if (metadata.contains("skipped")) {
    position.skipped = count("skipped", position.step);
    position.skipped_in_row = count("skipped_in_row", position.skipped);
  }
  position.stage_seconds = seconds_from(meta("stage_seconds"), join(origin, ": 'stage_seconds'"));
  position.total_seconds = seconds_from(meta("total_seconds"), join(origin, ": 'total_seconds'"));
  return position;
}

}  // namespace fpsa::train
