// An interpolation along the cut dimension, worked out once a shape.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "graticule/rows/interval.hpp"
#include "graticule/rows/partition.hpp"
#include "graticule/rows/resampling.hpp"

namespace graticule::ops {

/// What names an interpolation along the cut dimension. `mode` is torch.nn.functional.interpolate's, without the number
/// of dimensions: nearest, nearest-exact, linear, cubic, linear-antialias, cubic-antialias or area.
struct ResamplingKey {
  std::string mode;
  bool align_corners = false;
  std::optional<double> scale;
  bool channels_last = false;  ///< ATen has a nearest kernel of its own for it
  int64_t tensor_dims = 4;
  int64_t dim = 2;
  bool wide = false;  ///< float64
};

struct ResamplingPlan {
  std::vector<rows::Taps<double>> taps;  ///< one for every global output row
  /// The same for the adjoint. They differ where ATen's own forward and backward do: with a scale factor that leaves
  /// the size as it is (antialias: only its forward copies then; nearest: only its backward) or doubles it (nearest).
  std::vector<rows::Taps<double>> adjoint_taps;
  std::vector<rows::Interval> inputs;   ///< input rows that each rank's output rows are made of
  std::vector<rows::Interval> outputs;  ///< output rows that each rank's input rows are part of
};

/// Found in O(1) after the first call with these facts.
std::shared_ptr<const ResamplingPlan> find_resampling_plan(const ResamplingKey& key, const rows::Partition& input,
                                                           const rows::Partition& output, at::Device device);

}  // namespace graticule::ops
