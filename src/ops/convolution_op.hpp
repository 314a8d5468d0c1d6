// graticule::convolution, called by its schema: with autograd, autocast and whatever else the dispatcher does.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "graticule/ops/geometry.hpp"

namespace graticule::ops {

at::Tensor call_convolution(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                            const ConvolutionOptions& options, const Placement& placement);

}  // namespace graticule::ops
