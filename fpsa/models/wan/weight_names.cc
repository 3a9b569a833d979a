// The tables. Facts are from the module definitions of the Wan2.1 repository (model.py, vae.py, t5.py) and of
// diffusers' and transformers' classes; tests/oracle/test_weight_names.py compares the result with the latter.
#include <charconv>
#include <span>

#include "fpsa/base/check.h"
#include "fpsa/models/wan/weight_map.h"

namespace fpsa::models::wan {
namespace {

struct Rename {
  std::string_view from, to;  // leading parts of a name, both ending where a segment ends
};

constexpr Rename kTransformer[] = {
    {"text_embedding.0.", "condition_embedder.text_embedder.linear_1."},
    {"text_embedding.2.", "condition_embedder.text_embedder.linear_2."},
    {"time_embedding.0.", "condition_embedder.time_embedder.linear_1."},
    {"time_embedding.2.", "condition_embedder.time_embedder.linear_2."},
    {"time_projection.1.", "condition_embedder.time_proj."},
    {"head.head.", "proj_out."},
    {"head.modulation", "scale_shift_table"},
};
// Within "blocks.N.". The norm of the cross-attention is the third in the original, the second in diffusers; the
// other two have no weights.
constexpr Rename kTransformerLayer[] = {
    {"modulation", "scale_shift_table"},     {"norm3.", "norm2."},
    {"ffn.0.", "ffn.net.0.proj."},           {"ffn.2.", "ffn.net.2."},
    {"self_attn.q.", "attn1.to_q."},         {"self_attn.k.", "attn1.to_k."},
    {"self_attn.v.", "attn1.to_v."},         {"self_attn.o.", "attn1.to_out.0."},
    {"self_attn.norm_q.", "attn1.norm_q."},  {"self_attn.norm_k.", "attn1.norm_k."},
    {"cross_attn.q.", "attn2.to_q."},        {"cross_attn.k.", "attn2.to_k."},
    {"cross_attn.v.", "attn2.to_v."},        {"cross_attn.o.", "attn2.to_out.0."},
    {"cross_attn.norm_q.", "attn2.norm_q."}, {"cross_attn.norm_k.", "attn2.norm_k."},
};

constexpr Rename kTextEncoder[] = {
    {"token_embedding.", "shared."},
    {"norm.", "encoder.final_layer_norm."},
};
// The gated feed-forward computes fc1(x) * gelu(gate(x)); transformers calls the gelu side wi_0.
constexpr Rename kTextEncoderLayer[] = {
    {"norm1.", "layer.0.layer_norm."},
    {"attn.q.", "layer.0.SelfAttention.q."},
    {"attn.k.", "layer.0.SelfAttention.k."},
    {"attn.v.", "layer.0.SelfAttention.v."},
    {"attn.o.", "layer.0.SelfAttention.o."},
    {"pos_embedding.embedding.", "layer.0.SelfAttention.relative_attention_bias."},
    {"norm2.", "layer.1.layer_norm."},
    {"ffn.gate.0.", "layer.1.DenseReluDense.wi_0."},
    {"ffn.fc1.", "layer.1.DenseReluDense.wi_1."},
    {"ffn.fc2.", "layer.1.DenseReluDense.wo."},
};

constexpr Rename kVae[] = {
    {"conv1.", "quant_conv."},
    {"conv2.", "post_quant_conv."},
};
// Within "encoder." and "decoder.".
constexpr Rename kVaeSide[] = {
    {"conv1.", "conv_in."},
    {"head.0.", "norm_out."},
    {"head.2.", "conv_out."},
    {"middle.0.", "mid_block.resnets.0."},
    {"middle.1.", "mid_block.attentions.0."},
    {"middle.2.", "mid_block.resnets.1."},
};
// Within a residual block: the sequence norm, silu, conv, norm, silu, dropout, conv.
constexpr Rename kVaeResidual[] = {
    {"residual.0.", "norm1."}, {"residual.2.", "conv1."},       {"residual.3.", "norm2."},
    {"residual.6.", "conv2."}, {"shortcut.", "conv_shortcut."},
};

std::optional<std::string> rename_front(std::string_view name, std::span<const Rename> table) {
  for (const Rename& row : table)
    if (name.starts_with(row.from)) return join(row.to, name.substr(row.from.size()));
  return std::nullopt;
}

struct Indexed {
  int64_t index;
  std::string_view rest;  // behind "list.N."
};

// Takes "list.N." off the front.
std::optional<Indexed> take_index(std::string_view name, std::string_view list) {
  if (!name.starts_with(list)) return std::nullopt;
  name.remove_prefix(list.size());
  int64_t index = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), index);
  if (error != std::errc() || end == name.data() + name.size() || *end != '.') return std::nullopt;
  return Indexed{index, name.substr(static_cast<size_t>(end - name.data()) + 1)};
}

