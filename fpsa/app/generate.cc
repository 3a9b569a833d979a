#include "fpsa/app/generate.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <chrono>
#include <iomanip>
#include <iostream>
#include <set>

#include "fpsa/app/attention_choice.h"
#include "fpsa/app/clip_files.h"
#include "fpsa/app/clip_shape.h"
#include "fpsa/app/decode.h"
#include "fpsa/app/flags.h"
#include "fpsa/app/failure.h"
#include "fpsa/app/interrupt.h"
#include "fpsa/app/latents_io.h"
#include "fpsa/app/machine.h"
#include "fpsa/app/memory_plan.h"
#include "fpsa/app/model_session.h"
#include "fpsa/app/outputs.h"
#include "fpsa/app/perf_record.h"
#include "fpsa/app/progress.h"
#include "fpsa/app/sampling_run.h"
#include "fpsa/app/usage_error.h"
#include "fpsa/diffusion/loop.h"
#include "fpsa/io/atomic_file.h"
#include "fpsa/ops/compute_dtype.h"

namespace fpsa::app {
namespace {

// "tiny" of "models/tiny/" or of "." in that folder.
std::string last_name(std::filesystem::path path) {
  path = std::filesystem::absolute(path).lexically_normal();
  return (path.has_filename() ? path : path.parent_path()).filename().string();
}

/// One run of the command; the members fill up stage by stage.
class Generation {
 public:
  explicit Generation(const GenerateOptions& options) : options_(options) {}
  void run();
  /// The flags that would make the run need less memory than it does.
  std::string memory_remedies() const;

 private:
  void check_outputs() const;
  void open_model();
  void choose_settings();
  void plan();
  void encode_prompts();
  void generate_video(int64_t index);
  at::Tensor denoise(const at::Tensor& initial, const TextStates& text, int64_t steps, VideoRecord* record,
                     const std::string& label);
  void write_video(const io::Video& video, const std::string& prompt, int64_t index);
  void finish();

  bool guided() const { return options_.guidance_scale > 1; }
  int64_t count() const { return static_cast<int64_t>(prompts_.size()); }
  std::filesystem::path output(const std::filesystem::path& path, int64_t index) const {
    return numbered(path, index + 1, count());
  }
  std::filesystem::path frames_folder(int64_t index) const {
    return count() == 1 ? options_.frames_dir : options_.frames_dir / output("clip", index);
  }
  nlohmann::json parameters(const std::string& prompt) const;

