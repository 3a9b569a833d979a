#include "fpsa/train/previews.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>

#include "fpsa/models/wan/model.h"
#include "fpsa/models/wan/opened_part.h"
#include "fpsa/ops/compute_dtype.h"
#include "fpsa/train/clip_batch.h"
#include "fpsa/train/contact_sheet.h"
#include "fpsa/train/objective.h"
#include "fpsa/train/text_conditioner.h"
#include "fpsa/train/vae_codec.h"

namespace fpsa::train {

using models::wan::Part;

std::vector<EncodedPrompt> encode_captions(const models::wan::ModelPlace& place,
                                           const std::vector<std::string>& texts) {
  using models::wan::Tokenizer;
  const at::NoGradGuard no_grad;
  const models::wan::PartFiles files = find_part(place, Part::kTextEncoder);
  const auto encoder = models::wan::load_text_encoder(files, {.dtype = ops::fast_compute_dtype()});
  const Tokenizer tokenizer = load_tokenizer(place, {}, models::wan::open_part(files, Part::kTextEncoder));
  std::vector<EncodedPrompt> out;
  for (const std::string& text : texts) {
    const auto tokens = tokenizer.encode_batch({text}, Tokenizer::kMaxLength, models::wan::Padding::kLongest);
    out.push_back({text, encoder->encode(tokens.ids, tokens.mask)[0]});
  }
  return out;
}

void write_previews(const std::filesystem::path& file, models::wan::WanDit& dit, nn::AttentionMethod& attention,
                    const models::wan::ModelPlace& place, const std::vector<EncodedPrompt>& prompts,
                    const at::Tensor& empty, uint64_t seed, const SampleOptions& options) {
  const at::NoGradGuard no_grad;
  const VaeCodec codec = VaeCodec::load(find_part(place, Part::kVae));
  const auto [t, h, w] = options.latent_size;
  constexpr int64_t kTokens = 4608, kMost = 16;  // of one forward: activations of a few hundred MB at small widths
  const int64_t batch = std::clamp<int64_t>(kTokens / (t * (h / 2) * (w / 2)), 1, kMost);
  const auto count = static_cast<int64_t>(prompts.size());
  std::vector<SheetClip> clips;
  for (int64_t first = 0; first < count; first += batch) {
    std::vector<at::Tensor> states;
    for (int64_t i = first; i < std::min(count, first + batch); ++i)
      states.push_back(prompts[static_cast<size_t>(i)].states);
    states.resize(2 * states.size(), empty);
    const at::Tensor latents =
        sample_latents(dit, attention, condition_on(states), mix(seed, static_cast<uint64_t>(first)), options);
    for (int64_t i = 0; i < latents.size(0); ++i)
      clips.push_back(
          {prompts[static_cast<size_t>(first + i)].text, pixels_of(codec.decode(latents.narrow(0, i, 1))[0])});
  }
  write_contact_sheet(file, clips, /*columns=*/9, /*side=*/96);
}

}  // namespace fpsa::train
