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

/// A chosen method with the words that say why.
struct AttentionChoice {
  std::unique_ptr<accel::Method> method;
  std::string name;    // dense, sta, fp8, int8, fps
  std::string reason;  // one sentence for the user
  std::optional<schedule::Schedule> schedule;
  bool e4m3_feed_forward = false;  // the schedule's, where the method keeps its precision
};

/// Resolves the request; `carried` is the checkpoint's TOML schedule, empty when it has none.
///   Errors    fpsa::Error when the schedule cannot be read or does not fit grid or model
AttentionChoice choose_attention(const GenerateOptions& options, const std::string& carried, const pattern::Grid& grid,
                                 int64_t layers, int64_t heads);

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
