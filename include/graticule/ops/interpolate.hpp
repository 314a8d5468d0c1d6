// Interpolation of a cut tensor.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string>
#include <vector>

#include "graticule/ops/layers.hpp"

namespace graticule::ops {

/// The options of torch.nn.functional.interpolate. Exactly one of size and scale_factor is given, one entry a spatial
/// dimension; size is the whole grid's.
struct InterpolateArguments {
  std::vector<int64_t> size{};
  std::vector<double> scale_factor{};
  std::string mode = "nearest";  ///< nearest, nearest-exact, linear, bilinear, bicubic, trilinear or area
  std::optional<bool> align_corners{};
  std::optional<bool> recompute_scale_factor{};
  bool antialias = false;
};

/// torch.nn.functional.interpolate of the whole tensor: this rank's rows. Differentiable, twice too. All ranks must
/// call. Rows and columns are weighted by ATen's coordinates: of planes on the CPU in one pass; elsewhere ATen
/// interpolates across the cut.
at::Tensor interpolate(const at::Tensor& x, const InterpolateArguments& arguments, const Cut& cut);

}  // namespace graticule::ops
