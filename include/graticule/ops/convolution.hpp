// Convolution and transposed convolution of a cut tensor, zeros beyond the grid, and their backward.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <optional>
#include <tuple>
#include <utility>

#include "graticule/ops/geometry.hpp"

namespace graticule::ops {

/// This rank's rows of the convolution of the whole tensor. x is (N, C, spatial...) with this rank's rows along
/// placement.dim; weight and bias as at::convolution takes them, the same on every rank. All ranks must call.
/// Every output row is computed from its whole windows, so that it has the bits that the uncut convolution gives it
/// wherever the local kernel's rows do not depend on how many rows there are.
at::Tensor convolution(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                       const ConvolutionOptions& options, const Placement& placement);

/// Rows of x that are not this rank's own, before and after those, or that lie beyond the grid: tensors like x of so
/// many rows, perhaps none.
struct ConvolutionHalo {
  at::Tensor before;
  at::Tensor after;
};

/// The same, and the rows that convolution_backward needs beside x for the weight's gradient. There are none where it
/// runs on every rank's shard as it lies, or the convolution is transposed.
std::pair<at::Tensor, ConvolutionHalo> convolution_with_halo(const at::Tensor& x, const at::Tensor& weight,
                                                             const std::optional<at::Tensor>& bias,
                                                             const ConvolutionOptions& options,
                                                             const Placement& placement);

/// Gradients with respect to x (this rank's rows, whole), weight and bias (this rank's part of the sum over ranks), as
/// far as `wanted` asks for them; undefined tensors otherwise. `halo` is what convolution_with_halo gave; it is not
/// looked at unless the weight's gradient is wanted. All ranks must call; they may want different ones.
std::tuple<at::Tensor, at::Tensor, at::Tensor> convolution_backward(
    const at::Tensor& grad, const at::Tensor& x, const ConvolutionHalo& halo, const at::Tensor& weight,
    const ConvolutionOptions& options, const Placement& placement, std::array<bool, 3> wanted);

/// Uninitialised tensors of the sizes, dtype and memory format that convolution_with_halo gives `rank`.
at::Tensor convolution_shape(const at::Tensor& x, const at::Tensor& weight, const ConvolutionOptions& options,
                             const Placement& placement, int rank);
ConvolutionHalo convolution_halo_shape(const at::Tensor& x, const at::Tensor& weight, const ConvolutionOptions& options,
                                       const Placement& placement, int rank);

}  // namespace graticule::ops