  const GenerateOptions& options_;
  std::vector<std::string> prompts_;
  std::unique_ptr<ModelSession> model_;
  ClipShape shape_;
  diffusion::SchedulerConfig scheduler_;
  diffusion::GuidanceRun guidance_run_ = diffusion::GuidanceRun::kBatched;
  std::optional<models::wan::VaeTiling> tiling_;
  AttentionChoice attention_;
  std::vector<TextStates> texts_;
  PerfRecord record_;
};

void Generation::run() {
  prompts_ = prompts_of(options_);
  open_model();
  check_outputs();
  choose_settings();
  plan();
  encode_prompts();
  {
    const auto timer = record_.stages.time("load");
    model_->transformer();
  }
  if (options_.warmup) {
    const auto timer = record_.stages.time("warmup");
    const auto noise = diffusion::make_noise(
        options_.seed, {shape_.latents[1], shape_.latents[2], shape_.latents[3], shape_.latents[4]});
    denoise(noise, texts_.front(), 1, nullptr, "warm up");
    attention_.method->reset();
  }
  for (int64_t i = 0; i < count(); ++i)
    generate_video(i);
  finish();
}

std::string Generation::memory_remedies() const {
  std::string text = "fewer --num-frames, a smaller --size";
  if (model_ && model_->dtype() == at::kFloat) text += ", --dtype bf16";
  if (guided() && guidance_run_ == diffusion::GuidanceRun::kBatched) text += ", --cfg sequential";
  if (!tiling_) text += ", --vae-tiling on";
  if (model_ && model_->vae_dtype() == at::kFloat) text += ", --vae-dtype bf16";
  if (options_.prompt_embeds.empty()) text += ", --prompt-embeds";
  return text;
}

void Generation::open_model() {
  const auto timer = record_.stages.time("load");
  model_ = std::make_unique<ModelSession>(options_.model, options_.parts, options_.prompt_embeds.empty(),
                                          options_.dtype, options_.vae_dtype, options_.loras);
  model_->scale_rope(options_.rope_scale);
  shape_ = clip_shape(options_.num_frames, options_.height, options_.width, model_->dit_config(), model_->vae_config());
}

void Generation::check_outputs() const {
  const int64_t pixels = shape_.frames * shape_.height * shape_.width * 3;
  int64_t latents = 4 + 1024;
  for (const auto extent : shape_.latents)
    latents *= extent;
  // Rough compressed sizes: an mp4 at this quality is far below a tenth of the pixels, a PNG of a real picture half.
  check_writable_file("--output", options_.output, count() * (pixels / 20 + 65536));
  if (!options_.dump_latents.empty())
    check_writable_file("--dump-latents", options_.dump_latents, count() * 2 * latents);
  if (!options_.perf_dump.empty()) check_writable_file("--perf-dump-path", options_.perf_dump, 65536);
  if (options_.frames_dir.empty()) return;
  check_writable_folder("--frames-dir", options_.frames_dir, count() * pixels / 4);
  for (int64_t i = 0; i < count(); ++i)
    check_no_other_frames("--frames-dir", frames_folder(i), shape_.frames);
}

void Generation::choose_settings() {
  scheduler_ = scheduler_for(options_, *model_);
  const auto& dit = model_->dit_config();
  attention_ = choose_attention(options_, model_->schedules(), shape_.grid, dit.num_layers, dit.num_attention_heads);
  // A LoRA has no scheduler's file; a shift that was asked for stands.
  if (attention_.shift && !options_.flow_shift) scheduler_.shift = *attention_.shift;
  record_.attention = attention_.name;
  record_.attention_reason = attention_.reason;
  say("attention: " + attention_.name + " (" + attention_.reason + ")");
}

void Generation::plan() {
  // Of one prompt until everything is chosen: a clip must not depend on what else is made in the same run.
  auto request = memory_request(*model_, shape_);
  guidance_run_ = choose_guidance(options_, request);

  request.tiled_vae = options_.vae_tiling == "on";
  if (options_.vae_tiling == "auto" && plan_memory(request).decode_bytes > comfortable_bytes()) {
    request.tiled_vae = true;
    say("VAE: decoding in tiles, whole frames would need more memory than is comfortable here");
  }
  if (request.tiled_vae) tiling_ = models::wan::VaeTiling{};

  request.prompts = count();
  const auto plan = plan_memory(request);
  record_.estimated_bytes = static_cast<double>(plan.peak_bytes());
  if (!options_.ignore_memory) check_memory(plan, request, memory_state().available_bytes);
  const bool slow_bf16 = options_.dtype == "auto" && ops::fast_compute_dtype() != at::kBFloat16;
  say(join(count(), count() == 1 ? " clip of " : " clips of ", shape_.frames, " frames ", shape_.width, "x",
           shape_.height, ", ", shape_.grid.volume(), " tokens (", shape_.grid.t, "x", shape_.grid.y, "x",
           shape_.grid.x, "), ", options_.steps, " steps of ", diffusion::sampler_name(scheduler_.sampler), ", shift ",
           scheduler_.shift, ", ", dtype_word(model_->dtype()), slow_bf16 ? " (this processor is slow in bf16)" : "", ", ",
           at::get_num_threads(), " threads, about ",
           bytes_text(plan.peak_bytes()), " at most (", plan.peak_stage(), ")"));
}

void Generation::encode_prompts() {
  if (options_.prompt_embeds.empty()) {
    const auto timer = record_.stages.time("load");
    model_->text_encoder();
  }
  const auto timer = record_.stages.time("text");
  texts_ = encode_texts(options_, *model_, prompts_);
}

at::Tensor Generation::denoise(const at::Tensor& initial, const TextStates& text, int64_t steps, VideoRecord* record,
                               const std::string& label) {
  diffusion::LoopOptions loop;
  loop.scheduler = scheduler_;
  loop.steps = steps;
  loop.guidance_scale = options_.guidance_scale;
  loop.guidance_run = guidance_run_;
  model_->transformer().set_e4m3_feed_forward(attention_.e4m3_feed_forward);
  return denoise_clip(*model_, *attention_.method, initial, text, loop, label, [&](double seconds) {
    if (record) record->step_seconds.push_back(seconds);
  });
}

void Generation::generate_video(int64_t index) {
  const auto& prompt = prompts_[static_cast<size_t>(index)];
  VideoRecord record{prompt, output(options_.output, index).filename().string(), {}, 0};
  const std::string label = count() == 1 ? "denoise" : join("denoise ", index + 1, "/", count());

  // Every prompt of a file starts from the same noise, so that one of them alone gives the same clip.
  const auto initial = options_.init_latents.empty()
                           ? diffusion::make_noise(options_.seed, {shape_.latents[1], shape_.latents[2],
                                                                   shape_.latents[3], shape_.latents[4]})
                           : read_latents(options_.init_latents, shape_.latents);
  at::Tensor final;
  {
    const auto timer = record_.stages.time("denoise");
    attention_.method->reset();
    final = denoise(initial, texts_[static_cast<size_t>(index)], options_.steps, &record, label);
    record.attention_seconds = attention_.method->seconds();
  }
  check_finite(final, "after the last step");
  record_.attention_report = attention_.method->report();
  if (options_.explain) std::cout << explain_text(record_.attention_report);
  if (index + 1 == count()) model_->release_transformer();
  if (!options_.dump_latents.empty()) {
    const WritingFiles writing;
    write_latents(output(options_.dump_latents, index), initial, final);
  }

  {
    const auto timer = record_.stages.time("load");
    model_->vae();
  }
  io::Video video;
  {
    const auto timer = record_.stages.time("vae");
    video = decode_video(model_->vae(), final, model_->vae_dtype(), tiling_, options_.fps, progress_on_stderr());
  }
  check_not_black(video);
  write_video(video, prompt, index);
  record_.videos.push_back(std::move(record));
}

void Generation::write_video(const io::Video& video, const std::string& prompt, int64_t index) {
  const auto timer = record_.stages.time("write");
  throw_if_interrupted();
  if (!options_.frames_dir.empty()) {
    const auto folder = frames_folder(index);
    std::filesystem::create_directories(folder);
    write_frames(folder, video);
  }
  const WritingFiles writing;
  io::Mp4Options mp4;
  mp4.comment = parameters(prompt).dump();
  io::write_mp4(output(options_.output, index), video, mp4);
}

nlohmann::json Generation::parameters(const std::string& prompt) const {
  nlohmann::json result = {{"fpsa_version", FPSA_VERSION},
                           {"model", last_name(options_.model)},
                           {"prompt", prompt},
                           {"negative_prompt", options_.negative_prompt},
                           {"height", shape_.height},
                           {"width", shape_.width},
                           {"num_frames", shape_.frames},
                           {"rope_scale", rope_scale_text(options_.rope_scale)},
                           {"fps", options_.fps},
                           {"num_inference_steps", options_.steps},
                           {"guidance_scale", options_.guidance_scale},
                           {"flow_shift", scheduler_.shift},
                           {"sampler", diffusion::sampler_name(scheduler_.sampler)},
                           {"attention", attention_.name},
                           {"dtype", dtype_word(model_->dtype())},
                           {"vae_dtype", dtype_word(model_->vae_dtype())},
                           {"vae_tiling", tiling_.has_value()},
                           {"cfg", guidance_run_ == diffusion::GuidanceRun::kBatched ? "batched" : "sequential"},
                           {"threads", at::get_num_threads()}};
  for (const auto& [key, part] :
       {std::pair{"vae", options_.parts.vae}, std::pair{"text_encoder", options_.parts.text_encoder},
        std::pair{"tokenizer", options_.parts.tokenizer}})
    if (!part.empty()) result[key] = last_name(part);
  for (const auto& lora : options_.loras)
    result["loras"].push_back({{"file", last_name(lora.path)}, {"scale", lora.scale}});
  if (options_.init_latents.empty()) result["seed"] = options_.seed;
  if (attention_.schedule) result["schedule"] = schedule::to_toml(*attention_.schedule);
  return result;
}

void Generation::finish() {
  record_.parameters = parameters(prompts_.front());
  if (!options_.perf_dump.empty()) {
    const WritingFiles writing;
    io::write_file(options_.perf_dump, record_.to_json().dump(2) + "\n");
  }
  std::cout << std::fixed;
  for (const auto& [stage, seconds] : record_.stages.stages())
    std::cout << stage << ' ' << std::setprecision(2) << seconds << " s  ";
  std::set<std::string> kernels;
  for (const auto& entry : record_.attention_report)
    kernels.insert(entry.kernel);
  std::cout << "\n"
            << std::setprecision(3) << record_.seconds_per_step() << " s/step, attention " << std::setprecision(1)
            << 100 * record_.attention_share() << "% of denoising, kernel";
  for (const auto& kernel : kernels)
    std::cout << ' ' << kernel;
  std::cout << ", peak memory " << bytes_text(peak_resident_bytes()) << '\n';
  for (int64_t i = 0; i < count(); ++i)
    std::cout << "wrote " << output(options_.output, i).string() << '\n';
  std::cout << std::flush;
}

}  // namespace

void generate(const GenerateOptions& options) {
  install_interrupt_handlers();
  const at::NoGradGuard no_grad;
  for (const auto& note : options.notes)
    say(note);
  choose_device(options);
  Generation generation(options);
  try {
    generation.run();
  } catch (const std::exception& error) {
    const auto text = out_of_memory(error);
    if (!text) throw;
    throw Error(*text + "; what helps: " + generation.memory_remedies());
  }
}

}  // namespace fpsa::app
