// A layer's call worked out: checked once, found again at every later call with equal facts.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "graticule/comm/domain.hpp"
#include "graticule/ops/geometry.hpp"
#include "graticule/ops/layers.hpp"

namespace graticule::ops {

enum class LayerKind { conv, transposed, periodic };

/// What a layer's call is told beside its tensors, as its schema has it.
struct LayerCallView {
  LayerKind kind;
  at::IntArrayRef stride, pad_before, pad_after;
  std::string_view padding_mode;
  at::IntArrayRef dilation;
  int64_t groups;
  at::IntArrayRef more;  ///< output padding of a transposed convolution; the periodic layer's own padding
  at::IntArrayRef in_offsets, out_offsets;
  int64_t dim;
  std::string_view group, layer;
};

/// Padding that is more than zeros, around the grid, one entry a spatial dimension.
struct Border {
  std::string along;   // the cut: reflect, replicate or circular
  std::string across;  // it
  std::vector<int64_t> before, after;
};

/// The call's arguments in memory of their own.
ConvArguments arguments_of(const LayerCallView& call);
Cut cut_of(const LayerCallView& call);
/// Of a periodic layer, and of a convolution whose padding_mode is not zeros.
Border border_of(const LayerCallView& call);

/// The convolution that such a call is.
struct ReadyConvolution {
  ConvolutionOptions options;
  Placement placement;
  /// Zeros that are put around x across the cut before, one entry a spatial dimension; none where the convolution
  /// takes them all by itself.
  std::vector<int64_t> zeros_before, zeros_after;
};

/// A convolution; or, where no convolution alone does it but one of a padded copy, why.
struct ReadyCall {
  std::optional<ReadyConvolution> convolution;
  const char* copy_reason = "";
};

/// Found in O(1) after the first call with equal facts: arguments, sizes and dtypes. Throws what is wrong with the
/// call, from what every rank knows.
std::shared_ptr<const ReadyCall> find_ready(const at::Tensor& x, const at::Tensor& weight,
                                            const std::optional<at::Tensor>& bias, const LayerCallView& call,
                                            const comm::Domain& domain);

}  // namespace graticule::ops
