#include "fpsa/app/clip_flags.h"

#include <filesystem>

#include "fpsa/app/flags.h"
#include "fpsa/app/usage_error.h"

namespace fpsa::app {
namespace {

namespace fs = std::filesystem;

// What a model's folder may set in its fpsa.json: the shape of its clips and how they are sampled, nothing that
// names files or machines.
const std::vector<std::string> kFolderSettings = {
    "height",         "width",      "size",    "num-frames",     "fps", "num-inference-steps",
    "guidance-scale", "flow-shift", "sampler", "negative-prompt", "rope-scale"};

// FILE or FILE:SCALE. A file whose own name ends like that is taken as it is.
models::wan::LoraFile parse_lora(const std::string& text) {
  FPSA_USAGE_CHECK(!text.empty(), "--lora: expected FILE or FILE:SCALE, got an empty text");
  const size_t colon = text.rfind(':');
  if (colon == std::string::npos || fs::exists(text)) return {text, 1.0};
  FPSA_USAGE_CHECK(colon > 0, "--lora: expected FILE or FILE:SCALE, got '", text, "'");
  return {text.substr(0, colon), parse_number("--lora " + text, text.substr(colon + 1), -1000, 1000)};
}

void add_lora_flag(CLI::App& command, GenerateOptions& options) {
  command
      .add_option_function<std::vector<std::string>>(
          "--lora",
          [&options](const std::vector<std::string>& texts) {
            options.loras.clear();
            for (const std::string& text : texts)
              options.loras.push_back(parse_lora(text));
          },
          "LoRA to merge into the transformer: diffusers, PEFT, original or Comfy keys; may be given several times")
      ->type_name("FILE[:SCALE]")
      ->allow_extra_args(false)
      ->take_all()
      ->group("Content");
}

}  // namespace

void add_content_flags(CLI::App& command, GenerateOptions& options) {
  add_path(command, "--model,-m,--model-path,--ckpt-dir,--diffusion-model", options.model,
           "Folder or .safetensors file of a Wan2.1 text-to-video checkpoint")
      ->group("Content");
  add_path(command, "--vae,--vae-path", options.parts.vae, "VAE from elsewhere: folder or file [the model's own]")
      ->group("Content");
  add_path(command, "--text-encoder,--text-encoder-path,--t5,--t5-path,--t5xxl", options.parts.text_encoder,
           "UMT5 text encoder from elsewhere: folder or file [the model's own]")
      ->group("Content");
  add_path(command, "--tokenizer,--tokenizer-path", options.parts.tokenizer,
           "UMT5 tokenizer from elsewhere: folder or spiece.model [the model's own]")
      ->group("Content");
  add_lora_flag(command, options);
  add_text(command, "--prompt,-p", options.prompt, "What the video shows")->group("Content");
  add_path(command, "--prompt-file", options.prompt_file, "One prompt per line; videos are numbered")
      ->group("Content");
  add_text(command, "--negative-prompt,-n", options.negative_prompt, "What it should not show [empty]")
      ->group("Content");
  add_path(command, "--prompt-embeds", options.prompt_embeds,
           "safetensors with prompt_embeds [1,L,D] and, optionally, negative_prompt_embeds; no text encoder is loaded")
      ->group("Content");
  add_integer(command, "--height,-H", options.height, 1, 1 << 20, "Pixels [480, or the model's own]")->group("Content");
  add_integer(command, "--width,-W", options.width, 1, 1 << 20, "Pixels [832, or the model's own]")->group("Content");
  command.add_option("--size", "WIDTH*HEIGHT instead of the two")->type_name("W*H")->group("Content");
  add_integer(command, "--num-frames,--frame-num,--video-frames", options.num_frames, 1, 1 << 20,
              "Frames, 4k+1 [81, or the model's own]")
      ->group("Content");
  add_rope_scale(command, "--rope-scale", options.rope_scale)->group("Content");
}

void add_sampling_flags(CLI::App& command, GenerateOptions& options) {
  const std::string group = "Sampling";
  add_integer(command, "--num-inference-steps,--sample-steps,--steps", options.steps, 1, 1000, "Denoising steps [50]")
      ->group(group);
  add_number(command, "--guidance-scale,--sample-guide-scale,--cfg-scale", options.guidance_scale, 0, 1000,
             "Classifier-free guidance; at most 1 turns it off [5]")
      ->group(group);
  add_number(command, "--flow-shift,--sample-shift", options.flow_shift, 0.01, 100,
             "Shift of the noise levels [the model's scheduler]")
      ->group(group);
  add_choice(command, "--sampler,--sample-solver", options.sampler, {"unipc", "dpm++", "euler"},
             "[the model's scheduler, else unipc]")
      ->group(group);
  add_seed(command, "--seed,--base-seed,-s", options.seed, "Seed of the noise [0]")->group(group);
}

void add_machine_flags(CLI::App& command, GenerateOptions& options) {
  const std::string group = "Machine";
  add_choice(command, "--dtype", options.dtype, {"auto", "bf16", "f32"},
             "Compute type of transformer and text encoder [bf16 when the checkpoint is and this processor is fast in it, else f32]")
      ->group(group);
  add_integer(command, "--threads", options.threads, 1, 4096, "CPU threads [one per core]")->group(group);
  add_choice(command, "--device", options.device, {"auto", "cpu", "cuda"}, "[auto]")->group(group);
  add_choice(command, "--cfg", options.cfg, {"auto", "batched", "sequential"},
             "Prompt and negative prompt in one batch (faster) or one after the other (less memory) [auto]")
      ->group(group);
  add_switch(command, "--ignore-memory-check", options.ignore_memory, "Start even if memory will not suffice")
      ->group(group);
}

void add_config_flag(CLI::App& command) {
  command.add_option("--config", "Settings file, .json or .toml; keys are these flags, the command line wins")
      ->type_name("PATH")
      ->group("Output");
}

void merge_settings(CLI::App& command, GenerateOptions& options) {
  expand_size(command);
  if (command.count("--config") > 0) {
    const fs::path path = command.get_option("--config")->as<std::string>();
    apply_settings(command, read_settings(path), "--config " + path.string());
  }
  FPSA_USAGE_CHECK(!options.model.empty(), "--model: expected the folder of a checkpoint, got nothing; ",
                   "for the embedded model: --model models/tiny");
  if (const auto own = options.model / "fpsa.json"; fs::is_regular_file(own))
    apply_settings(command, read_settings(own), own.string(), kFolderSettings);
}

void check_prompts(const CLI::App& command, const GenerateOptions& options) {
  const int sources = (command.count("--prompt") > 0) + !options.prompt_file.empty() + !options.prompt_embeds.empty();
  FPSA_USAGE_CHECK(sources == 1, "--prompt: expected exactly one of --prompt, --prompt-file and --prompt-embeds, got ",
                   sources == 0 ? "none" : "several");
  FPSA_USAGE_CHECK(options.prompt_embeds.empty() || options.negative_prompt.empty(),
                   "--negative-prompt: expected none beside --prompt-embeds, got one; ",
                   "put negative_prompt_embeds into the file");
  for (const auto& [flag, path] :
       {std::pair{"--text-encoder", options.parts.text_encoder}, std::pair{"--tokenizer", options.parts.tokenizer}})
    FPSA_USAGE_CHECK(options.prompt_embeds.empty() || path.empty(), flag,
                     ": expected none beside --prompt-embeds, which replaces it; drop one of the two");
}

}  // namespace fpsa::app
