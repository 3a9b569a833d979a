#include "fpsa/app/calibrate.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <iostream>
#include <vector>

#include "fpsa/accel/calibration.h"
#include "fpsa/app/calibrate_page.h"
#include "fpsa/app/calibrate_report.h"
#include "fpsa/app/failure.h"
#include "fpsa/app/interrupt.h"
#include "fpsa/app/machine.h"
#include "fpsa/app/outputs.h"
#include "fpsa/app/sampling_run.h"
#include "fpsa/app/usage_error.h"
#include "fpsa/io/atomic_file.h"
#include "fpsa/io/json.h"

namespace fpsa::app {
namespace {

// Bytes of the page and of the JSON for each measured error: seldom more, often less.
constexpr int64_t kReportBytes = 40;

schedule::Budget budget_of(const CalibrateOptions& options) {
  if (options.max_error) return {schedule::Limit::kError, *options.max_error};
  return {schedule::Limit::kDensity, options.density.value_or(0.25)};
}

schedule::Detail detail_of(const std::string& per) {
  if (per == "phases") return schedule::Detail::kPhases;
  return per == "layer" ? schedule::Detail::kLayers : schedule::Detail::kHeads;
}

schedule::Quant quant_of(const std::string& word) {
  return *std::ranges::find_if(schedule::kQuants, [&](schedule::Quant quant) { return schedule::name(quant) == word; });
}

/// One run of the command.
class CalibrationRun {
 public:
  explicit CalibrationRun(const CalibrateOptions& options) : options_(options), prompts_(prompts_of(options.run)) {}
  void run();

 private:
  void read_carried();
  schedule::CandidateList candidates() const;
  void check_outputs() const;
  void check_budget() const;
  void plan();
  void measure(accel::Calibration& calibration);
  void write(const CalibrationReport& report) const;

