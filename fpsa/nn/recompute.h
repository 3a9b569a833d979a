// Gradient checkpointing: a part of a model whose activations are computed a second time instead of being kept.
#pragma once

#include <ATen/ATen.h>

#include <functional>
#include <vector>

namespace fpsa::nn {

/// run(inputs) as one step of autograd that keeps the inputs alone. The backward runs it again and differentiates that.
///   Requires  `run` gives the same output for the same inputs whenever it is called, until the backward has run, and
///             reads tensors that want gradients only through `inputs`, or as members of `parameters`
///   Numerics  the output and the gradients of run(inputs), to the bit, where each input and each parameter has one
///             reader in `run`: sums over several readers are made inside
///   Edges     without autograd it is run(inputs)
///   Errors    a second derivative (create_graph) throws
at::Tensor recomputed(std::function<at::Tensor(const std::vector<at::Tensor>& inputs)> run,
                      const std::vector<at::Tensor>& inputs, const std::vector<at::Tensor>& parameters);

}  // namespace fpsa::nn
