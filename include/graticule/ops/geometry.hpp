// A convolution's place on a cut grid.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "graticule/rows/boundary.hpp"
#include "graticule/rows/partition.hpp"
#include "graticule/rows/stencil.hpp"

namespace graticule::ops {

/// The options of a convolution over 1 to 3 spatial dimensions, one entry a dimension. Along the cut dimension
/// `padding` is the number of zero rows before row 0; what lies beyond the last row follows from the number of output
/// rows. Across it, padding is symmetric, as in at::convolution.
struct ConvolutionOptions {
  std::vector<int64_t> stride;
  std::vector<int64_t> padding;
  std::vector<int64_t> dilation;
  bool transposed = false;
  std::vector<int64_t> output_padding;  ///< along the cut the number of output rows says it already
  int64_t groups = 1;
  /// What stands beyond the grid along the cut: zeros, reflect, replicate, or circular where the windows go round
  /// (`rows::goes_round`); of a transposed convolution zeros.
  rows::Boundary row_boundary = rows::Boundary::zeros;
  /// What stands there across the cut: zeros, reflect, replicate or circular.
  rows::Boundary across_boundary = rows::Boundary::zeros;
};

/// Where the rows of a layer lie: its input's cut, its output's cut, the cut dimension, the domain and the layer's
/// name.
struct Placement {
  rows::Partition input;
  rows::Partition output;
  int64_t dim;
  std::string group;
  std::string layer;
};

/// The stencil of these options along the cut dimension.
rows::Stencil stencil(const ConvolutionOptions& options, const at::Tensor& weight, int64_t dim);

}  // namespace graticule::ops
