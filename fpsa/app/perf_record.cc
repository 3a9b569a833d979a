#include "fpsa/app/perf_record.h"

#include <algorithm>
#include <numeric>
#include <set>

#include "fpsa/app/machine.h"

namespace fpsa::app {

void StageTimes::add(const std::string& stage, double seconds) {
  const auto known =
      std::find_if(stages_.begin(), stages_.end(), [&](const auto& entry) { return entry.first == stage; });
  if (known == stages_.end()) {
    stages_.emplace_back(stage, seconds);
  } else {
    known->second += seconds;
  }
}

double StageTimes::seconds(const std::string& stage) const {
  for (const auto& [name, seconds] : stages_)
    if (name == stage) return seconds;
  return 0;
}

double StageTimes::total() const {
  double sum = 0;
  for (const auto& [name, seconds] : stages_)
    sum += seconds;
  return sum;
}

double PerfRecord::seconds_per_step() const {
  double sum = 0;
  size_t count = 0;
  for (const auto& video : videos) {
    sum = std::accumulate(video.step_seconds.begin(), video.step_seconds.end(), sum);
    count += video.step_seconds.size();
  }
  return count > 0 ? sum / static_cast<double>(count) : 0;
}

double PerfRecord::attention_seconds() const {
  double sum = 0;
  for (const auto& video : videos)
    sum += video.attention_seconds;
  return sum;
}

double PerfRecord::attention_share() const {
  double steps = 0;
  for (const auto& video : videos)
    steps = std::accumulate(video.step_seconds.begin(), video.step_seconds.end(), steps);
  return steps > 0 ? attention_seconds() / steps : 0;
}

nlohmann::json PerfRecord::to_json() const {
  auto stage_seconds = nlohmann::json::object();
  for (const auto& [name, seconds] : stages.stages())
    stage_seconds[name] = seconds;

  auto video_list = nlohmann::json::array();
  for (const auto& video : videos)
    video_list.push_back({{"prompt", video.prompt},
                          {"output", video.output},
                          {"step_seconds", video.step_seconds},
                          {"attention_seconds", video.attention_seconds}});

  std::set<std::string> kernels, isas;
  double density = 0;
  auto layers = nlohmann::json::array();
  for (const auto& entry : attention_report) {
    kernels.insert(entry.kernel);
    isas.insert(entry.isa);
    density += entry.density / static_cast<double>(attention_report.size());
    layers.push_back({{"step", entry.step},
                      {"layer", entry.layer},
                      {"method", entry.method},
                      {"kernel", entry.kernel},
                      {"isa", entry.isa},
                      {"coder", entry.coder},
                      {"pattern", entry.pattern},
                      {"density", entry.density},
                      {"granularity", entry.granularity},
                      {"reason", entry.reason}});
  }
  return {{"fpsa_version", FPSA_VERSION},
          {"parameters", parameters},
          {"machine", describe_machine()},
          {"stage_seconds", stage_seconds},
          {"total_seconds", stages.total()},
          {"seconds_per_step", seconds_per_step()},
          {"videos", video_list},
          {"attention",
           {{"method", attention},
            {"reason", attention_reason},
            {"seconds", attention_seconds()},
            {"share_of_denoising", attention_share()},
            {"mean_density", density},
            {"kernels", kernels},
            {"isa", isas},
            {"calls", layers}}},
          {"estimated_bytes", estimated_bytes},
          {"peak_rss_bytes", peak_resident_bytes()}};
}

}  // namespace fpsa::app
