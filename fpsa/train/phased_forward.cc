#include "fpsa/train/phased_forward.h"

#include <vector>

namespace fpsa::train {

PhasedForward::PhasedForward(const Recipe& recipe, models::wan::WanDit& dit)
    : schedule_(recipe.schedule), dit_(dit), attention_(accel::make_dense()) {
  dit_.set_gradient_checkpointing(recipe.gradient_checkpointing);
  if (!schedule_) return;
  schedule::check_for_model(*schedule_, dit.config().num_layers, dit.config().num_attention_heads);
  dit_.set_e4m3_feed_forward(schedule_->feed_forward == schedule::Quant::kE4m3);
  levels_.emplace(schedule_->shift, recipe.num_inference_steps);
}

void PhasedForward::attend(const Stage& stage, int64_t stage_step) {
  if (!schedule_) return;
  const double progress =
      stage.density_steps > 0 ? static_cast<double>(stage_step) / static_cast<double>(stage.density_steps) : 1.0;
  auto wanted = with_density(*schedule_, grid_of(stage), progress);
  if (attended_ == wanted) return;
  attention_ = accel::make_fps(wanted);
  attended_ = std::move(wanted);
}

models::wan::DitOutput PhasedForward::run(const nn::DenoiserInput& input, const models::wan::DitOptions& options,
                                          const at::Tensor& sigma, Figures& figures) {
  if (!schedule_) return dit_.forward(input, *attention_, options);
  const auto groups =
      group_by_phase(*schedule_, *levels_, {sigma.const_data_ptr<float>(), static_cast<size_t>(sigma.numel())});
  std::vector<at::Tensor> velocity, tap, order;
  double density = 0;
  for (const PhaseGroup& group : groups) {
    const at::Tensor rows = at::tensor(group.samples, at::kLong);
    nn::DenoiserInput part = input;
    models::wan::DitOptions part_options = options;
    if (groups.size() > 1) {
      part.latents = input.latents.index_select(0, rows);
      part.timestep = input.timestep.index_select(0, rows);
      part.text = input.text.index_select(0, rows);
      part_options.text_multiplicity = options.text_multiplicity.index_select(0, rows);
    }
    part.step = group.step;
    part.num_steps = levels_->steps();
    attention_->reset();
    const auto out = dit_.forward(part, *attention_, part_options);
    const auto report = attention_->report();
    for (const auto& entry : report)
      density += entry.density * static_cast<double>(group.samples.size()) / static_cast<double>(report.size());
    velocity.push_back(out.velocity);
    tap.push_back(out.tap);
    order.push_back(rows);
  }
  figures["density"] = density / static_cast<double>(sigma.numel());
  if (groups.size() == 1) return {velocity[0], tap[0]};
  const at::Tensor back = at::cat(order).argsort();
  const auto in_order = [&](const std::vector<at::Tensor>& parts) { return at::cat(parts).index_select(0, back); };
  return {in_order(velocity), tap[0].defined() ? in_order(tap) : at::Tensor()};
}

}  // namespace fpsa::train
