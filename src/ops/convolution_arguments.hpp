// What a cut convolution's call is told beside its tensors.
#pragma once

#include <c10/util/ArrayRef.h>

#include <cstdint>
#include <memory>
#include <string_view>

#include "graticule/ops/geometry.hpp"

namespace graticule::ops {

/// The arguments as the ops' schemas have them, in their order.
struct ConvolutionArgumentsView {
  c10::IntArrayRef stride, padding, dilation;
  bool transposed;
  c10::IntArrayRef output_padding;
  int64_t groups;
  c10::IntArrayRef in_offsets, out_offsets;
  int64_t dim;
  std::string_view group, layer;
  rows::Boundary row_boundary, across_boundary;
};

/// The same, checked and kept: one object for all calls with equal arguments.
struct ConvolutionArguments {
  ConvolutionOptions options;
  Placement placement;
  int64_t number;  ///< names it: no other one has had it
};

/// Found in O(1) after the first call with equal arguments. Throws std::invalid_argument for offsets that are no cut.
std::shared_ptr<const ConvolutionArguments> find_arguments(const ConvolutionArgumentsView& view);
std::shared_ptr<const ConvolutionArguments> find_arguments(const ConvolutionOptions& options,
                                                           const Placement& placement);

}  // namespace graticule::ops
