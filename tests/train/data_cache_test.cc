// The cache of encoded videos: what it reuses, what it encodes again, what it skips, and what damage does to it.
#include "fpsa/train/data_cache.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "fpsa/base/check.h"
#include "fpsa/io/video.h"
#include "fpsa/io/video_clips.h"
#include "fpsa/models/wan/model.h"
#include "fpsa/train/clip_batch.h"
#include "fpsa/train/clips.h"
#include "fpsa/train/text_conditioner.h"
#include "fpsa/train/vae_codec.h"
#include "tests/io/scratch.h"

namespace fpsa::train {
namespace {

namespace fs = std::filesystem;
using testing::count_files;
using testing::error_of;
using testing::read_raw;
using testing::ScratchFolder;
using testing::write_raw;

const Bucket kBucket = {5, 32, 32};

Clip write_clip(const fs::path& path, uint64_t seed, int64_t frames = 5) {
  fs::create_directories(path.parent_path());
  const Clip clip = render(random_spec(seed, false), frames, 32, 32);
  io::write_mp4(path, {frames, 32, 32, 16, clip.rgb}, {.crf = 1, .comment = ""});
  return clip;
}

// Two videos under models/tiny's own VAE and text encoder.
struct Videos {
  Videos() {
    write_clip(folder() / "a.mp4", 1);
    write_clip(folder() / "b.mp4", 2);
    write_list({"a.mp4", "b.mp4"});
  }
  fs::path folder() const { return scratch / "videos"; }
  fs::path cache() const { return scratch / "cache"; }
  void write_list(const std::vector<std::string>& files) const {
    std::string text = "file,caption\n";
    for (const auto& file : files)
      text += file + ",a video called " + file + "\n";
    write_raw(folder() / "captions.csv", text);
  }
  ClipCache open(DataConfig config = {}, std::vector<Bucket> buckets = {kBucket}) {
    said.clear();
    config.folder = folder();
    config.cache = cache();
    return ClipCache(config, buckets, models::wan::find_model("models/tiny"),
                     {[this](const std::string& line) { said += line + "\n"; }, {}});
  }
  ScratchFolder scratch;
  std::string said;
};

void expect_report(const DataReport& report, int64_t encoded, int64_t reused, int64_t changed, size_t skipped) {
  EXPECT_EQ(report.encoded, encoded);
  EXPECT_EQ(report.reused, reused);
  EXPECT_EQ(report.changed, changed);
  EXPECT_EQ(report.skipped.size(), skipped) << report.text();
}

TEST(ClipCache, HoldsWhatTheEncodersGive) {
  Videos videos;
  const ClipCache cache = videos.open();
  expect_report(cache.report(), 2, 0, 0, 0);
  ASSERT_EQ(cache.size(kBucket), 2);
  const VaeCodec codec = VaeCodec::load(fs::path("models/tiny/vae"));
  at::Tensor expected;
  io::read_clips(videos.folder() / "b.mp4", {5, 32, 32, 16}, 1, [&](const io::Video& video) {
    const Clip clip{video.frames, video.height, video.width, video.rgb, {}};
    expected = codec.encode(video_of(clip).unsqueeze(0))[0].to(at::kBFloat16);
  });
  EXPECT_TRUE(at::equal(cache.latents(kBucket, 1), expected));
  EXPECT_GT(cache.states(kBucket, 0).size(0), cache.empty_states().size(0));
  EXPECT_EQ(cache.empty_states().size(0), 1) << "the empty prompt is the end-of-text id alone";
  EXPECT_EQ(cache.states(kBucket, 0).size(1), 128);
}

TEST(ClipCache, ASecondRunEncodesNothing) {
  Videos videos;
  const at::Tensor first = videos.open().latents(kBucket, 0).clone();
  const size_t files = count_files(videos.cache());
  const ClipCache again = videos.open();
  expect_report(again.report(), 0, 2, 0, 0);
  EXPECT_TRUE(at::equal(again.latents(kBucket, 0), first));
  EXPECT_EQ(count_files(videos.cache()), files);
  EXPECT_EQ(videos.said, "");
}

TEST(ClipCache, OnlyWhatIsNewOrChangedIsEncoded) {
  Videos videos;
  videos.open();
  write_clip(videos.folder() / "c.mp4", 3);
  videos.write_list({"a.mp4", "b.mp4", "c.mp4"});
  expect_report(videos.open().report(), 1, 2, 0, 0);
  write_clip(videos.folder() / "a.mp4", 9);
  expect_report(videos.open().report(), 1, 2, 1, 0);
  FPSA_EXPECT_CONTAINS(videos.said, "a.mp4: encoded again, the file has changed");
  DataConfig faster;
  faster.fps = 32;
  expect_report(videos.open(faster).report(), 3, 0, 3, 0);
  FPSA_EXPECT_CONTAINS(videos.said, "the recipe's fps or clips are others");
  // A second size is no change of the first; a new caption encodes no video.
  expect_report(videos.open({}, {kBucket, {5, 16, 16}}).report(), 3, 3, 0, 0);
  write_raw(videos.folder() / "captions.csv", "file,caption\na.mp4,another caption\n");
  expect_report(videos.open().report(), 0, 1, 0, 0);
}

TEST(ClipCache, UnreadableAndShortVideosAreSkippedCountedAndNamed) {
  Videos videos;
  write_raw(videos.folder() / "text.mp4", "not a video");
  write_clip(videos.folder() / "short.mp4", 4, 3);
  const std::string whole = read_raw(videos.folder() / "b.mp4");
  write_raw(videos.folder() / "cut.mp4", whole.substr(0, whole.size() / 4));
  write_clip(videos.folder() / "extra.mp4", 5);
  videos.write_list({"a.mp4", "text.mp4", "short.mp4", "cut.mp4", "gone.mp4"});
  const DataReport report = videos.open().report();
  expect_report(report, 1, 0, 0, 4);
  EXPECT_EQ(report.videos, 5);
  EXPECT_EQ(report.clips, 1);
  const std::string text = report.text(), json = report.to_json().dump();
  for (const char* part : {"skipped text.mp4: ", "skipped short.mp4: ", "too short", "skipped cut.mp4: ",
                           "skipped gone.mp4: no such file", "b.mp4", "extra.mp4", "without a caption 2"})
    FPSA_EXPECT_CONTAINS(text, part);
  FPSA_EXPECT_CONTAINS(json, "\"skipped_count\":4");
  FPSA_EXPECT_CONTAINS(json, "\"file\":\"gone.mp4\"");
}

TEST(ClipCache, CaptionsAreCleanedOnceAsPromptsAre) {
  Videos videos;
  // Two rounds of character references leave "&amp;", which a third would change.
  write_raw(videos.folder() / "captions.csv", "file,caption\na.mp4,1 < 2  &amp;amp;amp; 3\nb.mp4,1 < 2 &amp; 3\n");
  {
    const ClipCache cache = videos.open();
    EXPECT_FALSE(at::equal(cache.states(kBucket, 0), cache.states(kBucket, 1)));
  }
  const size_t files = count_files(videos.cache());
  EXPECT_GT(videos.open().states(kBucket, 0).size(0), 2);
  EXPECT_EQ(count_files(videos.cache()), files);
}

TEST(ClipCache, NothingUsableIsAnError) {
  Videos videos;
  videos.write_list({"gone.mp4"});
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] { videos.open(); }), "no usable clip of 5x32x32");
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] { videos.open(); }), "gone.mp4");
}

