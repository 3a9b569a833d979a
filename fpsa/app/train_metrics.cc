#include "fpsa/app/train_metrics.h"

#include <fstream>

namespace fpsa::app {
namespace {

using nlohmann::json;

int64_t step_of(const json& line) {
  return line.at("step").get<int64_t>();
}

void drop_from(std::vector<json>& lines, int64_t step) {
  while (!lines.empty() && step_of(lines.back()) >= step)
    lines.pop_back();
}

}  // namespace

TrainMetrics read_train_metrics(const std::filesystem::path& file) {
  TrainMetrics out;
  std::ifstream in(file);
  for (std::string text; std::getline(in, text);) {
    const json line = json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (!line.is_object()) {
      ++out.damaged;
      continue;
    }
    if (line.contains("data")) out.data = line["data"];
    if (!line.contains("step") || !line["step"].is_number_integer()) continue;
    if (line.contains("run")) {  // begun or resumed after this step
      for (auto* lines : {&out.reports, &out.evaluations})
        drop_from(*lines, step_of(line) + 1);
      continue;
    }
    const bool report = line.contains("learning_rate");
    drop_from(out.reports, step_of(line) + (report ? 0 : 1));
    drop_from(out.evaluations, step_of(line) + (report ? 1 : 0));
    (report ? out.reports : out.evaluations).push_back(line);
    out.last = line;
  }
  return out;
}

}  // namespace fpsa::app
