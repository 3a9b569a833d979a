// The forward runs with gradients on and drops the graph at once: the kernels of inference would do with less memory
// and time, but "the same bits" should not rest on two code paths agreeing.
#include "fpsa/nn/recompute.h"

#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/custom_class.h>

#include <utility>

namespace fpsa::nn {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Run = std::function<at::Tensor(const std::vector<at::Tensor>&)>;

struct Held : torch::CustomClassHolder {
  explicit Held(Run r) : run(std::move(r)) {}
  Run run;
};

// Leaves of a graph of their own.
variable_list detached(at::ArrayRef<at::Tensor> inputs) {
  variable_list out;
  for (const at::Tensor& input : inputs)
    out.push_back(input.detach().requires_grad_(input.requires_grad()));
  return out;
}

class Recomputed : public torch::autograd::Function<Recomputed> {
 public:
  // `all`: the inputs, then the parameters.
  static at::Tensor forward(AutogradContext* context, const Run& run, int64_t inputs, at::TensorList all) {
    context->save_for_backward(all.vec());
    context->saved_data["inputs"] = inputs;
    context->saved_data["run"] = c10::IValue::make_capsule(c10::make_intrusive<Held>(run));
    const at::AutoGradMode with_gradients(true);
    return run(detached(all.slice(0, static_cast<size_t>(inputs)))).detach();
  }

  static variable_list backward(AutogradContext* context, variable_list d_outs) {
    TORCH_CHECK(!c10::GradMode::is_enabled(),
                "recomputed: has no second derivative; call backward without create_graph");
    variable_list all = context->get_saved_variables();
    const auto inputs = static_cast<size_t>(context->saved_data["inputs"].toInt());
    const auto held = context->saved_data["run"].toCapsule();
    const at::AutoGradMode with_gradients(true);
    const variable_list leaves = detached(at::ArrayRef(all).slice(0, inputs));
    std::copy(leaves.begin(), leaves.end(), all.begin());
    const at::Tensor out = static_cast<Held&>(*held).run(leaves);
    variable_list wanted;
    for (const at::Tensor& tensor : all)
      if (tensor.requires_grad()) wanted.push_back(tensor);
    auto found = torch::autograd::grad({out}, wanted, {d_outs[0]}, /*retain_graph=*/false, /*create_graph=*/false,
                                       /*allow_unused=*/true);
    variable_list grads(2);  // of `run` and the number of inputs: none
    auto next = found.begin();
    for (const at::Tensor& tensor : all)
      grads.push_back(tensor.requires_grad() ? std::move(*next++) : at::Tensor());
    return grads;
  }
};

}  // namespace

at::Tensor recomputed(Run run, const std::vector<at::Tensor>& inputs, const std::vector<at::Tensor>& parameters) {
  if (!c10::GradMode::is_enabled()) return run(inputs);
  std::vector<at::Tensor> all = inputs;
  all.insert(all.end(), parameters.begin(), parameters.end());
  return Recomputed::apply(run, static_cast<int64_t>(inputs.size()), at::TensorList(all));
}

}  // namespace fpsa::nn
