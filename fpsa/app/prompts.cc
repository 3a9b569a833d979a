#include "fpsa/app/prompts.h"

#include <sstream>

#include "fpsa/base/check.h"
#include "fpsa/io/json.h"
#include "fpsa/models/wan/prompt.h"

namespace fpsa::app {

std::vector<std::string> read_prompt_file(const std::filesystem::path& path) {
  std::istringstream text(io::read_text_file(path));
  std::vector<std::string> prompts;
  for (std::string line; std::getline(text, line);)
    if (line.find_first_not_of(" \t\r") != std::string::npos) prompts.push_back(line);
  FPSA_CHECK(!prompts.empty(), "--prompt-file ", path.string(), ": expected one prompt per line, got no text");
  return prompts;
}

at::Tensor encode_prompt(ModelSession& model, const std::string& prompt) {
  using models::wan::Tokenizer;
  // Alone and without padding: a prompt's states do not depend on what else is generated with it.
  const auto tokens = model.tokenizer().encode_batch({models::wan::clean_prompt(prompt)}, Tokenizer::kMaxLength,
                                                     models::wan::Padding::kLongest);
  return pad_states(model.text_encoder().encode(tokens.ids, tokens.mask), Tokenizer::kMaxLength);
}

}  // namespace fpsa::app
