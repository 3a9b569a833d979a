// The arms take turns prompt by prompt: the dense clip of an item comes first, whenever any arm lacks the item, and
// the others follow in an order that rotates. So each is compared, in pixels and in time, with a dense clip that was
// made by the same run minutes before, and no clips need to be kept for it.
#include "fpsa/app/study.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <set>

#include "fpsa/app/clip_metrics.h"
#include "fpsa/app/flags.h"
#include "fpsa/app/failure.h"
#include "fpsa/app/interrupt.h"
#include "fpsa/app/lpips.h"
#include "fpsa/app/machine.h"
#include "fpsa/app/outputs.h"
#include "fpsa/app/progress.h"
#include "fpsa/app/study_inputs.h"
#include "fpsa/app/study_page.h"
#include "fpsa/app/study_report.h"
#include "fpsa/app/study_sampler.h"
#include "fpsa/app/study_summary.h"
#include "fpsa/app/temporal_metrics.h"
#include "fpsa/app/usage_error.h"
#include "fpsa/io/atomic_file.h"
#include "fpsa/io/json.h"
#include "fpsa/train/clip_checker.h"

namespace fpsa::app {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// Steps that an estimate is made from: enough for every phase of a usual schedule to have one.
constexpr int64_t kEstimateSteps = 4;

std::string digest(const io::Video& video) {
  return digest_of({reinterpret_cast<const char*>(video.rgb.data()), video.rgb.size()});
}

class Study {
 public:
  explicit Study(const StudyOptions& options) : options_(options), sampler_(options.run) {}
  void run();

 private:
  bool procedural() const { return !prompts_.specs.empty(); }
  int64_t prompt_of(int64_t item) const { return item / options_.samples; }
  uint64_t seed_of(int64_t item) const { return options_.run.seed + static_cast<uint64_t>(item); }
  const std::string& text_of(int64_t item) const { return prompts_.texts[static_cast<size_t>(prompt_of(item))]; }

  void choose_arms();
  void open_lpips();
  json settings();
  void open_folder();
  bool shown(const ArmResults& results, int64_t item) const;
  fs::path vbench_path(const Arm& arm, int64_t item) const;
  bool pending(const ArmResults& results, int64_t item) const;
  int64_t pending_count(const ArmResults& results) const;
  bool pending_anywhere(int64_t item) const;
  void encode();
  void plan();
  void make_clips();
  void make_item(int64_t item);
  void finish(ArmResults& results, int64_t item, const MadeClip& clip, const MadeClip& dense);
  void write_videos(const ArmResults& results, int64_t item, const io::Video& video) const;
  void write_report() const;

