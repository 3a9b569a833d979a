#include "fpsa/app/study_summary.h"

#include <algorithm>
#include <cstdio>
#include <map>
#include <numeric>
#include <set>

#include "fpsa/base/check.h"

namespace fpsa::app {
namespace {

using nlohmann::json;

// Intervals of fewer prompts are shown, but no sentence leans on them without saying so.
constexpr int64_t kFewPrompts = 20;

double pooled(const ClipRecord& record) {
  return static_cast<double>(std::ranges::count(*record.correct, true)) / 4.0;
}

double all_right(const ClipRecord& record) {
  return std::ranges::count(*record.correct, true) == 4 ? 1.0 : 0.0;
}

const ClipRecord* record_of(const ArmResults& results, int64_t item) {
  const auto found = std::ranges::find(results.records, item, &ClipRecord::item);
  return found == results.records.end() ? nullptr : &*found;
}

// Mean over the prompts with records that have the value. Samples of one prompt are not independent: their mean counts
// once.
template <class Value>
std::optional<Estimate> estimate(const ArmResults& results, uint64_t seed, const Value& value) {
  std::map<int64_t, std::vector<double>> by_prompt;
  for (const auto& record : results.records)
    if (const std::optional<double> x = value(record)) by_prompt[record.prompt_index].push_back(*x);
  std::vector<double> values;
  for (const auto& [prompt, samples] : by_prompt)
    values.push_back(std::accumulate(samples.begin(), samples.end(), 0.0) / static_cast<double>(samples.size()));
  if (values.empty()) return std::nullopt;
  return bootstrap_mean(values, seed);
}

template <class Score>
std::optional<Estimate> change(const ArmResults& from, const ArmResults& to, uint64_t seed, const Score& score) {
  return estimate(to, seed, [&](const ClipRecord& record) -> std::optional<double> {
    const auto* other = record_of(from, record.item);
    if (!other || !other->correct || !record.correct) return std::nullopt;
    return score(record) - score(*other);
  });
}

std::optional<ArmAccuracy> accuracy_of(const ArmResults& results, const ArmResults& dense, uint64_t seed) {
  if (!results.arm.judged) return std::nullopt;
  ArmAccuracy out;
  for (const auto& record : results.records) {
    if (!record.correct) continue;
    for (size_t a = 0; a < 4; ++a) {
      out.attributes[a].right += (*record.correct)[a];
      ++out.attributes[a].total;
    }
    out.all.right += all_right(record) > 0;
    ++out.all.total;
  }
  if (out.all.total == 0) return std::nullopt;
  out.pooled = *estimate(results, seed, [](const ClipRecord& record) -> std::optional<double> {
    return record.correct ? std::optional(pooled(record)) : std::nullopt;
  });
  if (results.arm.name != dense.arm.name) {
    out.pooled_change = change(dense, results, seed, pooled);
    out.all_change = change(dense, results, seed, all_right);
  }
  return out;
}

std::optional<ArmSpeed> speed_of(const ArmResults& results, const std::string& machine) {
  std::vector<double> denoise, attention, decode, share, by_attention, by_denoise, by_total;
  for (const auto& record : results.records) {
    if (record.machine != machine) continue;
    const auto &own = record.seconds, &dense = record.dense;
    denoise.push_back(own.denoise);
    attention.push_back(own.attention);
    decode.push_back(own.decode);
    share.push_back(own.attention / own.denoise);
    by_attention.push_back(dense.attention / own.attention);
    by_denoise.push_back(dense.denoise / own.denoise);
    by_total.push_back(dense.total() / own.total());
  }
  if (denoise.empty() || results.arm.coding) return std::nullopt;
  ArmSpeed speed;
  speed.clips = static_cast<int64_t>(denoise.size());
  speed.seconds = {median(denoise), median(attention), median(decode)};
  speed.attention_share = median(share);
  speed.attention = median(by_attention);
  speed.denoise = median(by_denoise);
  speed.total = median(by_total);
  speed.total_low = quantile(by_total, 0.25);
  speed.total_high = quantile(by_total, 0.75);
  return speed;
}

std::string number(const char* format, double value) {
  char text[64];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

std::string points(const Estimate& e, double sign) {
  const double low = sign > 0 ? e.low : -e.high, high = sign > 0 ? e.high : -e.low;
  return number("%.1f", 100 * sign * e.mean) + " points [" + number("%.1f", 100 * low) + ", " +
         number("%.1f", 100 * high) + "]";
}

// "X loses 3.1 points [2.0, 4.4] of accuracy against Y (400 prompts)."
std::string accuracy_sentence(const std::string& arm, const std::string& other, const Estimate& change) {
  std::string text = arm;
  if (!change.has_interval()) {
    text += ": accuracy against " + other + " differs by " + number("%+.1f", 100 * change.mean) +
            " points on one prompt, which shows nothing";
  } else if (change.excludes_zero()) {
    text += change.mean < 0 ? " loses " + points(change, -1) : " gains " + points(change, 1);
    text += " of pooled accuracy against " + other;
  } else if (change.low == 0 && change.high == 0) {
    text += ": every prompt has the accuracy that it has with " + other;
  } else {
    text += ": no difference of pooled accuracy from " + other + " is shown, it changes by " + points(change, 1);
  }
  text += join(" (", change.count, change.count == 1 ? " prompt)." : " prompts).");
  if (change.count < kFewPrompts) text += " So few prompts make the interval unreliable.";
  return text;
}

// The arm of untrained weights that computes as a trained one does; null for others and without one.
const ArmResults* untrained_twin(const std::vector<ArmResults>& results, const Arm& trained) {
  if (!trained.trained) return nullptr;
  const auto found = std::ranges::find_if(results, [&](const ArmResults& other) {
    return !other.arm.trained && !other.arm.coding && other.arm.method == trained.method &&
           other.arm.schedule == trained.schedule;
  });
  return found == results.end() ? nullptr : &*found;
}

}  // namespace

std::string main_machine(const std::vector<ArmResults>& results) {
  std::map<std::string, int64_t> counts;
  for (const auto& result : results)
    for (const auto& record : result.records)
      ++counts[record.machine];
  const auto most = std::ranges::max_element(counts, {}, [](const auto& entry) { return entry.second; });
  return most == counts.end() ? std::string() : most->first;
}

std::vector<ArmSummary> summarise(const std::vector<ArmResults>& results, uint64_t seed) {
  FPSA_CHECK(!results.empty() && results.front().arm.name == kDenseArm, "summary: expected the dense arm first");
  const auto& dense = results.front();
  const auto machine = main_machine(results);
  std::vector<ArmSummary> out;
  for (const auto& result : results) {
    ArmSummary summary;
    summary.arm = result.arm;
    summary.planned = result.planned;
    summary.done = static_cast<int64_t>(result.records.size());
    std::set<std::string> kernels;
    summary.density = 0;
    for (const auto& record : result.records) {
      summary.density += record.density / static_cast<double>(result.records.size());
      kernels.insert(record.kernels.begin(), record.kernels.end());
      summary.identical += record.identical;
    }
    summary.kernels.assign(kernels.begin(), kernels.end());
    const auto ratio = [&](double ClipRecord::*value) {
      return [&dense, value](const ClipRecord& record) -> std::optional<double> {
        const auto* other = record_of(dense, record.item);
        return other && other->*value > 0 ? std::optional(record.*value / (other->*value)) : std::nullopt;
      };
    };
    if (result.arm.name != kDenseArm) {
      summary.psnr_db = estimate(result, seed, [](const ClipRecord& r) { return r.psnr_db; });
      summary.temporal_psnr_db = estimate(result, seed, [](const ClipRecord& r) { return r.temporal_psnr_db; });
      summary.ssim = estimate(result, seed, [](const ClipRecord& r) { return std::optional(r.ssim); });
      summary.lpips = estimate(result, seed, [](const ClipRecord& r) { return r.lpips; });
      summary.change_ratio = estimate(result, seed, ratio(&ClipRecord::change));
      summary.flicker_ratio = estimate(result, seed, ratio(&ClipRecord::flicker));
    }
    summary.speed = speed_of(result, machine);
    summary.accuracy = accuracy_of(result, dense, seed);
    out.push_back(std::move(summary));
  }
  return out;
}

std::vector<std::string> verdicts(const std::vector<ArmResults>& results, const std::vector<ArmSummary>& summaries,
                                  uint64_t seed) {
  std::vector<std::string> out;
  for (size_t i = 0; i < summaries.size(); ++i) {
    const auto& summary = summaries[i];
    if (summary.arm.group != ArmGroup::kMain || summary.arm.name == kDenseArm || summary.done == 0) continue;
    if (summary.accuracy && summary.accuracy->pooled_change)
      out.push_back(accuracy_sentence(summary.arm.label, "dense", *summary.accuracy->pooled_change));
    if (const auto* twin = summary.accuracy ? untrained_twin(results, summary.arm) : nullptr)
      if (const auto gain = change(*twin, results[i], seed, pooled))
        out.push_back(accuracy_sentence(summary.arm.label, "the same schedule training-free", *gain));
    if (summary.speed)
      out.push_back(join(summary.arm.label, ": attention ", number("%.2f", summary.speed->attention), "x, whole clip ",
                         number("%.2f", summary.speed->total), "x the speed of dense (medians of ",
                         summary.speed->clips, summary.speed->clips == 1 ? " pair" : " pairs",
                         " timed one after the other)."));
  }
  for (const auto& summary : summaries)
    if (summary.done < summary.planned)
      out.push_back(join(summary.arm.label, " is not complete: ", summary.done, " of ", summary.planned, " clips."));
  return out;
}

json to_json(const Estimate& estimate) {
  json result = {{"mean", estimate.mean}, {"count", estimate.count}, {"low", nullptr}, {"high", nullptr}};
  if (!estimate.has_interval()) return result;
  result["low"] = estimate.low;
  result["high"] = estimate.high;
  return result;
}

json to_json(const ArmSummary& s) {
  const auto optional = [](const std::optional<Estimate>& e) { return e ? to_json(*e) : json(); };
  const auto share = [](const train::Share& x) {
    return json{{"right", x.right}, {"total", x.total}, {"low", x.low()}, {"high", x.high()}};
  };
  json result = {{"name", s.arm.name},
                 {"label", s.arm.label},
                 {"group", name_of(s.arm.group)},
                 {"model", s.arm.model.string()},
                 {"method", s.arm.method},
                 {"schedule", s.arm.schedule ? json(schedule::to_toml(*s.arm.schedule)) : json()},
                 {"trained", s.arm.trained},
                 {"emulated", s.arm.coding.has_value()},
                 {"clips_planned", s.planned},
                 {"clips_done", s.done},
                 {"density", s.done > 0 ? json(s.density) : json()},
                 {"kernels", s.kernels},
                 {"identical_to_dense", s.identical},
                 {"psnr_db", optional(s.psnr_db)},
                 {"ssim", optional(s.ssim)},
                 {"lpips", optional(s.lpips)},
                 {"temporal_psnr_db", optional(s.temporal_psnr_db)},
                 {"change_ratio", optional(s.change_ratio)},
                 {"flicker_ratio", optional(s.flicker_ratio)},
                 {"speed", nullptr},
                 {"accuracy", nullptr}};
  if (s.speed)
    result["speed"] = {{"clips", s.speed->clips},
                       {"denoise_seconds", s.speed->seconds.denoise},
                       {"attention_seconds", s.speed->seconds.attention},
                       {"decode_seconds", s.speed->seconds.decode},
                       {"attention_share", s.speed->attention_share},
                       {"attention_ratio", s.speed->attention},
                       {"denoise_ratio", s.speed->denoise},
                       {"total_ratio", s.speed->total},
                       {"total_ratio_quartiles", {s.speed->total_low, s.speed->total_high}}};
  if (s.accuracy) {
    json accuracy = {{"all_right", share(s.accuracy->all)},
                     {"pooled", to_json(s.accuracy->pooled)},
                     {"pooled_change", optional(s.accuracy->pooled_change)},
                     {"all_right_change", optional(s.accuracy->all_change)}};
    for (size_t a = 0; a < 4; ++a)
      accuracy[std::string(train::kAttributeNames[a])] = share(s.accuracy->attributes[a]);
    result["accuracy"] = std::move(accuracy);
  }
  return result;
}

}  // namespace fpsa::app
