#include "fpsa/train/optimizer.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "fpsa/base/check.h"
#include "fpsa/ops/compute_dtype.h"

namespace fpsa::train {

at::Tensor orthogonalise(const at::Tensor& x) {
  const bool tall = x.size(1) > x.size(2);
  at::Tensor m = tall ? x.transpose(1, 2) : x;
  m = m / (m.square().sum({1, 2}, /*keepdim=*/true).sqrt() + 1e-12);
  m = m.to(ops::fast_compute_dtype()).contiguous();  // 8 bits do for five steps
  // The quintic's coefficients trade accuracy for speed: singular values above about 0.01 come near 1 in five steps.
  constexpr double kA = 3.4445, kB = -4.7750, kC = 2.0315;
  for (int i = 0; i < 5; ++i) {
    const at::Tensor gram = at::bmm(m, m.transpose(1, 2));
    const at::Tensor poly = at::baddbmm(gram, gram, gram, kB, kC);
    m = at::baddbmm(m, poly, m, kA, 1.0);
  }
  m = m.to(x.scalar_type());
  return tall ? m.transpose(1, 2) : m;
}

Optimizer::Optimizer(const nn::TensorMap& parameters,
                     const std::function<bool(const std::string&, const at::Tensor&)>& is_matrix,
                     const OptimizerConfig& config)
    : config_(config), parameters_(parameters) {
  at::NoGradGuard no_grad;
  std::map<std::vector<int64_t>, MuonGroup> groups;
  for (const auto& [name, weight] : parameters_) {
    ema_.emplace(name, weight.detach().clone());
    if (is_matrix(name, weight)) {
      FPSA_CHECK(weight.dim() >= 2, "parameter '", name, "' is to be moved as a matrix but has ", weight.dim(),
                 " dimension; leave it to AdamW");
      auto& group = groups[{weight.size(0), weight.numel() / weight.size(0)}];
      group.names.push_back(name);
      group.weights.push_back(weight);
    } else {
      adam_.names.push_back(name);
      adam_.weights.push_back(weight);
      adam_.mean.push_back(at::zeros_like(weight, at::kFloat));
      adam_.square.push_back(at::zeros_like(weight, at::kFloat));
      adam_.steps.push_back(at::zeros({}, at::kFloat));
    }
  }
  for (auto& [shape, group] : groups) {
    group.momentum = at::zeros({static_cast<int64_t>(group.names.size()), shape[0], shape[1]}, at::kFloat);
    muon_.push_back(std::move(group));
  }
}

double Optimizer::step(double learning_rate) {
  at::NoGradGuard no_grad;
  double sum = 0;
  for (const auto& [name, weight] : parameters_)
    if (weight.grad().defined()) sum += weight.grad().square().sum(at::kDouble).item<double>();
  const double norm = std::sqrt(sum);
  if (std::isfinite(norm)) {
    const double scale = config_.clip_norm > 0 ? std::min(1.0, config_.clip_norm / (norm + 1e-12)) : 1.0;
    step_adam(learning_rate, scale);
    step_muon(learning_rate, scale);
    for (const auto& [name, weight] : parameters_)
      ema_.at(name).lerp_(weight, 1.0 - config_.ema);
  }
  clear_gradients();
  return norm;
}

void Optimizer::clear_gradients() {
  for (auto& [name, weight] : parameters_)
    weight.mutable_grad().reset();
}

void Optimizer::step_adam(double learning_rate, double gradient_scale) {
  std::vector<at::Tensor> weights, grads, mean, square, steps;
  for (size_t i = 0; i < adam_.weights.size(); ++i) {
    const at::Tensor& grad = adam_.weights[i].grad();
    if (!grad.defined()) continue;
    weights.push_back(adam_.weights[i]);
    grads.push_back((grad * gradient_scale).contiguous());
    mean.push_back(adam_.mean[i]);
    square.push_back(adam_.square[i]);
    steps.push_back(adam_.steps[i].add_(1));
  }
  if (weights.empty()) return;
  at::_fused_adamw_(weights, grads, mean, square, /*max_exp_avg_sqs=*/{}, steps, learning_rate * config_.adam_scale,
                    config_.beta1, config_.beta2, config_.weight_decay, config_.epsilon,
                    /*amsgrad=*/false, /*maximize=*/false);
}

void Optimizer::step_muon(double learning_rate, double gradient_scale) {
  for (auto& group : muon_) {
    std::vector<at::Tensor> grads;
    for (const auto& weight : group.weights)
      grads.push_back((weight.grad().defined() ? weight.grad() : at::zeros_like(weight)).flatten(1));
    const at::Tensor grad = at::stack(grads).mul_(gradient_scale);
    group.momentum.mul_(config_.momentum).add_(grad);
    const at::Tensor update = orthogonalise(grad.add(group.momentum, config_.momentum));
    const double rows = static_cast<double>(group.momentum.size(1)),
                 columns = static_cast<double>(group.momentum.size(2));
    const double scale = 0.2 * std::sqrt(std::max(rows, columns));
    for (size_t i = 0; i < group.weights.size(); ++i) {
      at::Tensor weight = group.weights[i];
      weight.mul_(1.0 - learning_rate * config_.weight_decay);
      weight.sub_(update[static_cast<int64_t>(i)].view(weight.sizes()), learning_rate * scale);
    }
  }
}

nn::TensorMap Optimizer::state() const {
  nn::TensorMap out;
  for (size_t i = 0; i < adam_.names.size(); ++i) {
    out.emplace("adam.mean." + adam_.names[i], adam_.mean[i]);
    out.emplace("adam.square." + adam_.names[i], adam_.square[i]);
    out.emplace("adam.steps." + adam_.names[i], adam_.steps[i]);
  }
  for (const auto& group : muon_)
    for (size_t i = 0; i < group.names.size(); ++i)
      out.emplace("muon.momentum." + group.names[i], group.momentum[static_cast<int64_t>(i)]);
  for (const auto& [name, value] : ema_)
    out.emplace("ema." + name, value);
  return out;
}

void Optimizer::load_state(const nn::TensorMap& state) {
  at::NoGradGuard no_grad;
  for (auto& [name, mine] : this->state()) {
    const auto it = state.find(name);
    FPSA_CHECK(it != state.end(), "the checkpoint lacks the optimiser state '", name,
               "'; it was written for another model: start without --resume");
    FPSA_CHECK(it->second.sizes() == mine.sizes(), "optimiser state '", name, "' has shape ", it->second.sizes(),
               ", expected ", mine.sizes(), "; the recipe's model differs from the checkpoint's");
    at::Tensor into = mine;
    into.copy_(it->second);
  }
}

void Optimizer::swap_averaged() {
  at::NoGradGuard no_grad;
  for (auto& [name, weight] : parameters_) {
    at::Tensor average = ema_.at(name);
    const at::Tensor kept = weight.detach().clone();
    weight.detach().copy_(average);
    average.copy_(kept);
  }
}

}  // namespace fpsa::train