  const StudyOptions& options_;
  StudySampler sampler_;
  StudyPrompts prompts_;
  std::string schedule_origin_, machine_;
  std::vector<ArmResults> results_;  // dense first
  int64_t items_ = 0;
  std::vector<std::string> left_out_;
  std::optional<Lpips> lpips_;
  std::optional<StudyFolder> folder_;
};

void Study::run() {
  machine_ = machine_line();
  prompts_ = study_prompts(options_, sampler_.model(options_.run.model));
  items_ = static_cast<int64_t>(prompts_.texts.size()) * options_.samples;
  choose_arms();
  open_lpips();
  open_folder();
  if (options_.report_only) {
    write_report();
    return;
  }
  plan();
  if (options_.dry_run) return;
  try {
    make_clips();
  } catch (const Interrupted&) {
    say("interrupted: every finished clip is kept, the same command goes on from here");
    write_report();
    throw;
  }
  write_report();
}

void Study::choose_arms() {
  ArmRequest request;
  request.model = options_.run.model;
  std::tie(request.schedule, schedule_origin_) = study_schedule(options_.run, sampler_.model(options_.run.model));
  say("schedule: " + schedule_origin_);
  request.grid = sampler_.shape().grid;
  request.prompts = static_cast<int64_t>(prompts_.texts.size());
  request.ablation_prompts = options_.ablation_prompts;
  request.judged = procedural();
  request.full = options_.full;
  for (const auto& [name, folder] : options_.trained) {
    FPSA_USAGE_CHECK(fs::exists(folder), "--trained: expected NAME=FOLDER with the folder of a model, got ",
                     folder.string(), ", which does not exist");
    const auto carried = sampler_.model(folder).schedule();
    TrainedModel trained{name, folder, std::nullopt};
    if (!carried.empty()) trained.schedule = schedule::parse_toml(carried, folder.string() + ": fpsa.schedule");
    request.trained.push_back(std::move(trained));
  }
  auto arms = built_in_arms(request);
  if (options_.full)
    for (const int percent : missing_of_frontier(arms))
      left_out_.push_back(join("Left out of the frontier: ", percent, "%, which no window of this grid and tile comes near, or which another arm is."));
  if (!options_.arms_file.empty()) add_arms_of_file(options_.arms_file, request, arms);
  for (auto& arm : select_arms(arms, options_.only)) {
    sampler_.add(arm);
    const int64_t planned = arm.prompts * options_.samples;
    results_.push_back({std::move(arm), planned, {}});
  }
}

void Study::open_lpips() {
  if (options_.lpips_weights.empty()) return;
  const auto& shape = sampler_.shape();
  FPSA_USAGE_CHECK(std::min(shape.height, shape.width) >= Lpips::kLeastSide, "--lpips-weights: expected clips of at ",
                   "least ", Lpips::kLeastSide, "x", Lpips::kLeastSide, ", got ", shape.width, "x", shape.height);
  lpips_.emplace(options_.lpips_weights);
}

json Study::settings() {
  const auto& run = options_.run;
  const auto& loop = sampler_.loop();
  return {{"format", 1},
          {"model", sampler_.weights(results_.front().arm)},
          {"prompts", procedural() ? "procedural" : "file"},
          {"samples", options_.samples},
          {"num_frames", sampler_.shape().frames},
          {"height", sampler_.shape().height},
          {"width", sampler_.shape().width},
          {"rope_scale", rope_scale_text(run.rope_scale)},
          {"num_inference_steps", loop.steps},
          {"guidance_scale", loop.guidance_scale},
          {"negative_prompt", run.negative_prompt},
          {"flow_shift", loop.scheduler.shift},
          {"sampler", diffusion::sampler_name(loop.scheduler.sampler)},
          {"seed", run.seed},
          {"dtype", dtype_word(sampler_.model(options_.run.model).dtype())},
          {"lpips", lpips_ ? json(lpips_->id()) : json()},
          {"cfg", loop.guidance_run == diffusion::GuidanceRun::kBatched ? "batched" : "sequential"},
          {"vae_tiling", sampler_.tiled()}};
}

void Study::open_folder() {
  const bool look_only = options_.dry_run;
  folder_.emplace(options_.out, settings(), look_only);
  if (!options_.vbench_layout.empty() && !look_only)
    check_writable_folder("--vbench-layout", options_.vbench_layout, 65536);
  for (auto& results : results_) {
    folder_->add(results.arm, sampler_.weights(results.arm));
    for (int64_t item = 0; item < results.planned; ++item)
      if (auto record = folder_->read(results.arm, item, text_of(item), seed_of(item)))
        results.records.push_back(std::move(*record));
  }
}

// The page plays the methods; for ablations their figures must do.
bool Study::shown(const ArmResults& results, int64_t item) const {
  return item < options_.shown_clips && (results.arm.group == ArmGroup::kMain || results.arm.group == ArmGroup::kOwn);
}

fs::path Study::vbench_path(const Arm& arm, int64_t item) const {
  return options_.vbench_layout / arm.name / join(text_of(item), '-', item % options_.samples, ".mp4");
}

bool Study::pending(const ArmResults& results, int64_t item) const {
  if (item >= results.planned) return false;
  if (std::ranges::find(results.records, item, &ClipRecord::item) == results.records.end()) return true;
  if (shown(results, item) && !fs::exists(folder_->clip(results.arm, item))) return true;
  return !options_.vbench_layout.empty() && !fs::exists(vbench_path(results.arm, item));
}

int64_t Study::pending_count(const ArmResults& results) const {
  int64_t count = 0;
  for (int64_t item = 0; item < results.planned; ++item)
    count += pending(results, item);
  return count;
}

bool Study::pending_anywhere(int64_t item) const {
  return std::ranges::any_of(results_, [&](const ArmResults& results) { return pending(results, item); });
}

void Study::encode() {
  std::map<fs::path, std::set<int64_t>> needed;
  for (int64_t item = 0; item < items_; ++item) {
    for (const auto& results : results_)
      if (pending(results, item)) needed[results.arm.model].insert(prompt_of(item));
    if (pending_anywhere(item)) needed[results_.front().arm.model].insert(prompt_of(item));
  }
  std::map<fs::path, std::vector<int64_t>> lists;
  for (const auto& [folder, indices] : needed)
    lists[folder] = {indices.begin(), indices.end()};
  sampler_.encode(prompts_.texts, lists);
}

void Study::plan() {
  const auto& shape = sampler_.shape();
  std::cout << results_.size() << " arms, " << shape.frames << " frames " << shape.width << 'x' << shape.height << ", "
            << shape.grid.volume() << " tokens (" << pattern::to_string(shape.grid) << "), " << sampler_.loop().steps
            << " steps, " << machine_ << '\n';
  if (options_.budget) encode();
  double total = 0;
  int64_t clips = 0;
  for (const auto& results : results_) {
    const bool dense = results.arm.name == kDenseArm;
    int64_t count = pending_count(results);
    if (dense) {  // it is made again beside every item that another arm lacks
      count = 0;
      for (int64_t item = 0; item < items_; ++item)
        count += pending_anywhere(item);
    }
    clips += count;
    char line[200];
    std::snprintf(line, sizeof line, "  %-28s %6lld of %lld clips", results.arm.name.c_str(),
                  static_cast<long long>(count), static_cast<long long>(results.planned));
    std::cout << line;
    if (options_.budget && count > 0) {
      double seconds = 0;
      std::vector<double> timed;
      for (const auto& record : results.records)
        if (record.machine == machine_) timed.push_back(record.seconds.total());
      int64_t first = 0;
      while (!(dense ? pending_anywhere(first) : pending(results, first)))
        ++first;
      seconds = timed.empty() ? sampler_.estimate_seconds(results.arm, prompt_of(first),
                                                          std::min(kEstimateSteps, sampler_.loop().steps))
                              : median(timed);
      total += seconds * static_cast<double>(count);
      std::snprintf(line, sizeof line, ", %8.1f s each, %8.2f h", seconds, seconds * static_cast<double>(count) / 3600);
      std::cout << line;
    }
    std::cout << '\n';
  }
  std::cout << "to make: " << clips << " clips";
  if (options_.budget) {
    char line[64];
    std::snprintf(line, sizeof line, ", about %.2f hours", total / 3600);
    std::cout << line;
  }
  std::cout << std::endl;
}

void Study::make_clips() {
  if (!options_.budget) encode();
  double seconds = 0;
  int64_t made = 0, left = 0;
  for (const auto& results : results_)
    left += pending_count(results);
  for (int64_t item = 0; item < items_; ++item) {
    if (!pending_anywhere(item)) continue;
    int64_t count = 0;
    for (const auto& results : results_)
      count += pending(results, item);
    const auto begin = std::chrono::steady_clock::now();
    make_item(item);
    seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    made += count;
    left -= count;
    say(join("item ", item + 1, "/", items_, " done, ", left, " clips left, about ",
             clock_text(seconds / static_cast<double>(made) * static_cast<double>(left))));
  }
}

void Study::make_item(int64_t item) {
  const auto label = [&](const Arm& arm) { return join(arm.name, ' ', item + 1, '/', items_); };
  auto& dense = results_.front();
  const auto baseline = sampler_.make(dense.arm, prompt_of(item), seed_of(item), label(dense.arm));
  if (pending(dense, item)) {
    finish(dense, item, baseline, baseline);
  } else if (const auto old = std::ranges::find(dense.records, item, &ClipRecord::item);
             old->digest != digest(baseline.video)) {
    say(join("item ", item + 1, ": the dense clip differs from the one of an earlier run, on ", old->machine,
             "; the arms made now are compared with the new one"));
  }
  const auto others = static_cast<int64_t>(results_.size()) - 1;
  for (int64_t i = 0; i < others; ++i) {
    auto& results = results_[static_cast<size_t>(1 + (i + item) % others)];
    if (!pending(results, item)) continue;
    finish(results, item, sampler_.make(results.arm, prompt_of(item), seed_of(item), label(results.arm)), baseline);
  }
}

void Study::finish(ArmResults& results, int64_t item, const MadeClip& clip, const MadeClip& dense) {
  ClipRecord record;
  record.item = item;
  record.prompt_index = prompt_of(item);
  record.prompt = text_of(item);
  record.seed = seed_of(item);
  record.machine = machine_;
  record.digest = digest(clip.video);
  record.seconds = clip.seconds;
  record.dense = dense.seconds;
  record.density = clip.density;
  record.kernels = clip.kernels;
  const auto difference = compare_clips(clip.video, dense.video);
  record.identical = difference.identical;
  record.ssim = difference.identical ? 1 : difference.ssim;  // of equal clips it is 1 but for rounding
  if (std::isfinite(difference.psnr_db)) record.psnr_db = difference.psnr_db;
  if (lpips_) record.lpips = difference.identical ? 0 : lpips_->distance(clip.video, dense.video);
  const auto temporal = temporal_psnr_db(clip.video, dense.video);
  if (temporal && std::isfinite(*temporal)) record.temporal_psnr_db = temporal;
  const auto motion = temporal_metrics(clip.video);
  record.change = motion.change;
  record.flicker = motion.flicker;
  if (procedural()) {
    const auto reading =
        train::check_clip(clip.video.rgb.data(), clip.video.frames, clip.video.height, clip.video.width);
    const auto agreement = train::compare(reading, prompts_.specs[static_cast<size_t>(prompt_of(item))]);
    record.correct = {agreement.shape, agreement.colour, agreement.background, agreement.motion};
  }
  throw_if_interrupted();
  // The videos first: a record says that everything of its item is there.
  write_videos(results, item, clip.video);
  folder_->write(results.arm, record);
  std::erase_if(results.records, [&](const ClipRecord& old) { return old.item == item; });
  results.records.insert(std::ranges::lower_bound(results.records, item, {}, &ClipRecord::item), record);
}

void Study::write_videos(const ArmResults& results, int64_t item, const io::Video& video) const {
  const WritingFiles writing;
  io::Mp4Options mp4;
  mp4.comment = json{{"prompt", text_of(item)}, {"seed", seed_of(item)}, {"arm", results.arm.name}}.dump();
  if (shown(results, item)) io::write_mp4(folder_->clip(results.arm, item), video, mp4);
  if (options_.vbench_layout.empty()) return;
  const auto path = vbench_path(results.arm, item);
  fs::create_directories(path.parent_path());
  io::write_mp4(path, video, mp4);
}

void Study::write_report() const {
  StudyReport report;
  report.model = options_.run.model.string();
  report.settings = io::read_json(folder_->path() / "study.json");
  report.schedule_origin = schedule_origin_;
  report.results = results_;
  report.summaries = summarise(results_, options_.run.seed);
  report.verdicts = verdicts(report.results, report.summaries, options_.run.seed);
  report.notes = study_notes(procedural(), !options_.trained.empty(), lpips_.has_value());
  report.notes.insert(report.notes.end(), left_out_.begin(), left_out_.end());
  report.machine = main_machine(results_);
  report.grid = pattern::to_string(sampler_.shape().grid);
  for (int64_t item = 0; item < std::min(items_, options_.shown_clips); ++item)
    for (const auto& results : results_)
      if (const auto file = folder_->clip(results.arm, item); shown(results, item) && fs::exists(file))
        report.clips.push_back({item, text_of(item), results.arm.label, file});
  const WritingFiles writing;
  io::AtomicFile page(folder_->path() / "report.html"), data(folder_->path() / "report.json");
  const auto html = study_page(report), text = study_json(report).dump(2) + "\n";
  page.write(html.data(), html.size());
  data.write(text.data(), text.size());
  page.commit();
  data.commit();
  for (const auto& verdict : report.verdicts)
    std::cout << verdict << '\n';
  std::cout << "wrote " << page.target().string() << "\nwrote " << data.target().string() << std::endl;
}

}  // namespace

void run_study(const StudyOptions& options) {
  install_interrupt_handlers();
  const at::NoGradGuard no_grad;
  choose_device(options.run);
  try {
    Study(options).run();
  } catch (const std::exception& error) {
    const auto text = out_of_memory(error);
    if (!text) throw;
    throw Error(*text + "; what helps: fewer --num-frames, a smaller --size, fewer models at once, --cfg sequential");
  }
}

}  // namespace fpsa::app
