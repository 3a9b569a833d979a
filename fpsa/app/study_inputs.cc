#include "fpsa/app/study_inputs.h"

#include <set>

#include "fpsa/app/prompts.h"
#include "fpsa/app/usage_error.h"
#include "fpsa/io/json.h"
#include "fpsa/train/dit_objective.h"

namespace fpsa::app {
namespace {

void check_names(const std::vector<std::string>& prompts) {
  std::set<std::string> seen;
  for (const auto& prompt : prompts) {
    FPSA_USAGE_CHECK(prompt.find('/') == std::string::npos && prompt.size() <= 240 && prompt[0] != '.',
                     "--vbench-layout: expected prompts that can name files, at most 240 bytes and without '/', got '",
                     prompt, "'");
    FPSA_USAGE_CHECK(seen.insert(prompt).second, "--vbench-layout: expected every prompt once, got '", prompt,
                     "' twice; their videos would have one name");
  }
}

}  // namespace

StudyPrompts study_prompts(const StudyOptions& options, const ModelSession& model) {
  StudyPrompts prompts;
  if (options.run.prompt_file.empty()) {
    FPSA_USAGE_CHECK(model.dit_config().to_json() == train::tiny_dit_config().to_json(), "--prompt-file: expected ",
                     "prompts for this model, got none; only the embedded model knows the procedural prompts that are ",
                     "the default");
    for (int64_t i = 0; i < options.prompts; ++i) {
      auto prompt = train::test_prompt(options.run.seed, i);
      prompts.texts.push_back(std::move(prompt.text));
      prompts.specs.push_back(prompt.spec);
    }
  } else {
    prompts.texts = read_prompt_file(options.run.prompt_file);
    if (static_cast<int64_t>(prompts.texts.size()) > options.prompts)
      prompts.texts.resize(static_cast<size_t>(options.prompts));
  }
  if (!options.vbench_layout.empty()) check_names(prompts.texts);
  return prompts;
}

std::pair<schedule::Schedule, std::string> study_schedule(const GenerateOptions& options, const ModelSession& model) {
  const auto read = [](const std::filesystem::path& path) {
    return std::pair{schedule::parse_toml(io::read_text_file(path), path.string()), path.string()};
  };
  if (!options.schedule.empty()) return read(options.schedule);
  const std::string carried = "the checkpoint's fpsa.schedule";
  if (const auto text = model.schedule(); !text.empty()) return {schedule::parse_toml(text, carried), carried};
  if (const auto own = options.model / "fps.toml"; std::filesystem::is_regular_file(own)) return read(own);
  return {schedule::default_schedule(), "the built-in default schedule"};
}

}  // namespace fpsa::app
