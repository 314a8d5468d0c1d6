// The layers as functions of local tensors: what the modules in C++ and Python call.
//
// Every function takes this rank's rows of a batched tensor (N, C, spatial...), the cut of its input, the cut of its
// output (empty: the input's where the number of rows is the same, else the balanced one), the cut dimension (counted
// from 0, a spatial one), the name of the process group and the layer's name for errors. All ranks of the group must
// call. Arguments are checked against what every rank knows before any message is sent; c10::Error names the layer,
// what was expected, what came and the rank.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string>
#include <vector>

namespace graticule::ops {

/// Where the rows of a call lie.
struct Cut {
  std::vector<int64_t> in_offsets;
  std::vector<int64_t> out_offsets;
  int64_t dim = 2;
  std::string group;
  std::string layer;
};

struct ConvArguments {
  std::vector<int64_t> stride;
  std::vector<int64_t> pad_before;
  std::vector<int64_t> pad_after;
  std::string padding_mode = "zeros";  ///< zeros, reflect, replicate or circular
  std::vector<int64_t> dilation;
  int64_t groups = 1;
};

/// torch.nn.functional.conv1d, conv2d or conv3d after padding as torch.nn.Conv2d pads.
at::Tensor conv(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                const ConvArguments& arguments, const Cut& cut);

struct ConvTransposeArguments {
  std::vector<int64_t> stride;
  std::vector<int64_t> padding;
  std::vector<int64_t> output_padding;
  std::vector<int64_t> dilation;
  int64_t groups = 1;
};

/// torch.nn.functional.conv_transpose1d, 2d or 3d.
at::Tensor conv_transpose(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                          const ConvTransposeArguments& arguments, const Cut& cut);

/// Pads a (N, C, H, W) tensor by circular longitudes (padding[1] columns) and reflected latitudes (padding[0] rows),
/// then conv.
at::Tensor periodic_conv(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                         const ConvArguments& arguments, const std::vector<int64_t>& padding, const Cut& cut);

}  // namespace graticule::ops
