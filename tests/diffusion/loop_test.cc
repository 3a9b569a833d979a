#include "fpsa/diffusion/loop.h"

#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <vector>

#include "fpsa/diffusion/sampler.h"

namespace fpsa::diffusion {
namespace {

class NoAttention : public nn::AttentionMethod {
 public:
  at::Tensor self_attention(const at::Tensor& q, const at::Tensor&, const at::Tensor&,
                            const nn::AttentionContext&) override {
    return q;
  }
};

// velocity = latents / 2 + mean of the sample's text; records what it was asked.
class FakeModel : public nn::Denoiser {
 public:
  at::Tensor predict(const nn::DenoiserInput& input, nn::AttentionMethod&) override {
    batches.push_back(input.latents.size(0));
    steps.push_back(input.step);
    num_steps = input.num_steps;
    timesteps.push_back(input.timestep[0].item<float>());
    at::Tensor v = input.latents * 0.5 + input.text.mean({1, 2}).view({-1, 1, 1, 1, 1});
    if (static_cast<int64_t>(input.step) == poisoned_step) v = v * std::numeric_limits<float>::quiet_NaN();
    return v;
  }
  std::vector<int64_t> batches, steps;
  std::vector<float> timesteps;
  int64_t num_steps = 0, poisoned_step = -1;
};

struct Fixture {
  FakeModel model;
  NoAttention attention;
  LoopOptions options;
  at::Tensor noise = make_noise(7, {2, 3, 4, 4});
  at::Tensor text = at::full({1, 3, 2}, 0.5), negative = at::full({1, 3, 2}, -0.25);

