// What the ops' autograd kernels share.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <initializer_list>
#include <string>

namespace graticule::ops {

/// A layer's backward is not differentiable again unless a formula says how: an error, where autograd would otherwise
/// give a silent zero.
inline void refuse_double_backward(const std::string& layer, std::initializer_list<at::Tensor> inputs) {
  if (!c10::GradMode::is_enabled()) return;
  for (const at::Tensor& input : inputs) {
    TORCH_CHECK(!input.defined() || !input.requires_grad(), layer,
                ": the gradient of the gradient is not available for a cut layer (create_graph=True was asked for)");
  }
}

/// Saves a tensor of nothing. Activation checkpointing recomputes up to the last tensor that was saved, which differs
/// between ranks where their local work does, once a saved tensor is asked for: an op that communicates must be run
/// again on all of them or on none. So its backward asks for the mark.
inline void save_a_mark(torch::autograd::AutogradContext* ctx, const at::Tensor& like) {
  ctx->save_for_backward({at::empty({0}, like.options())});
}
inline void ask_for_the_mark(const torch::autograd::AutogradContext* ctx) { (void)ctx->get_saved_variables(); }

}  // namespace graticule::ops
