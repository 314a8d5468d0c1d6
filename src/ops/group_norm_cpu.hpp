// The steps of cpu_group_norm_steps() that pass over a whole tensor. Their contracts are those of GroupNormSteps.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>
#include <vector>

namespace graticule::ops {

at::Tensor cpu_moments(const at::Tensor& x, int64_t groups);

std::tuple<at::Tensor, at::Tensor, at::Tensor> cpu_normalise(const at::Tensor& x,
                                                             const std::optional<at::Tensor>& weight,
                                                             const std::optional<at::Tensor>& bias,
                                                             const std::vector<at::Tensor>& moments,
                                                             const std::vector<double>& counts, double eps);

at::Tensor cpu_channel_sums(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& mean);

at::Tensor cpu_input_gradient(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& mean,
                              const at::Tensor& rstd, const std::optional<at::Tensor>& weight,
                              const std::vector<at::Tensor>& group_sums, double total);

}  // namespace graticule::ops
