#include "fpsa/train/latent_pool.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cstdio>
#include <vector>

#include "fpsa/base/check.h"
#include "fpsa/nn/tensor_map.h"
#include "fpsa/train/clip_batch.h"
#include "fpsa/train/objective.h"

namespace fpsa::train {

LatentPool::LatentPool(int64_t frames, int64_t height, int64_t width, uint64_t seed, int64_t capacity,
                       std::filesystem::path folder, std::string encoder_id, EncodeClips encode)
    : frames_(frames),
      height_(height),
      width_(width),
      seed_(seed),
      capacity_chunks_(std::max<int64_t>(1, capacity / kChunkClips)),
      folder_(std::move(folder) / join(frames, "x", height, "x", width)),
      encoder_id_(std::move(encoder_id)),
      encode_(std::move(encode)),
      grid_{(frames - 1) / 4 + 1, height / 16, width / 16} {
  std::filesystem::create_directories(folder_);
}

void LatentPool::grow_to(int64_t chunks, const EncodingProgress& progress) {
  next_chunk_ = std::max(next_chunk_, chunks - capacity_chunks_);  // older ones would be dropped again at once
  for (; next_chunk_ < chunks; ++next_chunk_)
    add_chunk(next_chunk_, chunks, progress);
  while (size() > capacity_chunks_ * kChunkClips)
    entries_.pop_front();
}

void LatentPool::add_chunk(int64_t chunk, int64_t chunks, const EncodingProgress& progress) {
  at::NoGradGuard no_grad;
  std::vector<ClipSpec> specs;
  for (int64_t i = 0; i < kChunkClips; ++i)
    specs.push_back(random_spec(mix(seed_, static_cast<uint64_t>(chunk * kChunkClips + i)), /*held_out_only=*/false));

  char name[48];
  std::snprintf(name, sizeof name, "chunk-%06lld.safetensors", static_cast<long long>(chunk));
  const auto file = folder_ / name;
  nn::LoadedTensors stored;
  if (std::filesystem::exists(file)) stored = nn::load_tensors(file);
  if (stored.metadata["encoder"] != encoder_id_ || stored.metadata["seed"] != std::to_string(seed_)) {
    std::vector<at::Tensor> latents, coverage;
    for (const auto& spec : specs) {
      if (progress)
        progress(chunk * kChunkClips + static_cast<int64_t>(latents.size()), chunks * kChunkClips, file.string());
      const Clip clip = render(spec, frames_, height_, width_);
      coverage.push_back(token_coverage(clip, grid_).mul_(255).round_().to(at::kByte));
      latents.push_back(encode_(video_of(clip).unsqueeze(0))[0].to(at::kBFloat16));
    }
    stored = {{{"latents", at::stack(latents)}, {"coverage", at::stack(coverage)}}, {}};
    nn::save_tensors(file, stored.tensors, {{"encoder", encoder_id_}, {"seed", std::to_string(seed_)}});
  }
  for (int64_t i = 0; i < kChunkClips; ++i)
    entries_.push_back(
        {specs[static_cast<size_t>(i)], stored.tensors["latents"][i].clone(), stored.tensors["coverage"][i].clone()});
}

}  // namespace fpsa::train