  at::Tensor go() { return denoise(model, attention, noise, text, negative, options); }
};

TEST(Loop, GuidanceOneRunsOneForwardPerStep) {
  Fixture run;
  run.options.steps = 4;
  run.options.guidance_scale = 1.0;
  run.negative = at::Tensor();
  run.go();
  EXPECT_EQ(run.model.batches, (std::vector<int64_t>{1, 1, 1, 1}));
  EXPECT_EQ(run.model.steps, (std::vector<int64_t>{0, 1, 2, 3}));
  EXPECT_EQ(run.model.num_steps, 4);
}

TEST(Loop, BatchedGuidanceEqualsSequential) {
  Fixture batched, sequential;
  batched.options.steps = sequential.options.steps = 5;
  sequential.options.guidance_run = GuidanceRun::kSequential;
  at::Tensor a = batched.go(), b = sequential.go();
  EXPECT_TRUE(at::equal(a, b));
  EXPECT_EQ(batched.model.batches, (std::vector<int64_t>{2, 2, 2, 2, 2}));
  EXPECT_EQ(sequential.model.batches.size(), 10U);
}

TEST(Loop, GuidanceExtrapolatesFromTheNegativePrompt) {
  Fixture guided, direct;
  guided.options.steps = direct.options.steps = 3;
  guided.options.guidance_scale = 5.0;
  direct.options.guidance_scale = 1.0;
  direct.text = at::full({1, 3, 2}, -0.25 + 5.0 * 0.75);  // the fake is linear in the text
  EXPECT_TRUE(at::allclose(guided.go(), direct.go(), 1e-5, 1e-5));
}

TEST(Loop, ReportsProgressAfterEveryStep) {
  Fixture run;
  run.options.steps = 3;
  std::vector<int64_t> done;
  run.options.progress = [&](int64_t d, int64_t steps, double seconds) {
    EXPECT_EQ(steps, 3);
    EXPECT_GE(seconds, 0.0);
    done.push_back(d);
  };
  run.go();
  EXPECT_EQ(done, (std::vector<int64_t>{1, 2, 3}));
}

TEST(Loop, NonFiniteLatentsNameTheStep) {
  Fixture run;
  run.options.steps = 6;
  run.model.poisoned_step = 2;
  try {
    run.go();
    FAIL() << "NaN went unnoticed";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("step 3 of 6"), std::string::npos) << error.what();
  }
  EXPECT_EQ(run.model.steps.size(), 3U);
}

TEST(Loop, CancelStopsBeforeTheNextStep) {
  Fixture run;
  run.options.steps = 6;
  std::atomic<bool> cancel = false;
  run.options.cancel = &cancel;
  run.options.progress = [&](int64_t done, int64_t, double) { cancel = done == 2; };
  EXPECT_THROW(run.go(), Cancelled);
  EXPECT_EQ(run.model.steps.size(), 2U);
}

TEST(Loop, GuidanceWithoutNegativePromptIsRefused) {
  Fixture run;
  run.negative = at::Tensor();
  EXPECT_THROW(run.go(), Error);
}

TEST(Loop, SameSeedGivesTheSameNoise) {
  EXPECT_TRUE(at::equal(make_noise(3, {2, 2, 2, 2}), make_noise(3, {2, 2, 2, 2})));
  EXPECT_FALSE(at::equal(make_noise(3, {2, 2, 2, 2}), make_noise(4, {2, 2, 2, 2})));
}

TEST(Loop, InitialLatentsAreNotChanged) {
  Fixture run;
  run.options.steps = 3;
  at::Tensor before = run.noise.clone();
  run.go();
  EXPECT_TRUE(at::equal(run.noise, before));
}

// Every sampler is exact when the data estimate is constant: the sample then lies on a straight line of the flow.
TEST(Samplers, ConstantDataEstimateIsReachedExactly) {
  for (SamplerKind kind : {SamplerKind::kUniPc, SamplerKind::kDpmpp2m, SamplerKind::kEuler}) {
    for (int64_t steps : {1, 2, 3, 7, 20, 50}) {
      auto sampler = make_sampler({.sampler = kind, .shift = 3.0, .order = 2}, steps);
      at::Tensor data = at::full({4}, 0.75);
      at::Tensor x = at::tensor({-1.0F, 0.0F, 1.0F, 2.0F});
      for (int64_t i = 0; i < steps; ++i)
        x = sampler->step((x - data) / sampler->sigmas().sigmas[i], x);
      EXPECT_TRUE(at::allclose(x, data, 1e-5, 1e-5)) << sampler_name(kind) << ", " << steps << " steps: " << x;
    }
  }
}

TEST(Samplers, LevelsFallToZero) {
  for (SamplerKind kind : {SamplerKind::kUniPc, SamplerKind::kDpmpp2m, SamplerKind::kEuler}) {
    for (int64_t steps : {1, 2, 50, 1000}) {
      Sigmas s = make_sigmas({.sampler = kind, .shift = 5.0, .order = 2}, steps);
      ASSERT_EQ(s.steps(), steps);
      ASSERT_EQ(s.sigmas.size(), static_cast<size_t>(steps + 1));
      EXPECT_LE(s.sigmas.front(), 1.0F);
      EXPECT_EQ(s.sigmas.back(), 0.0F);
      for (int64_t i = 0; i < steps; ++i)
        EXPECT_GT(s.sigmas[i], s.sigmas[i + 1]);
    }
  }
}

TEST(Samplers, OneStepTooManyIsRefused) {
  auto sampler = make_sampler({}, 1);
  at::Tensor x = at::ones({2});
  sampler->step(x, x);
  EXPECT_THROW(sampler->step(x, x), Error);
}

TEST(Samplers, NamesRoundTrip) {
  for (SamplerKind kind : {SamplerKind::kUniPc, SamplerKind::kDpmpp2m, SamplerKind::kEuler})
    EXPECT_EQ(sampler_from_name(sampler_name(kind)), kind);
  EXPECT_THROW(sampler_from_name("ddim"), Error);
}

TEST(SchedulerConfig, ForeignArithmeticIsRefusedWithTheFile) {
  const auto error = [](const char* text) -> std::string {
    try {
      SchedulerConfig::from_json(nlohmann::json::parse(text), "folder/s.json");
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  };
  for (const auto& [text, part] : std::vector<std::pair<const char*, const char*>>{
           {"[]", "expected a JSON object"},
           {R"({"flow_shift":3.0})", "'_class_name'"},
           {R"({"_class_name":"DDIMScheduler"})", "received \"DDIMScheduler\""},
           {R"({"_class_name":"UniPCMultistepScheduler","use_flow_sigmas":true,"prediction_type":"epsilon"})",
            "'prediction_type' must be \"flow_prediction\", received \"epsilon\""},
           {R"({"_class_name":"UniPCMultistepScheduler","prediction_type":"flow_prediction"})",
            "'use_flow_sigmas' must be true, received false (diffusers' default for an absent key)"},
           {R"({"_class_name":"FlowMatchEulerDiscreteScheduler","num_train_timesteps":500})", "must be 1000"},
           {R"({"_class_name":"FlowMatchEulerDiscreteScheduler","shift":"3"})", "'shift' must be a number"},
           {R"({"_class_name":"FlowMatchEulerDiscreteScheduler","shift":0})", "positive"}}) {
    EXPECT_NE(error(text).find(part), std::string::npos) << text << ": " << error(text);
    EXPECT_EQ(error(text).rfind("folder/s.json: ", 0), 0u) << error(text);
  }
  const auto euler = nlohmann::json::parse(R"({"_class_name":"FlowMatchEulerDiscreteScheduler","shift":5.0})");
  EXPECT_EQ(SchedulerConfig::from_json(euler).shift, 5.0);
}

}  // namespace
}  // namespace fpsa::diffusion
