#include "fpsa/train/text_conditioner.h"

#include <algorithm>
#include <array>

namespace fpsa::train {

TextCondition encode_prompts(const models::wan::Umt5Encoder& encoder, const models::wan::Tokenizer& tokenizer,
                             const std::vector<std::string>& prompts) {
  constexpr double kRows = models::wan::Tokenizer::kMaxLength;
  const auto tokens =
      tokenizer.encode_batch(prompts, models::wan::Tokenizer::kMaxLength, models::wan::Padding::kLongest);
  const at::Tensor mask = tokens.mask.to(at::kFloat);
  const at::Tensor states = encoder.encode(tokens.ids, tokens.mask, at::kFloat) * mask.unsqueeze(-1);
  const at::Tensor lengths = mask.sum(1, /*keepdim=*/true);

  TextCondition out;
  out.pooled = states.sum(1) / lengths;
  out.states = at::constant_pad_nd(states, {0, 0, 0, 1});  // one zero row even after the longest prompt
  const at::Tensor padded = at::constant_pad_nd(mask, {0, 1});
  const at::Tensor zero_rows = static_cast<double>(padded.size(1)) - lengths;
  out.multiplicity = padded + (1 - padded) * ((kRows - lengths) / zero_rows);
  return out;
}

TextCondition condition_on(const std::vector<at::Tensor>& states) {
  constexpr double kRows = models::wan::Tokenizer::kMaxLength;
  int64_t longest = 0;
  for (const at::Tensor& prompt : states)
    longest = std::max(longest, prompt.size(0));
  const int64_t rows = longest + 1;  // one zero row even after the longest prompt
  TextCondition out;
  std::vector<at::Tensor> padded, counts;
  for (const at::Tensor& prompt : states) {
    const int64_t length = prompt.size(0);
    padded.push_back(at::constant_pad_nd(prompt.to(at::kFloat), {0, 0, 0, rows - length}));
    at::Tensor count = at::ones({rows}, at::kFloat);
    count.narrow(0, length, rows - length)
        .fill_((kRows - static_cast<double>(length)) / static_cast<double>(rows - length));
    counts.push_back(count);
  }
  out.states = at::stack(padded);
  out.multiplicity = at::stack(counts);
  return out;
}

at::Tensor slot_loss(const at::Tensor& logits, const std::vector<ClipSpec>& specs, const std::vector<bool>& keep) {
  std::vector<int64_t> rows;
  std::array<std::vector<int64_t>, 4> targets;
  for (size_t i = 0; i < specs.size(); ++i) {
    if (!keep[i]) continue;
    rows.push_back(static_cast<int64_t>(i));
    targets[0].push_back(static_cast<int64_t>(specs[i].shape));
    targets[1].push_back(static_cast<int64_t>(specs[i].colour));
    targets[2].push_back(static_cast<int64_t>(specs[i].background));
    targets[3].push_back(static_cast<int64_t>(specs[i].motion));
  }
  if (rows.empty()) return logits.sum() * 0.0;
  const std::array<int64_t, 4> widths = {kShapeNames.size(), kColourNames.size(), kBackgroundNames.size(),
                                         kMotionNames.size()};
  const at::Tensor kept = logits.index_select(0, at::tensor(rows));
  at::Tensor sum = at::zeros({}, at::kFloat);
  int64_t first = 0;
  for (size_t a = 0; a < widths.size(); ++a) {
    sum = sum + at::cross_entropy_loss(kept.narrow(1, first, widths[a]), at::tensor(targets[a]));
    first += widths[a];
  }
  return sum / 4.0;
}

}  // namespace fpsa::train
