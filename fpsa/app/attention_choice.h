// Which attention method runs: what --attention, --schedule and the checkpoint ask for together.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "fpsa/accel/methods.h"
#include "fpsa/app/generate_options.h"
#include "fpsa/schedule/schedule.h"

namespace fpsa::app {

/// A TOML schedule in the metadata of a file that a model is loaded from.
struct CarriedSchedule {
  std::string toml;
  std::string origin = "the checkpoint's fpsa.schedule";  // for people
  bool of_lora = false;
};

/// The schedule that all of them are; none of none.
///   Errors    fpsa::Error naming the first two that differ; those of schedule::parse_toml
std::optional<CarriedSchedule> agreed_schedule(const std::vector<CarriedSchedule>& carried);

/// A chosen method with the words that say why.
struct AttentionChoice {
  std::unique_ptr<accel::Method> method;
  std::string name;    // dense, sta, fp8, int8, fps
  std::string reason;  // one sentence for the user
  std::optional<schedule::Schedule> schedule;
  bool e4m3_feed_forward = false;  // the schedule's, where the method keeps its precision
  std::optional<double> shift;     // of the schedule, where it is a LoRA's: a model's own is in its scheduler's file
};

/// Resolves the request; `carried` are the schedules of the checkpoint and of the LoRAs merged into it.
///   Errors    fpsa::Error when the schedule cannot be read or does not fit grid or model, and where one is needed,
///   none
///             is asked for and the carried ones differ
AttentionChoice choose_attention(const GenerateOptions& options, const std::vector<CarriedSchedule>& carried,
                                 const pattern::Grid& grid, int64_t layers, int64_t heads);

/// The method behind a check for Ctrl-C at every call: a step of a large model takes minutes.
class InterruptibleAttention : public nn::AttentionMethod {
 public:
  explicit InterruptibleAttention(nn::AttentionMethod& method) : method_(method) {}
  at::Tensor self_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const nn::AttentionContext& context) override;
  at::Tensor attend(const nn::Projections& x, const nn::AttentionContext& context) override;

 private:
  nn::AttentionMethod& method_;
};

/// The report as aligned lines; runs of layers that did the same are one line.
std::string explain_text(const std::vector<accel::Explain>& report);

}  // namespace fpsa::app
