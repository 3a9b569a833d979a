// Makes the clips of a study: models, methods and prompts of all arms, opened once and used in turn.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "fpsa/app/attention_choice.h"
#include "fpsa/app/sampling_run.h"
#include "fpsa/app/study_arms.h"
#include "fpsa/app/study_record.h"
#include "fpsa/io/video.h"

namespace fpsa::app {

/// A clip and what it took.
struct MadeClip {
  io::Video video;
  ClipSeconds seconds;
  double density = 1;
  std::vector<std::string> kernels;
};

class StudySampler {
 public:
  /// Opens the dense arm's model, which decides shape, sampler and guidance for all arms.
  ///   Errors    those of ModelSession and clip_shape
  explicit StudySampler(const GenerateOptions& options);

  /// Opened at the first call.
  ///   Errors    those of ModelSession
  ModelSession& model(const std::filesystem::path& folder) { return *model_of(folder).session; }
  const ClipShape& shape() const { return shape_; }
  const diffusion::LoopOptions& loop() const { return loop_; }
  bool tiled() const { return tiling_.has_value(); }

  /// Opens an arm's model and makes its method.
  ///   Errors    fpsa::Error: a schedule that does not fit grid or model, a model of another clip shape
  void add(const Arm& arm);

  /// Of the arm's model; read once.
  std::string weights(const Arm& arm);

  /// Encodes prompts for every model, all that it will need: the text encoders are given back.
  ///   Shapes    needed[folder] lists indices into `prompts`
  void encode(const std::vector<std::string>& prompts,
              const std::map<std::filesystem::path, std::vector<int64_t>>& needed);

  /// Denoises and decodes; an untimed step comes before an arm's first clip.
  ///   Requires  the arm added, the prompt encoded for its model
  ///   Errors    those of denoise_clip and decode_video; Interrupted
  MadeClip make(const Arm& arm, int64_t prompt, uint64_t seed, const std::string& label);

  /// Seconds that a clip of an arm will take, from a run of at most `steps` steps and one decoded clip.
  double estimate_seconds(const Arm& arm, int64_t prompt, int64_t steps);

 private:
  struct Model {
    std::unique_ptr<ModelSession> session;
    std::map<int64_t, TextStates> texts;
    std::string digest;
  };
  Model& model_of(const std::filesystem::path& folder);
  at::Tensor denoise(const Arm& arm, const at::Tensor& noise, const TextStates& text, int64_t steps,
                     const std::string& label, double* seconds);
  at::Tensor noise(uint64_t seed) const;
  void warm_up(const Arm& arm, int64_t prompt);

  const GenerateOptions& options_;
  std::map<std::filesystem::path, Model> models_;
  std::map<std::string, AttentionChoice> methods_;  // by arm
  std::map<std::string, bool> warm_;
  ClipShape shape_;
  diffusion::LoopOptions loop_;
  std::optional<models::wan::VaeTiling> tiling_;
  double decode_seconds_ = 0;  // of a clip, once one was timed
};

}  // namespace fpsa::app
