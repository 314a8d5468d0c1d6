// What the ops' autograd kernels share.
#pragma once

#include <ATen/core/Tensor.h>
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

}  // namespace graticule::ops
