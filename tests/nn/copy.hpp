// Modules of equal parameters, for ranks that are threads.
#pragma once

#include <torch/nn/module.h>

#include <memory>

#include "support/compare.hpp"

namespace graticule::support {

/// A module like `module`, with parameters of its own and the same values. For modules of torch::nn.
template <typename Module>
Module copy_of(const Module& module) {
  using Impl = typename Module::ContainedType;
  return Module(std::dynamic_pointer_cast<Impl>(module->clone()));
}

/// Gives a module's parameters values that look random, the same at each call, and makes it float64.
template <typename Module>
Module filled(Module module) {
  module->to(at::kDouble);
  const at::NoGradGuard no_grad;
  int64_t seed = 20;
  for (at::Tensor& parameter : module->parameters()) {
    parameter.copy_(random_like(parameter.sizes(), at::kDouble, seed++));
  }
  return module;
}

}  // namespace graticule::support