TEST(ClipCache, SeveralClipsOfOneVideoFollowOneAnother) {
  Videos videos;
  write_clip(videos.folder() / "long.mp4", 6, 13);
  videos.write_list({"long.mp4", "a.mp4"});
  DataConfig config;
  config.clips = 4;
  const ClipCache cache = videos.open(config);
  EXPECT_EQ(cache.size(kBucket), 3) << "two of the long one, one of the short";
  EXPECT_FALSE(at::equal(cache.latents(kBucket, 0), cache.latents(kBucket, 1)));
  EXPECT_TRUE(at::equal(cache.states(kBucket, 0), cache.states(kBucket, 1)));
}

TEST(ClipCache, DamagedShardsAreSetAsideAndEncodedAgain) {
  Videos videos;
  const at::Tensor first = videos.open().latents(kBucket, 1).clone();
  const fs::path shard = videos.cache() / "clips-000000.safetensors";
  const std::string whole = read_raw(shard);
  std::string flipped = whole;
  flipped[flipped.size() - 3] = static_cast<char>(flipped[flipped.size() - 3] ^ 1);
  for (const std::string& damaged : {flipped, whole.substr(0, whole.size() / 2), std::string()}) {
    for (const auto& item : fs::directory_iterator(videos.cache()))
      if (item.path().filename().string().starts_with("clips")) fs::remove(item);
    write_raw(shard, damaged);
    const ClipCache cache = videos.open();
    expect_report(cache.report(), 2, 0, 0, 0);
    FPSA_EXPECT_CONTAINS(videos.said,
                         "clips-000000.safetensors cannot be used and is now clips-000000.safetensors.dam");
    EXPECT_FALSE(fs::exists(shard));
    EXPECT_EQ(read_raw(shard.string() + ".damaged"), damaged);
    EXPECT_TRUE(at::equal(cache.latents(kBucket, 1), first));
    expect_report(videos.open().report(), 0, 2, 0, 0);
  }
}

