#include "fpsa/train/data_cache.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cstdio>
#include <optional>
#include <set>

#include "fpsa/base/check.h"
#include "fpsa/io/video_clips.h"
#include "fpsa/models/wan/model.h"
#include "fpsa/models/wan/opened_part.h"
#include "fpsa/models/wan/prompt.h"
#include "fpsa/ops/compute_dtype.h"
#include "fpsa/train/clip_batch.h"
#include "fpsa/train/vae_codec.h"

namespace fpsa::train {
namespace {

namespace fs = std::filesystem;
using models::wan::Part;
using nlohmann::json;

// Changes with the text encoder's weights without reading gigabytes: names, shapes and the first rows of each tensor.
std::string text_encoder_id(const models::wan::OpenedPart& part) {
  constexpr int64_t kSample = 1024;
  std::string text = part.config.dump();
  for (const auto& [name, tensor] : part.weights.tensors) {
    const at::Tensor sample = tensor.flatten().narrow(0, 0, std::min(kSample, tensor.numel()));
    text += join(name, tensor.sizes(), checksum(sample.contiguous()));
  }
  return checksum(at::from_blob(text.data(), {static_cast<int64_t>(text.size())}, at::kByte));
}

// Fields of a clip's key, by place.
enum KeyField : size_t { kFile = 1, kShape, kRate, kMost, kBytes, kTime, kEncoder, kFields };

json clip_key(const fs::path& path, const std::string& file, const Bucket& bucket, const DataConfig& config,
              const std::string& vae_id) {
  return {"clips",
          file,
          bucket,
          config.fps,
          config.clips,
          fs::file_size(path),
          fs::last_write_time(path).time_since_epoch().count(),
          vae_id};
}

// Why a clip that is in the cache under an older key is encoded again.
std::string difference(const json& now, const json& before) {
  if (now[kBytes] != before[kBytes] || now[kTime] != before[kTime]) return "the file has changed";
  if (now[kEncoder] != before[kEncoder]) return "the autoencoder is another";
  return "the recipe's fps or clips are others";
}

// A video's clips as one tensor [clips, C, T, H/8, W/8].
at::Tensor encode_video(const fs::path& path, const Bucket& bucket, const DataConfig& config, const VaeCodec& codec) {
  std::vector<at::Tensor> latents;
  const auto [frames, height, width] = bucket;
  io::read_clips(path, {frames, height, width, config.fps}, config.clips, [&](const io::Video& video) {
    const Clip clip{video.frames, video.height, video.width, video.rgb, {}};
    latents.push_back(codec.encode(video_of(clip).unsqueeze(0))[0].to(at::kBFloat16));
  });
  at::Tensor out = at::stack(latents);
  FPSA_CHECK(at::isfinite(out).all().item<bool>(), "the autoencoder gives values that are not finite for it");
  return out;
}

}  // namespace

json DataReport::to_json() const {
  json list = json::array();
  for (const auto& [file, reason] : skipped)
    list.push_back({{"file", file}, {"reason", reason}});
  return {{"data",
           {{"videos", videos},
            {"clips", clips},
            {"encoded", encoded},
            {"reused", reused},
            {"changed", changed},
            {"skipped_count", skipped.size()},
            {"skipped", list},
            {"uncaptioned", uncaptioned}}}};
}

std::string DataReport::text() const {
  std::string out =
      join("data: ", videos, " videos, ", clips, " clips; encoded ", encoded, ", from the cache ", reused, ", skipped ",
           skipped.size(), uncaptioned.empty() ? "" : join(", without a caption ", uncaptioned.size()));
  for (const auto& [file, reason] : skipped)
    out += join("\n  skipped ", file, ": ", reason);
  for (const auto& file : uncaptioned)
    out += join("\n  not used, it has no caption: ", file);
  return out;
}

ClipCache::ClipCache(const DataConfig& config, const std::vector<Bucket>& buckets, const models::wan::ModelPlace& place,
                     const DataHooks& hooks)
    : config_(config),
      manifest_(read_manifest(config.folder, config.captions)),
      clip_store_(
          config.cache, "clips", hooks.print ? hooks.print : [](const std::string&) {}),
      caption_store_(
          config.cache, "captions", hooks.print ? hooks.print : [](const std::string&) {}) {
  at::NoGradGuard no_grad;
  report_.videos = static_cast<int64_t>(manifest_.videos.size());
  report_.uncaptioned = manifest_.uncaptioned;
  // Once: cleaning what is clean may change it again ("&amp;amp;amp;").
  for (CaptionedVideo& video : manifest_.videos)
    video.caption = models::wan::clean_prompt(video.caption);
  try {
    prepare_clips(buckets, place, hooks);
    prepare_captions(place, hooks);
  } catch (...) {
    clip_store_.flush();
    caption_store_.flush();
    throw;
  }
  clip_store_.flush();
  caption_store_.flush();
  for (const Bucket& bucket : buckets) {
    FPSA_CHECK(!clips_[bucket].empty(), "no usable clip of ", bucket[0], "x", bucket[1], "x", bucket[2], " in '",
               config.folder.string(), "'; ", report_.text());
    report_.clips += size(bucket);
  }
}

void ClipCache::prepare_clips(const std::vector<Bucket>& buckets, const models::wan::ModelPlace& place,
                              const DataHooks& hooks) {
  const VaeCodec codec = VaeCodec::load(find_part(place, Part::kVae));
  std::map<json, json> older;  // by file and shape
  for (const json& key : clip_store_.keys())
    if (key.is_array() && key.size() == kFields) older[json::array({key[kFile], key[kShape]})] = key;
  const int64_t total = report_.videos * static_cast<int64_t>(buckets.size());
  int64_t done = 0;
  for (const Bucket& bucket : buckets)
    for (size_t i = 0; i < manifest_.videos.size(); ++i, ++done) {
      const std::string& file = manifest_.videos[i].file;
      const fs::path path = config_.folder / file;
      std::error_code absent;
      if (!fs::is_regular_file(path, absent)) {
        report_.skipped.emplace_back(file, "no such file");
        continue;
      }
      const json key = clip_key(path, file, bucket, config_, codec.id());
      const auto before = older.find(json::array({key[kFile], key[kShape]}));
      if (clip_store_.contains(key)) {
        ++report_.reused;
      } else {
        if (hooks.progress) hooks.progress(done, total, file);
        at::Tensor latents;
        try {
          latents = encode_video(path, bucket, config_, codec);
        } catch (const Error& error) {
          report_.skipped.emplace_back(file, error.what());
          continue;
        }
        clip_store_.put(key, latents);
        ++report_.encoded;
        if (before != older.end()) {
          ++report_.changed;
          if (hooks.print) hooks.print(join(file, ": encoded again, ", difference(key, before->second)));
        }
      }
      for (int64_t index = 0; index < clip_store_.get(key).size(0); ++index)
        clips_[bucket].push_back({key, index, i});
    }
}

json ClipCache::caption_key(const std::string& caption) const {
  return {"caption", caption, text_id_};
}

void ClipCache::prepare_captions(const models::wan::ModelPlace& place, const DataHooks& hooks) {
  using models::wan::Tokenizer;
  const models::wan::PartFiles files = find_part(place, Part::kTextEncoder);
  const models::wan::OpenedPart opened = open_part(files, Part::kTextEncoder);
  text_id_ = text_encoder_id(opened);
  std::set<std::string> missing;
  if (!caption_store_.contains(caption_key(""))) missing.insert("");
  for (const auto& [bucket, clips] : clips_)
    for (const Clip& clip : clips) {
      const std::string& caption = manifest_.videos[clip.video].caption;
      if (!caption_store_.contains(caption_key(caption))) missing.insert(caption);
    }
  if (missing.empty()) return;
  const auto encoder = models::wan::load_text_encoder(files, {.dtype = ops::fast_compute_dtype()});
  const Tokenizer tokenizer = load_tokenizer(place, {}, opened);
  int64_t done = 0;
  for (const std::string& caption : missing) {
    if (hooks.progress) hooks.progress(done++, static_cast<int64_t>(missing.size()), "caption");
    // Alone and without padding, as a prompt is encoded for generation.
    const auto tokens = tokenizer.encode_batch({caption}, Tokenizer::kMaxLength, models::wan::Padding::kLongest);
    caption_store_.put(caption_key(caption), encoder->encode(tokens.ids, tokens.mask)[0].to(at::kBFloat16));
  }
}

at::Tensor ClipCache::latents(const Bucket& bucket, int64_t index) const {
  const Clip& clip = clips_.at(bucket).at(static_cast<size_t>(index));
  return clip_store_.get(clip.key)[clip.index];
}

const std::string& ClipCache::caption(const Bucket& bucket, int64_t index) const {
  return manifest_.videos[clips_.at(bucket).at(static_cast<size_t>(index)).video].caption;
}

at::Tensor ClipCache::states(const Bucket& bucket, int64_t index) const {
  return caption_store_.get(caption_key(caption(bucket, index)));
}

at::Tensor ClipCache::empty_states() const {
  return caption_store_.get(caption_key(""));
}

std::vector<Bucket> buckets_of(const Recipe& recipe) {
  std::vector<Bucket> out;
  for (const Stage& stage : recipe.stages) {
    const Bucket bucket = {stage.frames, stage.height, stage.width};
    if (std::find(out.begin(), out.end(), bucket) == out.end()) out.push_back(bucket);
  }
  return out;
}

}  // namespace fpsa::train
