// Prompts into what the video transformer cross-attends to, in training's compact form.
//
// Inference gives the transformer 512 rows: the prompt's states, then zeros. All zero rows are one and the same key,
// so training passes the prompt's rows and one or more zero rows with the number of rows each stands for.
#pragma once

#include <ATen/ATen.h>

#include <string>
#include <vector>

#include "fpsa/models/wan/text_encoder.h"
#include "fpsa/models/wan/tokenizer.h"
#include "fpsa/train/clips.h"

namespace fpsa::train {

struct TextCondition {
  at::Tensor states;        // [B, Lt, d_model] F32, zeros after each prompt
  at::Tensor multiplicity;  // [B, Lt] F32; each row of it sums to 512
  at::Tensor pooled;        // [B, d_model], mean over the prompt's tokens
};

/// Encodes prompts; differentiable in the encoder's weights.
TextCondition encode_prompts(const models::wan::Umt5Encoder& encoder, const models::wan::Tokenizer& tokenizer,
                             const std::vector<std::string>& prompts);

/// The same of prompts that are encoded already; `pooled` stays undefined.
///   Shapes    states: one [tokens, d_model] per prompt, without padding
TextCondition condition_on(const std::vector<at::Tensor>& states);

/// The number of values that the slot classifier predicts: one softmax per attribute, side by side.
inline constexpr int64_t kSlotLogits =
    kShapeNames.size() + kColourNames.size() + kBackgroundNames.size() + kMotionNames.size();

/// Mean cross-entropy of the four attributes over the samples with keep[i].
///   Shapes    logits [B, kSlotLogits]
at::Tensor slot_loss(const at::Tensor& logits, const std::vector<ClipSpec>& specs, const std::vector<bool>& keep);

}  // namespace fpsa::train
