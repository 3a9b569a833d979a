// Shapes, memory estimates, comparison and progress: the parts of the program that are plain functions.
#include <gtest/gtest.h>

#include <cmath>
#include <sstream>

#include <ATen/ATen.h>

#include "fpsa/app/clip_files.h"
#include "fpsa/app/clip_metrics.h"
#include "fpsa/app/clip_shape.h"
#include "fpsa/app/failure.h"
#include "fpsa/app/interrupt.h"
#include "fpsa/app/memory_plan.h"
#include "fpsa/app/outputs.h"
#include "fpsa/app/progress.h"
#include "fpsa/app/usage_error.h"
#include "tests/error_of.h"
#include "tests/io/scratch.h"

namespace fpsa::app {
namespace {

TEST(ClipShape, FollowsFromTheModel) {
  const auto shape = clip_shape(81, 480, 832, {}, {});
  EXPECT_EQ(shape.latents, (std::vector<int64_t>{1, 16, 21, 60, 104}));
  EXPECT_EQ(shape.grid, (pattern::Grid{21, 30, 52}));
}

TEST(ClipShape, IllegalSizesNameTheNearestLegalOnes) {
  EXPECT_EQ(error_of([] { clip_shape(80, 480, 832, {}, {}); }),
            "--num-frames: expected 4k+1 for this model, got 80; nearest: 77 or 81");
  EXPECT_EQ(error_of([] { clip_shape(81, 481, 832, {}, {}); }),
            "--height: expected a multiple of 16 for this model, got 481; nearest: 480 or 496");
  EXPECT_EQ(error_of([] { clip_shape(81, 480, 8, {}, {}); }),
            "--width: expected a multiple of 16 for this model, got 8; nearest: 16");
  EXPECT_NE(error_of([] { clip_shape(81, 480, 16 * 1025, {}, {}); }).find("at most 1024 tokens"), std::string::npos);
  EXPECT_EQ(error_of([] { clip_shape(1, 16, 16, {}, {}); }), "no error");
}

MemoryRequest large_request() {
  MemoryRequest request;
  request.shape = clip_shape(81, 720, 1280, request.dit, request.vae);
  request.dit_weights = {int64_t{3} << 29, 0, 0};  // 6 GiB in F32
  request.text_weights = {int64_t{11} << 29, 0, 0};
  request.vae_weights = {int64_t{125} << 20, 0, 0};
  return request;
}

TEST(MemoryPlan, ShortMemoryNamesTheStageAndOnlyFlagsThatHelp) {
  const auto request = large_request();
  const auto text = error_of([&] { check_memory(plan_memory(request), request, int64_t{4} << 30); });
  EXPECT_NE(text.find("memory: expected about"), std::string::npos) << text;
  EXPECT_NE(text.find("text encoder, got 4.0 GiB"), std::string::npos) << text;
  EXPECT_NE(text.find("--dtype bf16"), std::string::npos) << text;
  EXPECT_NE(text.find("--prompt-embeds"), std::string::npos) << text;
  // The VAE is not what is too large here.
  EXPECT_EQ(text.find("--vae-tiling"), std::string::npos) << text;
  EXPECT_EQ(error_of([&] { check_memory(plan_memory(request), request, int64_t{1} << 45); }), "no error");
}

TEST(MemoryPlan, GrowsWithBatchAndShrinksWithTiles) {
  auto request = large_request();
  const auto batched = plan_memory(request);
  request.batch = 1;
  request.tiled_vae = true;
  const auto careful = plan_memory(request);
  EXPECT_LT(careful.denoise_bytes, batched.denoise_bytes);
  EXPECT_LT(careful.decode_bytes, batched.decode_bytes);
}

TEST(MemoryPlan, WeightsCountInTheDtypeTheyComputeIn) {
  // As an F8 file: one byte each there, two in memory, four where the module keeps F32.
  const models::wan::WeightCount count{1000, 100, 50};
  EXPECT_EQ(count.loaded_bytes(2), 900 * 2 + 100 * 4);
  EXPECT_EQ(count.loaded_bytes(4), 4000);
  auto request = large_request();
  request.element_bytes = 2;
  const auto before = plan_memory(request);
  request.dit_weights.parameters += 1000;
  request.text_weights.parameters += 10;
  const auto after = plan_memory(request);
  EXPECT_EQ(after.denoise_bytes - before.denoise_bytes, 2000);
  EXPECT_EQ(after.text_bytes - before.text_bytes, 20);
  EXPECT_EQ(after.decode_bytes, before.decode_bytes);
  // A scaled tensor passes through F32; that is over when the activations begin.
  request.text_weights.largest_scaled = int64_t{1} << 30;
  EXPECT_GE(plan_memory(request).text_bytes, after.text_bytes + (int64_t{3} << 30));
  EXPECT_LT(plan_memory(request).text_bytes, after.text_bytes + (int64_t{4} << 30));
  request.text_weights = {};
  EXPECT_EQ(plan_memory(request).text_bytes, 0);
}

TEST(MemoryPlan, SeveralPromptsKeepTransformerAndVaeTogetherAndEveryState) {
  auto request = large_request();
  const auto one = plan_memory(request);
  request.prompts = 3;
  const auto three = plan_memory(request);
  const int64_t states = 2 * 512 * request.dit.text_dim * request.element_bytes;
  EXPECT_EQ(three.text_bytes - one.text_bytes, states);
  EXPECT_EQ(three.denoise_bytes - one.denoise_bytes, states + request.vae_weights.loaded_bytes(4));
  EXPECT_EQ(three.decode_bytes - one.decode_bytes, states + request.dit_weights.loaded_bytes(4));
  request.text_weights = {};
  const auto text = error_of([&] { check_memory(plan_memory(request), request, int64_t{4} << 30); });
  EXPECT_NE(text.find("one --prompt at a time"), std::string::npos) << text;
}

io::Video gray(uint8_t value, int64_t frames = 2, int64_t height = 16, int64_t width = 20) {
  io::Video video{frames, height, width, 16, {}};
  video.rgb.assign(frames * height * width * 3, value);
  return video;
}

TEST(CompareClips, KnownDifferences) {
  EXPECT_TRUE(compare_clips(gray(7), gray(7)).identical);
  EXPECT_NEAR(compare_clips(gray(7), gray(7)).ssim, 1, 1e-12);
  // A constant difference d gives 20 log10(255/d).
  EXPECT_NEAR(compare_clips(gray(10), gray(15)).psnr_db, 20 * std::log10(255.0 / 5), 1e-9);
  auto one = gray(10);
  one.rgb[one.frame_bytes()] = 12;  // second frame
  const auto difference = compare_clips(gray(10), one);
  EXPECT_EQ(difference.worst_frame, 1);
  EXPECT_TRUE(std::isinf(difference.frame_psnr_db[0]));
  EXPECT_NE(error_of([] { compare_clips(gray(1), gray(1, 3)); }).find("one shape"), std::string::npos);
}

TEST(CompareClips, SsimOfUnrelatedPicturesIsNearZero) {
  auto a = gray(0, 1, 64, 64), b = gray(0, 1, 64, 64);
  uint32_t state = 1;
  for (auto* video : {&a, &b})
    for (auto& value : video->rgb)
      value = static_cast<uint8_t>((state = state * 1664525u + 1013904223u) >> 24);
  EXPECT_NEAR(compare_clips(a, b).ssim, 0, 0.05);
  EXPECT_NEAR(compare_clips(a, a).ssim, 1, 1e-12);
}

TEST(Progress, PlainLinesHaveNoControlCharactersAndEndWithTheLast) {
  std::ostringstream out;
  {
    Progress progress({&out, false, 80}, "denoise", "step", 3);
    for (int64_t i = 1; i <= 3; ++i)
      progress.advance_to(i);
  }
  EXPECT_EQ(out.str().find('\r'), std::string::npos);
  EXPECT_EQ(out.str().rfind("denoise: step 3/3", 0), 0u) << out.str();
}

TEST(Progress, TheBarShowsRateAndRemainingTimeAndFitsTheTerminal) {
  std::ostringstream out;
  {
    Progress progress({&out, true, 60}, "denoise", "step", 4);
    progress.advance_to(1);
  }
  EXPECT_NE(out.str().find("1/4"), std::string::npos);
  EXPECT_NE(out.str().find("s/step"), std::string::npos);
  EXPECT_NE(out.str().find("ETA"), std::string::npos);
  EXPECT_EQ(out.str().back(), '\n');
  EXPECT_LE(out.str().size(), 60u + 6);  // the control sequence and the line feed
}

TEST(Progress, TheLengthMayComeWithTheWork) {
  std::ostringstream out;
  {
    Progress progress({&out, false, 80}, "decode", "chunk", 0);
    for (int64_t i = 1; i <= 12; ++i)
      progress.advance_to(i, 12);
  }
  EXPECT_EQ(out.str().rfind("decode: chunk 12/12", 0), 0u) << out.str();
}

TEST(Progress, ClockText) {
  EXPECT_EQ(clock_text(65), "1:05");
  EXPECT_EQ(clock_text(7380), "2:03:00");
  EXPECT_EQ(clock_text(0.2), "0:00");
}

TEST(Outputs, UnusablePlacesAreNamed) {
  const testing::ScratchFolder scratch;
  EXPECT_NE(error_of([&] { check_writable_file("--output", scratch.path() / "no" / "x.mp4", 1); }).find("mkdir -p"),
            std::string::npos);
  EXPECT_NE(error_of([&] { check_writable_file("--output", scratch.path(), 1); }).find("got the folder"),
            std::string::npos);
  EXPECT_NE(
      error_of([&] { check_writable_file("--output", scratch.path() / "x.mp4", int64_t{1} << 60); }).find("space"),
      std::string::npos);
  EXPECT_EQ(error_of([&] { check_writable_file("--output", scratch.path() / "x.mp4", 1); }), "no error");
  EXPECT_TRUE(std::filesystem::is_empty(scratch.path()));
}

TEST(ClipFiles, FramesOfALongerClipAreNotMixedWithNewOnes) {
  const testing::ScratchFolder scratch;
  write_frames(scratch.path(), gray(10, 5));
  const auto error = [&](int64_t frames) {
    return error_of([&] { check_no_other_frames("--frames-dir", scratch.path(), frames); });
  };
  EXPECT_EQ(error(5), "no error");
  EXPECT_EQ(error(9), "no error");
  EXPECT_NE(error(3).find("--frames-dir: expected a folder without frames beyond the 3 of this clip, got 2 in"),
            std::string::npos)
      << error(3);
  EXPECT_NE(error(3).find("frame-0003.png"), std::string::npos) << error(3);
  testing::write_raw(scratch / "notes.png", "");  // not a frame
  EXPECT_EQ(error(5), "no error");
  EXPECT_EQ(error_of([&] { check_no_other_frames("--frames-dir", scratch / "none", 1); }), "no error");
  EXPECT_EQ(testing::count_files(scratch.path()), 6u);
}

template <class Action>
Failure failure_after(Action action) {
  try {
    action();
  } catch (const std::exception& error) {
    return failure_of(error);
  }
  ADD_FAILURE() << "no exception";
  return {};
}

TEST(Failure, MemoryThatTorchDoesNotGetIsOneLine) {
  const auto failure = failure_after([] { at::empty({int64_t{1} << 52}, at::kFloat); });
  EXPECT_EQ(failure.text, "error: out of memory: 16384 TiB could not be allocated; smaller inputs need less");
  EXPECT_EQ(failure.exit_code, kFailed);
  EXPECT_EQ(failure_after([] { throw std::bad_alloc(); }).text, "error: out of memory; smaller inputs need less");
}

TEST(Failure, EveryKindOfExceptionHasItsTextAndExitCode) {
  const auto wrong = failure_after([] { throw UsageError("--x: wrong"); });
  EXPECT_EQ(wrong.text, "error: --x: wrong");
  EXPECT_EQ(wrong.exit_code, kUsage);
  EXPECT_EQ(failure_after([] { throw Error("file: broken"); }).exit_code, kFailed);
  const auto interrupted = failure_after([] { throw Interrupted(2); });
  EXPECT_EQ(interrupted.text, "interrupted");
  EXPECT_EQ(interrupted.exit_code, 130);
  const auto shapes = failure_after([] { at::zeros({2, 3}).matmul(at::zeros({2, 3})); });
  EXPECT_EQ(shapes.text.find('\n'), std::string::npos) << shapes.text;
  EXPECT_EQ(shapes.text.find("memory"), std::string::npos) << shapes.text;
}

TEST(Outputs, NumbersComeBeforeTheSuffix) {
  EXPECT_EQ(numbered("a/clip.mp4", 3, 12), "a/clip-0003.mp4");
  EXPECT_EQ(numbered("a/clip.mp4", 1, 1), "a/clip.mp4");
}

}  // namespace
}  // namespace fpsa::app