std::string rename_listed(std::string_view name, std::span<const Rename> outer, std::span<const Rename> inner,
                          std::string_view list_to) {
  if (const auto entry = take_index(name, "blocks."))
    if (const auto rest = rename_front(entry->rest, inner)) return join(list_to, entry->index, ".", *rest);
  return rename_front(name, outer).value_or(std::string(name));
}

std::string rename_residual(std::string_view rest) {
  return rename_front(rest, kVaeResidual).value_or(std::string(rest));
}

}  // namespace

std::string transformer_name(std::string_view original) {
  return rename_listed(original, kTransformer, kTransformerLayer, "blocks.");
}

std::string text_encoder_name(std::string_view original) {
  return rename_listed(original, kTextEncoder, kTextEncoderLayer, "encoder.block.");
}

std::vector<DecoderPlace> decoder_places(const std::set<std::string>& names) {
  std::set<int64_t> entries, upsamplers;
  for (const std::string& name : names) {
    const auto entry = take_index(name, "decoder.upsamples.");
    if (!entry) continue;
    entries.insert(entry->index);
    if (entry->rest.starts_with("resample.")) upsamplers.insert(entry->index);
  }
  std::vector<DecoderPlace> places;
  int64_t level = 0, resnet = 0;
  for (int64_t index = 0; entries.contains(index); ++index) {
    const bool ends_level = upsamplers.contains(index);
    places.push_back({level, ends_level ? -1 : resnet});
    level += ends_level;
    resnet = ends_level ? 0 : resnet + 1;
  }
  return places;
}

std::string vae_name(std::string_view original, const std::vector<DecoderPlace>& places) {
  if (const auto entry = take_index(original, "encoder.downsamples."))
    return join("encoder.down_blocks.", entry->index, ".", rename_residual(entry->rest));
  if (const auto entry = take_index(original, "decoder.upsamples.")) {
    if (entry->index < 0 || entry->index >= static_cast<int64_t>(places.size())) return std::string(original);
    const DecoderPlace& place = places[static_cast<size_t>(entry->index)];
    const std::string level = join("decoder.up_blocks.", place.level, ".");
    return place.resnet < 0 ? join(level, "upsamplers.0.", entry->rest)
                            : join(level, "resnets.", place.resnet, ".", rename_residual(entry->rest));
  }
  for (const std::string_view side : {"encoder.", "decoder."}) {
    if (!original.starts_with(side)) continue;
    const std::string_view rest = original.substr(side.size());
    if (const auto renamed = rename_front(rest, kVaeSide)) {
      const bool residual = rest.starts_with("middle.0.") || rest.starts_with("middle.2.");
      if (!residual) return join(side, *renamed);
      const size_t at = std::string_view("mid_block.resnets.0.").size();
      return join(side, renamed->substr(0, at), rename_residual(std::string_view(*renamed).substr(at)));
    }
  }
  return rename_front(original, kVae).value_or(std::string(original));
}

}  // namespace fpsa::models::wan