  const CalibrateOptions& options_;
  std::vector<std::string> prompts_;
  std::unique_ptr<ModelSession> model_;
  ClipShape shape_;
  diffusion::LoopOptions loop_;
  std::optional<schedule::Schedule> carried_;  // the checkpoint's
  schedule::CandidateList list_;
};

void CalibrationRun::run() {
  model_ = std::make_unique<ModelSession>(options_.run.model, options_.run.parts, options_.run.prompt_embeds.empty(),
                                          options_.run.dtype, "f32", options_.run.loras);
  model_->scale_rope(options_.run.rope_scale);
  shape_ = clip_shape(options_.run.num_frames, options_.run.height, options_.run.width, model_->dit_config(),
                      model_->vae_config());
  loop_.scheduler = scheduler_for(options_.run, *model_);
  loop_.steps = options_.run.steps;
  loop_.guidance_scale = options_.run.guidance_scale;
  read_carried();
  list_ = candidates();
  schedule::check_for_grid(list_, shape_.grid);
  check_budget();
  check_outputs();
  plan();

  accel::Calibration calibration({list_, options_.step_stride, options_.layer_stride, throw_if_interrupted});
  measure(calibration);
  const auto table = calibration.table();
  schedule::Choice choice;
  try {
    choice = schedule::choose(table, budget_of(options_), detail_of(options_.per));
  } catch (const Error& error) {
    throw Error(join(options_.max_error ? "--max-error: " : "--density: ", error.what()));
  }
  auto schedule = schedule::to_schedule(table, choice, loop_.scheduler.shift);
  if (carried_) schedule.feed_forward = carried_->feed_forward;
  schedule::check_for_grid(schedule, shape_.grid);
  schedule::check_for_model(schedule, model_->dit_config().num_layers, calibration.heads());
  for (const auto& cut :
       schedule::cut_axes(schedule, shape_.grid, model_->dit_config().num_layers, calibration.heads()))
    say("warning: " + cut +
        " no head sees past its own tile, so nothing passes there; raise --density or give "
        "--candidates without such windows");
  write({options_, prompts_, shape_, loop_, dtype_word(model_->dtype()), budget_of(options_), calibration, table,
         schedule});
}

void CalibrationRun::read_carried() {
  if (const auto carried = agreed_schedule(model_->schedules()))
    carried_ = schedule::parse_toml(carried->toml, carried->origin);
}

schedule::CandidateList CalibrationRun::candidates() const {
  if (!options_.candidates.empty())
    return schedule::parse_candidates(io::read_text_file(options_.candidates), options_.candidates.string());
  const auto tile = carried_ ? carried_->tile : schedule::default_tile(shape_.grid);
  return schedule::default_candidates(shape_.grid, tile, quant_of(options_.quant), detail_of(options_.per));
}

// What can be known before the work; a limit on the error cannot.
void CalibrationRun::check_budget() const {
  const auto budget = budget_of(options_);
  if (budget.limit != schedule::Limit::kDensity) return;
  const schedule::Candidate* sparsest = nullptr;
  double least = 0;
  for (const auto& candidate : list_.candidates)
    if (const double density = schedule::density_of(candidate, shape_.grid, list_.tile); !sparsest || density < least) {
      sparsest = &candidate;
      least = density;
    }
  FPSA_USAGE_CHECK(budget.value >= least, "--density: expected at least ", least,
                   ", the density of the sparsest candidate (", schedule::to_string(*sparsest), " of tile ",
                   pattern::to_string(list_.tile), "), got ", budget.value, "; raise it or give sparser --candidates");
}

void CalibrationRun::check_outputs() const {
  const auto& dit = model_->dit_config();
  const int64_t bytes = 65536 + kReportBytes * static_cast<int64_t>(list_.candidates.size()) * loop_.steps *
                                    dit.num_layers * dit.num_attention_heads / options_.layer_stride;
  check_writable_file("--output", options_.output, 1 << 20);
  check_writable_file("--report", options_.report, bytes);
  if (!options_.json.empty()) check_writable_file("--json", options_.json, 3 * bytes);
}

void CalibrationRun::plan() {
  auto request = memory_request(*model_, shape_);
  request.decodes = false;
  // Both outputs in the model's type and in F32, and one product of them.
  request.measured_bytes = 2 * request.element_bytes + 3 * 4;
  loop_.guidance_run = choose_guidance(options_.run, request);
  request.prompts = static_cast<int64_t>(prompts_.size());
  if (!options_.run.ignore_memory) check_memory(plan_memory(request), request, memory_state().available_bytes);
  say(join(prompts_.size(), prompts_.size() == 1 ? " prompt, " : " prompts, ", shape_.frames, " frames ", shape_.width,
           "x", shape_.height, ", ", shape_.grid.volume(), " tokens (", pattern::to_string(shape_.grid), "), ",
           loop_.steps, " steps of ", diffusion::sampler_name(loop_.scheduler.sampler), ", ", list_.candidates.size(),
           " candidates of tile ", pattern::to_string(list_.tile), ", ", at::get_num_threads(), " threads"));
}

void CalibrationRun::measure(accel::Calibration& calibration) {
  const auto texts = encode_texts(options_.run, *model_, prompts_);
  // The noise of `fpsa generate` with this seed: what is measured are the clips that it would make.
  const auto noise = diffusion::make_noise(
      options_.run.seed, {shape_.latents[1], shape_.latents[2], shape_.latents[3], shape_.latents[4]});
  // The linear layers as the model was trained, and as `fpsa generate` will run them; attention alone is measured.
  model_->transformer().set_e4m3_feed_forward(carried_ && carried_->feed_forward == schedule::Quant::kE4m3);
  for (size_t i = 0; i < texts.size(); ++i)
    denoise_clip(*model_, calibration, noise, texts[i], loop_,
                 texts.size() == 1 ? "calibrate" : join("calibrate ", i + 1, "/", texts.size()));
}

void CalibrationRun::write(const CalibrationReport& report) const {
  const auto text = schedule_text(report), page = calibration_page(report);
  throw_if_interrupted();
  const WritingFiles writing;
  // All are complete before the first appears under its name.
  std::vector<std::unique_ptr<io::AtomicFile>> files;
  const auto add = [&](const std::filesystem::path& path, const std::string& content) {
    files.push_back(std::make_unique<io::AtomicFile>(path));
    files.back()->write(content.data(), content.size());
  };
  add(options_.output, text);
  add(options_.report, page);
  if (!options_.json.empty()) add(options_.json, calibration_json(report));
  for (auto& file : files)
    file->commit();
  std::cout << summary_text(report);
  for (const auto& file : files)
    std::cout << "wrote " << file->target().string() << '\n';
  std::cout << std::flush;
}

}  // namespace

void calibrate(const CalibrateOptions& options) {
  install_interrupt_handlers();
  const at::NoGradGuard no_grad;
  choose_device(options.run);
  CalibrationRun run(options);
  try {
    run.run();
  } catch (const std::exception& error) {
    const auto text = out_of_memory(error);
    if (!text) throw;
    throw Error(*text + "; what helps: fewer --num-frames, a smaller --size, --dtype bf16, --cfg sequential");
  }
}

}  // namespace fpsa::app