TEST(ClipCache, WhatWasEncodedSurvivesAnInterruption) {
  Videos videos;
  struct Stop {};
  DataConfig config;
  config.folder = videos.folder();
  config.cache = videos.cache();
  const auto place = models::wan::find_model("models/tiny");
  EXPECT_THROW(ClipCache(config, {kBucket}, place,
                         {{},
                          [](int64_t done, int64_t, const std::string&) {
                            if (done == 1) throw Stop();
                          }}),
               Stop);
  expect_report(videos.open().report(), 1, 1, 0, 0);
}

TEST(ClipCache, AFolderThatCannotBeMadeIsNamed) {
  Videos videos;
  write_raw(videos.cache(), "a file");
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] { videos.open(); }), "cannot make the cache folder");
}

TEST(ShardStore, WritesAShardWheneverOneIsFull) {
  ScratchFolder scratch;
  const auto no_warning = [](const std::string& line) { FAIL() << line; };
  {
    ShardStore store(scratch.path(), "x", no_warning);
    for (size_t i = 0; i < ShardStore::kShardTensors + 1; ++i)
      store.put({"key", i}, at::full({3}, static_cast<double>(i)));
    EXPECT_EQ(count_files(scratch.path()), 1u);
    EXPECT_THROW(store.put({"key", 0}, at::zeros({1})), Error);
  }
  ShardStore store(scratch.path(), "x", no_warning);
  EXPECT_EQ(store.keys().size(), ShardStore::kShardTensors) << "the last one was never flushed";
  EXPECT_TRUE(at::equal(store.get({"key", 7}), at::full({3}, 7.0)));
  store.put({"key", 99}, at::zeros({1}));
  store.flush();
  EXPECT_TRUE(fs::exists(scratch / "x-000001.safetensors"));
}

TEST(ShardStore, TwoRunsInOneFolderKeepOutOfEachOthersWay) {
  ScratchFolder scratch;
  const auto no_warning = [](const std::string& line) { FAIL() << line; };
  ShardStore one(scratch.path(), "x", no_warning), other(scratch.path(), "x", no_warning);
  one.put({"key", 1}, at::full({3}, 1.0));
  other.put({"key", 2}, at::full({3}, 2.0));
  one.flush();
  other.flush();
  EXPECT_TRUE(at::equal(one.get({"key", 1}), at::full({3}, 1.0)));
  EXPECT_EQ(ShardStore(scratch.path(), "x", no_warning).keys().size(), 2u);
}

TEST(ShardStore, TheChecksumSeesEveryBit) {
  at::Tensor bytes = at::zeros({19}, at::kByte);
  const std::string zero = checksum(bytes);
  EXPECT_NE(checksum(at::zeros({20}, at::kByte)), zero);
  for (int64_t i = 0; i < bytes.numel(); ++i)
    for (int bit = 0; bit < 8; ++bit) {
      bytes[i] = 1 << bit;
      EXPECT_NE(checksum(bytes), zero) << i << " " << bit;
      bytes[i] = 0;
    }
}

TEST(TextCondition, OfEncodedPromptsIsThatOfThePrompts) {
  const auto place = models::wan::find_model("models/tiny");
  const auto files = find_part(place, models::wan::Part::kTextEncoder);
  const auto encoder = models::wan::load_text_encoder(files, {.dtype = at::kFloat});
  const auto tokenizer = models::wan::Tokenizer::load("models/tiny/tokenizer");
  const TextCondition expected = encode_prompts(*encoder, tokenizer, {"a red circle", "", "two cats run fast"});
  std::vector<at::Tensor> states;
  for (const std::string prompt : {"a red circle", "", "two cats run fast"}) {
    const auto tokens = tokenizer.encode_batch({prompt}, 512, models::wan::Padding::kLongest);
    states.push_back(encoder->encode(tokens.ids, tokens.mask, at::kFloat)[0]);
  }
  const TextCondition condition = condition_on(states);
  EXPECT_TRUE(at::equal(condition.multiplicity, expected.multiplicity));
  EXPECT_TRUE(at::allclose(condition.states, expected.states, 1e-5, 1e-6));
}

}  // namespace
}  // namespace fpsa::train
