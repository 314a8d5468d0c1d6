// ATen's convolution as the cut one calls it.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <optional>
#include <tuple>
#include <vector>

#include "graticule/ops/geometry.hpp"
#include "graticule/rows/seams.hpp"

namespace graticule::ops {

using ConvolutionGradients = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

at::Tensor run_convolution(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                           const ConvolutionOptions& options);

/// Gradients of x, weight and bias, as far as they are wanted; a bias has as many values as grad has channels.
ConvolutionGradients run_convolution_backward(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& weight,
                                              const ConvolutionOptions& options, std::array<bool, 3> wanted);

/// Options of the local convolution of whole windows: no padding along the cut dimension, nor where the windows' border
/// is more than zeros and has been put around them.
ConvolutionOptions window_options(ConvolutionOptions options, int64_t dim);

/// Options of the local convolution of the shard as it lies.
ConvolutionOptions fitted_options(ConvolutionOptions options, const rows::LocalFit& fit, int64_t dim);

/// Sizes of the uncut layer's output across the cut dimension; along it, `rows`. Throws where the options are not one
/// value a spatial dimension.
std::vector<int64_t> output_sizes(const at::Tensor& x, const at::Tensor& weight, const ConvolutionOptions& options,
                                  int64_t dim, int64_t rows);

/// The memory format that the layer's options give its output.
at::MemoryFormat output_format(const at::Tensor& x, const at::Tensor& weight, const ConvolutionOptions& options);

/// y, which the local options gave, in the memory format that the whole layer's options give.
at::Tensor in_format_of_whole(const at::Tensor& y, const at::Tensor& x, const at::Tensor& weight,
                              const ConvolutionOptions& whole, const ConvolutionOptions& local);

}  // namespace graticule::ops
