#include "fpsa/app/memory_plan.h"

#include <algorithm>
#include <vector>

#include "fpsa/app/machine.h"
#include "fpsa/base/check.h"
#include "fpsa/models/wan/tokenizer.h"

namespace fpsa::app {
namespace {

// libtorch, codecs and allocator slack, measured on a run with a model of a few MB.
constexpr int64_t kProgramBytes = int64_t{300} << 20;

// The states of all prompts and of the negative one are made first and kept to the end.
int64_t states_bytes(const MemoryRequest& r) {
  return (r.prompts + 1) * models::wan::Tokenizer::kMaxLength * r.dit.text_dim * r.element_bytes;
}

// One prompt at full length: the residual stream with its normed copy, then whichever is larger of the gated hidden
// states and of Q, K, V, output, bias, scores and weights. Scores are at least F32.
int64_t encode_bytes(const MemoryRequest& r) {
  constexpr int64_t tokens = models::wan::Tokenizer::kMaxLength;
  const auto& text = r.text;
  const int64_t attention =
      4 * tokens * text.num_heads * text.d_kv * r.element_bytes + 3 * text.num_heads * tokens * tokens * 4;
  const int64_t hidden = 3 * tokens * text.d_ff * r.element_bytes;
  return 3 * tokens * text.d_model * 4 + std::max(attention, hidden);
}

// F32 latents between the forwards: noise, sample, both predictions and their blend, and the sampler's history.
int64_t latents_bytes(const MemoryRequest& r) {
  int64_t elements = 1;
  for (const int64_t extent : r.shape.latents)
    elements *= extent;
  return 8 * elements * 4;
}

// One forward: the F32 residual stream and its normed copies, then whichever is larger of Q, K, V with the attention
// output and of the feed-forward's hidden states.
int64_t forward_bytes(const MemoryRequest& r) {
  const int64_t tokens = r.batch * r.shape.grid.volume();
  const int64_t dim = r.dit.dim();
  const int64_t stream = 4 * dim * 4;
  const int64_t layer = std::max(6 * dim, 2 * r.dit.ffn_dim + dim) * r.element_bytes + r.measured_bytes * dim;
  return tokens * (stream + layer);
}

// One chunk of temporal_factor() frames at full resolution dominates: the widest convolution there holds its input
// with two frames of past, its output, the normed copy and the residual; every convolution keeps two frames of past.
int64_t chunk_bytes(const MemoryRequest& r, int64_t height, int64_t width) {
  const auto& vae = r.vae;
  const int64_t pixels = height * width;
  const int64_t channels = vae.decoder_dim() * vae.dim_mult.front();
  const int64_t frames = std::max<int64_t>(vae.temporal_factor(), 1);
  const int64_t live = (4 * frames + 2) * channels;
  const int64_t past = 2 * 2 * (vae.num_res_blocks + 1) * channels;
  // Coarser levels hold a quarter of the pixels each with up to four times the channels: about half as much again.
  return (live + past) * pixels * r.vae_element_bytes * 3 / 2;
}

}  // namespace

int64_t MemoryPlan::peak_bytes() const {
  return std::max({text_bytes, denoise_bytes, decode_bytes});
}

const char* MemoryPlan::peak_stage() const {
  if (decode_bytes == peak_bytes()) return "VAE";
  return denoise_bytes == peak_bytes() ? "denoising" : "text encoder";
}

MemoryPlan plan_memory(const MemoryRequest& r) {
  const int64_t dit = r.dit_weights.loaded_bytes(r.element_bytes);
  const int64_t vae = r.vae_weights.loaded_bytes(r.vae_element_bytes);
  const int64_t pixels = r.shape.frames * r.shape.height * r.shape.width * 3;
  // A stage's weights are given back at its end; but with several clips the transformer waits while the VAE decodes
  // one of them, and the VAE stays for the next.
  const bool both = r.prompts > 1 && r.decodes;
  const int64_t always = kProgramBytes + states_bytes(r);
  MemoryPlan plan;
  if (r.text_weights.parameters > 0)
    plan.text_bytes = always + r.text_weights.loaded_bytes(r.element_bytes) +
                      std::max(r.text_weights.loading_bytes(), encode_bytes(r));
  plan.denoise_bytes =
      always + dit + (both ? vae : 0) + latents_bytes(r) + std::max(r.dit_weights.loading_bytes(), forward_bytes(r));
  if (!r.decodes) return plan;
  plan.decode_bytes = always + vae + (both ? dit : 0) + latents_bytes(r) + 2 * pixels;
  if (r.tiled_vae) {
    // All tiles of the whole clip are kept as F32 pixels until they are blended; they overlap by a quarter per axis.
    plan.decode_bytes += chunk_bytes(r, 256, 256) + 3 * pixels * 4;
  } else {
    plan.decode_bytes += chunk_bytes(r, r.shape.height, r.shape.width);
  }
  return plan;
}

void check_memory(const MemoryPlan& plan, const MemoryRequest& request, int64_t available_bytes) {
  if (plan.peak_bytes() <= available_bytes) return;
  // Each remedy is offered only where it lowers the peak, largest gain first.
  struct Remedy {
    std::string text;
    int64_t peak;
  };
  std::vector<Remedy> remedies;
  const auto consider = [&](std::string text, const MemoryRequest& changed) {
    const auto peak = plan_memory(changed).peak_bytes();
    if (peak < plan.peak_bytes()) remedies.push_back({std::move(text), peak});
  };
  if (request.element_bytes > 2) {
    auto changed = request;
    changed.element_bytes = 2;
    consider("--dtype bf16", changed);
  }
  if (request.batch > 1) {
    auto changed = request;
    changed.batch = 1;
    consider("--cfg sequential", changed);
  }
  if (!request.tiled_vae) {
    auto changed = request;
    changed.tiled_vae = true;
    consider("--vae-tiling on", changed);
  }
  if (request.vae_element_bytes > 2) {
    auto changed = request;
    changed.vae_element_bytes = 2;
    consider("--vae-dtype bf16", changed);
  }
  auto smaller = request;
  smaller.shape.grid.t = (request.shape.grid.t + 1) / 2;
  smaller.shape.frames = (request.shape.frames + 1) / 2;
  smaller.shape.latents[2] = (request.shape.latents[2] + 1) / 2;
  consider("half of --num-frames", smaller);
  smaller = request;
  smaller.shape.height /= 2;
  smaller.shape.grid.y = (request.shape.grid.y + 1) / 2;
  smaller.shape.latents[3] = (request.shape.latents[3] + 1) / 2;
  consider("half of --height", smaller);
  if (request.text_weights.parameters > 0) {
    auto changed = request;
    changed.text_weights = {};
    consider("--prompt-embeds", changed);
  }
  if (request.prompts > 1) {
    auto changed = request;
    changed.prompts = 1;
    consider("one --prompt at a time", changed);
  }
  std::stable_sort(remedies.begin(), remedies.end(), [](const auto& a, const auto& b) { return a.peak < b.peak; });
  std::string text;
  for (const auto& remedy : remedies)
    text += (text.empty() ? "" : ", ") + remedy.text + " (" + bytes_text(remedy.peak) + ")";
  throw Error(join("memory: expected about ", bytes_text(plan.peak_bytes()), " to be available for the ",
                   plan.peak_stage(), ", got ", bytes_text(available_bytes),
                   "; what helps: ", text.empty() ? "a smaller model" : text, "; --ignore-memory-check starts anyway"));
}

}  // namespace fpsa::app
